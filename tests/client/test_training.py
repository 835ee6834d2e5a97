"""`graft train` with the service itself, whose disk has room for no photos."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fastapi.testclient import TestClient

from tests.app.conftest import api, bell, built, dataset_id, http, sqlite_url, versioned
from tests.app.test_bases_api import base
from tests.client import answering
from tests.client.test_cli import plainly_refused

__all__ = ["api", "base", "bell", "built", "dataset_id", "http", "versioned"]


class Service(answering.Server):
    def __init__(self, http: TestClient) -> None:
        super().__init__(_Handler)
        self.http = http


class _Handler(answering.Handler):
    server: Service

    def _pass_on(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/imports"):
            self.answer(507, msgspec.json.encode({"detail": "no room for photos", "code": "no_room"}))
            return
        told = self.server.http.request(self.command, self.path, content=sent, headers=dict(self.headers))
        self.answer(told.status_code, told.content)

    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        self._pass_on()

    def do_DELETE(self) -> None:  # noqa: N802 -- as http.server calls it
        self._pass_on()

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self._pass_on()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def service(http: TestClient) -> Iterator[Service]:
    with answering.serving(Service(http)) as here:
        yield here


@pytest.fixture
def photos(tmp_path: Path) -> str:
    folder = tmp_path / "photos"
    (folder / "ants").mkdir(parents=True)
    (folder / "ants" / "1.jpg").write_bytes(b"ant")
    return str(folder)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--model", "Insects"], "'Insects' is no name of a model: those have 63 characters at the most, lower-case"),
        (["--model", "insects", "--backbone", "mobilnet_v2"], "did you mean mobilenet_v2"),
        (["--model", "insects", "--strategy", "haed"], "Error: --strategy: Input should be 'auto', 'head'"),
        (["--model", "insects", "--strategy", "top", "--freeze", "stage99"], "no stage 'stage99'"),
        (["--model", "insects", "--strategy", "head", "--layer-decay", "1"], "Error: --layer-decay: not for strategy"),
        (["--model", "insects", "--max-latency", "9"], "Error: --max-latency, --max-size: only for backbone 'auto'"),
        (["--model", "insects", "--label-map", "a=b"], "Error: --label-map: only with a base"),
        (["--model", "insects", "--backbone", "auto", "--freeze", "stage99"], "no stage 'stage99'"),
    ],
)
def test_what_no_photos_would_make_right_is_refused_before_they_are_sent(
    service: Service, photos: str, asked: list[str], said: str
) -> None:
    told = plainly_refused("train", photos, *asked, "--url", service.url)

    assert said in told
    assert "^" not in told
    assert service.http.get("/v1/datasets").json()["data"] == []


def test_what_photos_may_make_right_is_asked_for_with_them(service: Service, photos: str) -> None:
    assert "no room for photos" in plainly_refused("train", photos, "--model", "insects", "--url", service.url)
    assert service.http.get("/v1/jobs").json()["data"] == []


def test_a_data_set_that_was_there_stays_where_photos_are_refused_and_none_is_left_that_was_not(
    service: Service, photos: str
) -> None:
    assert service.http.post("/v1/datasets", json={"name": "insects"}).status_code == 201
    for name in ("insects", "flowers"):
        plainly_refused("train", photos, "--model", name, "--url", service.url)

    assert [dataset["name"] for dataset in service.http.get("/v1/datasets").json()["data"]] == ["insects"]


@pytest.mark.parametrize("told", [[], ["--label-map", "wasps=hornets"], ["--backbone", "formnet"]])
def test_folders_of_which_the_base_knows_none_are_refused_before_they_are_sent(
    service: Service, photos: str, base: str, told: list[str]
) -> None:
    said = plainly_refused("train", photos, "--model", "more", "--base", base, *told, "--url", service.url)

    assert "the base knows none of the labels: it has wasps, bees, and" in said
    assert "the folders ants; name those that were renamed with --label-map" in said
    assert [dataset["name"] for dataset in service.http.get("/v1/datasets").json()["data"]] == ["photos"]


@pytest.mark.parametrize("told", [["--label-map", "wasps=ants"], ["--dataset", "photos"]])
def test_folders_or_a_data_set_with_a_label_that_the_base_knows_are_sent(
    service: Service, photos: str, base: str, told: list[str]
) -> None:
    asked = ("train", photos, "--model", "more", "--base", base, *told, "--url", service.url)
    assert "no room for photos" in plainly_refused(*asked)
