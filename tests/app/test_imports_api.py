"""Imports over HTTP: what is received, and what is refused at the door."""

import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app.conftest import Bell
from tests.problems import problem

ZIP = {"Content-Type": "application/zip"}


def on_disk(files: Storage) -> list[str]:
    return sorted(str(path.relative_to(files.root)) for path in files.root.rglob("*") if path.is_file())


def test_an_archive_is_stored_and_its_job_rung_for(
    http: TestClient, dataset_id: str, files: Storage, bell: Bell, tmp_path: Path
) -> None:
    body = factories.zip_of(tmp_path, factories.photos()).read_bytes()
    answer = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=ZIP)

    assert answer.status_code == 202
    accepted = answer.json()
    assert (accepted["size_bytes"], accepted["file_name"]) == (len(body), None)
    assert accepted["job"]["state"] == "queued"
    assert answer.headers["location"] == f"/v1/jobs/{accepted['job']['id']}"
    assert bell.rung == [("cpu", accepted["job"]["id"])]
    assert on_disk(files) == [f"archives/{accepted['id']}"]
    assert files.archive(accepted["id"]).read_bytes() == body


def test_a_form_does_as_well_as_a_raw_body(http: TestClient, dataset_id: str, tmp_path: Path) -> None:
    path = factories.tar_of(tmp_path, factories.photos())
    answer = http.post(f"/v1/datasets/{dataset_id}/imports", files={"file": ("my photos.tar.gz", path.read_bytes())})

    assert answer.status_code == 202
    assert answer.json()["file_name"] == "my photos.tar.gz"


def test_one_import_at_a_time_and_a_cancelled_one_leaves_nothing(
    http: TestClient, dataset_id: str, files: Storage, tmp_path: Path
) -> None:
    body = factories.zip_of(tmp_path, factories.photos()).read_bytes()
    first = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=ZIP)
    second = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=ZIP)
    assert problem(second, 409)["code"] == "import_in_progress"

    http.post(f"/v1/jobs/{first.json()['job']['id']}/cancel")
    assert on_disk(files) == []
    third = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=ZIP)
    assert third.status_code == 202


def test_who_trains_while_the_first_photos_are_imported_is_told_what_to_wait_for(
    http: TestClient, dataset_id: str, tmp_path: Path
) -> None:
    body = factories.zip_of(tmp_path, factories.photos()).read_bytes()
    job_id = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=ZIP).json()["job"]["id"]
    wanted = {"dataset": dataset_id, "model": "m", "recipe": {"backbone": "formnet"}}

    document = problem(http.post("/v1/jobs", json=wanted), 409)

    assert document["code"] == "dataset_has_no_version"
    assert f"its newest import is {job_id}: wait for that job" in document["detail"]


def test_an_upload_repeated_with_its_key_is_one_import(http: TestClient, dataset_id: str, tmp_path: Path) -> None:
    body = factories.zip_of(tmp_path, factories.photos()).read_bytes()
    answers = [
        http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers={**ZIP, "Idempotency-Key": "once"})
        for _ in range(2)
    ]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]


def test_an_upload_beside_another_import_is_refused_before_it_is_received(
    http: TestClient, dataset_id: str, tmp_path: Path
) -> None:
    path = f"/v1/datasets/{dataset_id}/imports"
    body = factories.zip_of(tmp_path, factories.photos()).read_bytes()
    assert http.post(path, content=body, headers={**ZIP, "Idempotency-Key": "once"}).status_code == 202

    for key in ({}, {"Idempotency-Key": "another"}):
        assert (
            problem(http.post(path, content=b"no archive", headers={**ZIP, **key}), 409)["code"] == "import_in_progress"
        )


@pytest.mark.parametrize(
    ("files_in_zip", "code"),
    [
        ({"ants/1.jpg": b"1", "ants/2.jpg": b"2"}, "single_class"),
        ({"ants/1.jpg": b"1", "bees/1.jpg": b"2", "wasps/": b""}, "empty_class"),
        ({"ants/1.jpg": b"1", "../../etc/cron.d/x": b"2"}, "unsafe_path"),
        ({"1.jpg": b"1"}, "no_class_folders"),
    ],
)
def test_a_useless_zip_is_refused_at_once_and_leaves_nothing(
    http: TestClient,
    dataset_id: str,
    files: Storage,
    bell: Bell,
    tmp_path: Path,
    files_in_zip: dict[str, bytes],
    code: str,
) -> None:
    body = factories.zip_of(tmp_path, files_in_zip).read_bytes()
    answer = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=ZIP)

    assert problem(answer, 422)["code"] == code
    assert on_disk(files) == []
    assert bell.rung == []
    assert http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "bad_archive"), (b"not a zip at all", "not_an_archive"), (b"PK\x03\x04" + bytes(99), "broken_archive")],
)
def test_what_is_no_archive_is_refused_at_once(
    http: TestClient, dataset_id: str, files: Storage, body: bytes, code: str
) -> None:
    answer = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=ZIP)

    assert problem(answer, 422)["code"] == code
    assert on_disk(files) == []


def test_a_body_over_the_limit_is_refused_and_leaves_nothing(
    http: TestClient, dataset_id: str, files: Storage, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a/1.jpg", b"\0" * (settings.max_archive_bytes + 1))
    answer = http.post(f"/v1/datasets/{dataset_id}/imports", content=path.read_bytes(), headers=ZIP)
    assert problem(answer, 413)["max_bytes"] == settings.max_archive_bytes

    def pieces() -> object:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece

    unannounced = http.post(f"/v1/datasets/{dataset_id}/imports", content=pieces(), headers=ZIP)  # type: ignore[arg-type]
    assert problem(unannounced, 413)["code"] == "too_large"
    assert on_disk(files) == []


def test_other_media_types_and_missing_files_are_told(http: TestClient, dataset_id: str) -> None:
    url = f"/v1/datasets/{dataset_id}/imports"
    assert problem(http.post(url, content=b"x", headers={"Content-Type": "text/html"}), 415)
    assert problem(http.post(url, files={"archive": b"x"}), 422)["code"] == "unknown_form_field"
    no_boundary = http.post(url, content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert problem(no_boundary, 422)["code"] == "broken_form"


def test_imports_into_nowhere_are_not_received(http: TestClient) -> None:
    answer = http.post("/v1/datasets/ds_none/imports", content=b"x", headers=ZIP)

    assert problem(answer, 404)["code"] == "dataset_not_found"
