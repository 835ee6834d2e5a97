"""The main job as a user does it, over HTTP alone: upload labelled photos, fine-tune, watch, predict."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests import factories
from tests.e2e import service
from tests.e2e.conftest import ELSEWHERE
from tests.e2e.service import Service
from tests.problems import problem


@pytest.fixture(scope="module")
def http(running: Service) -> Iterator[httpx.Client]:
    with running.http() as client:
        yield client


@pytest.fixture(scope="module")
def unique(running: Service) -> str:
    """Part of names, so that a service that runs elsewhere can be tested again and again."""
    return f"{service.free_port()}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of three classes, with some files that are no use."""
    photos = factories.photos(classes=3, each=16)
    bad = {
        "red/notes.txt": b"no image",
        "red/empty.jpg": b"",
        "green/cut.jpg": photos["green/001.jpg"][:300],
        "green/again.jpg": photos["green/001.jpg"],
        "blue/.DS_Store": b"x",
    }
    return factories.zip_of(tmp_path_factory.mktemp("archive"), {**photos, **bad})


@pytest.fixture(scope="module")
def dataset_id(http: httpx.Client, archive: Path, unique: str) -> str:
    identifier = service.create_dataset(http, name=f"colours {unique}", validation_fraction=0.25)
    job_id = service.upload(http, identifier, archive)["job"]["id"]
    service.succeeded(http, job_id)
    return identifier


@pytest.fixture(scope="module")
def model(http: httpx.Client, dataset_id: str, unique: str) -> str:
    name = f"colours-{unique}"
    recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 6}
    job = service.succeeded(http, service.train(http, dataset_id, name, **recipe)["id"])
    assert job["result"]["model"] == name
    return name


def test_the_import_made_version_1_and_tells_what_it_refused(http: httpx.Client, dataset_id: str) -> None:
    version = http.get(f"/v1/datasets/{dataset_id}/versions/1").json()
    assert version["labels"] == ["blue", "green", "red"]
    assert version["counts"] == {label: {"train": 12, "validation": 4} for label in version["labels"]}

    (made,) = http.get(f"/v1/datasets/{dataset_id}/imports").json()["data"]
    assert (made["accepted"], made["refused"], made["ignored"], made["version"]) == (48, 4, 1, 1)
    refused = http.get(f"/v1/datasets/{dataset_id}/imports/{made['id']}/refused").json()["data"]
    assert {item["path"]: item["code"] for item in refused} == {
        "red/notes.txt": "not_an_image",
        "red/empty.jpg": "empty_image",
        "green/cut.jpg": "broken_image",
        "green/again.jpg": "duplicate",
    }
    assert all(item["message"] for item in refused)


def test_more_photos_make_the_next_version_and_the_old_one_stays(http: httpx.Client, tmp_path: Path) -> None:
    identifier = service.create_dataset(http, name=f"growing {service.free_port()}")
    first = factories.zip_of(tmp_path, factories.photos(classes=2, each=5))
    service.succeeded(http, service.upload(http, identifier, first)["job"]["id"])
    more = {f"yellow/{n}.jpg": factories.image((220, 220, 40), seed=n) for n in range(5)}
    second = factories.zip_of(tmp_path, more)
    job = service.succeeded(http, service.upload(http, identifier, second)["job"]["id"])

    assert job["result"]["dataset_version"] == 2
    versions = http.get(f"/v1/datasets/{identifier}/versions").json()["data"]
    assert [(version["number"], version["images"], version["labels"]) for version in versions] == [
        (2, 15, ["green", "red", "yellow"]),
        (1, 10, ["green", "red"]),
    ]


def test_a_training_tells_its_story(http: httpx.Client, model: str, dataset_id: str) -> None:
    jobs = http.get("/v1/jobs", params={"dataset": dataset_id}).json()["data"]
    job = next(job for job in jobs if job["kind"] == "train")  # an optimisation may have followed
    types = [event["type"] for event in service.follow(http, job["id"])]

    assert types[:2] == ["queued", "attempt_started"]
    assert types.count("epoch_finished") == 6
    assert types[-1] == "succeeded"
    version = http.get(f"/v1/models/{model}/versions/1").json()
    assert version["labels"] == ["blue", "green", "red"]
    assert version["evaluation"]["images"] == 12
    assert version["provenance"]["dataset"] == {
        "id": dataset_id,
        "version": 1,
        "content_hash": http.get(f"/v1/datasets/{dataset_id}/versions/1").json()["content_hash"],
    }


def test_a_model_comes_with_a_whole_evaluation_pictures_and_a_card(http: httpx.Client, model: str) -> None:
    url = f"/v1/models/{model}/versions/1"
    answer = http.get(f"{url}/evaluation").json()
    figures, brief = answer["figures"], http.get(url).json()["evaluation"]

    assert {name: figures[name] for name in brief} == brief
    assert figures["reliability"]["after"]["log_loss"] <= figures["reliability"]["before"]["log_loss"]
    assert [one["label"] for one in figures["unknown"]["left_out"]] == ["blue", "green", "red"]
    assert figures["also_chosen_by"] is False  # nothing competed with the network after the last epoch
    assert len(figures["mistakes"]) == round((1 - figures["accuracy"]) * 12)
    for place in range(len(figures["mistakes"])):
        assert Image.open(io.BytesIO(http.get(f"{url}/evaluation/mistakes/{place}.jpg").content)).format == "JPEG"
    for name in answer["pictures"]:
        assert http.get(f"{url}/evaluation/{name}.svg").headers["content-type"] == "image/svg+xml"
    assert model in http.get(f"{url}/card").text


@pytest.mark.parametrize("colour", sorted(factories.COLOURS))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_new_photo_gets_its_label(http: httpx.Client, model: str, colour: str, kind: str) -> None:
    photo = factories.image(factories.COLOURS[colour], seed=999, kind=kind)
    headers = {"Content-Type": f"image/{kind.lower()}"}
    answer = http.post(f"/v1/models/{model}/predict", content=photo, headers=headers)

    assert answer.status_code == 200, answer.text
    labels = answer.json()["predictions"][0]["labels"]
    assert labels[0]["label"] == colour
    assert len(labels) == 3
    assert sum(item["probability"] for item in labels) == pytest.approx(1)


def test_all_forms_of_a_request_give_the_same_answer(http: httpx.Client, model: str) -> None:
    photos = [factories.image(colour, seed=77) for colour in factories.COLOURS.values()]
    url = f"/v1/models/{model}@1/predict"
    raw = [
        http.post(url, content=photo, headers={"Content-Type": "image/jpeg"}).json()["predictions"][0]
        for photo in photos
    ]
    form = http.post(url, files=[("file", (f"{n}.jpg", photo)) for n, photo in enumerate(photos)]).json()
    encoded = {"images": [{"b64": base64.b64encode(photo).decode()} for photo in photos]}
    as_json = http.post(url, json=encoded).json()

    for answer in (form, as_json):
        assert (answer["model"], answer["version"]) == (model, 1)
        for prediction, expected in zip(answer["predictions"], raw, strict=True):
            for got, wanted in zip(prediction["labels"], expected["labels"], strict=True):
                assert got["label"] == wanted["label"]
                assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-5)


def test_top_k_limits_the_labels(http: httpx.Client, model: str) -> None:
    photo = factories.image((200, 40, 40))
    headers = {"Content-Type": "image/jpeg"}
    answer = http.post(f"/v1/models/{model}/predict?top_k=1", content=photo, headers=headers)

    assert len(answer.json()["predictions"][0]["labels"]) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_image"),
        (b"this is no image", "not_an_image"),
        (factories.image((1, 2, 3))[:200], "broken_image"),
    ],
)
def test_a_body_that_is_no_image_is_a_problem(http: httpx.Client, model: str, body: bytes, code: str) -> None:
    answer = http.post(f"/v1/models/{model}/predict", content=body, headers={"Content-Type": "image/jpeg"})

    assert problem(answer, 422)["code"] == code


def test_a_bomb_of_a_hundred_megapixels_is_refused_by_its_header(http: httpx.Client, model: str) -> None:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    answer = http.post(f"/v1/models/{model}/predict", content=buffer.getvalue(), headers={"Content-Type": "image/png"})

    document = problem(answer, 422)
    assert document["code"] == "image_too_large"
    assert "10000 x 10000" in document["detail"]


def test_predicting_with_what_does_not_exist_is_a_problem(http: httpx.Client, model: str) -> None:
    photo, headers = factories.image((1, 2, 3)), {"Content-Type": "image/jpeg"}
    for reference, code in (
        ("no-such-model", "model_not_found"),
        (f"{model}@9", "model_version_not_found"),
        (f"{model}@x", "model_not_found"),
    ):
        answer = http.post(f"/v1/models/{reference}/predict", content=photo, headers=headers)
        assert problem(answer, 404)["code"] == code


def test_other_media_types_and_broken_json_are_problems(http: httpx.Client, model: str) -> None:
    url = f"/v1/models/{model}/predict"
    assert problem(http.post(url, content=b"x", headers={"Content-Type": "text/plain"}), 415)
    assert problem(http.post(url, json={"images": [{"b64": "?"}]}), 422)["code"] == "not_base64"
    assert problem(http.post(url, json={"images": []}), 422)["code"] == "invalid_request"
    assert problem(http.post(url, json={"pictures": []}), 422)["code"] == "invalid_request"
    second = {"images": [{"b64": base64.b64encode(data).decode()} for data in (factories.image((1, 2, 3)), b"x")]}
    assert problem(http.post(url, json=second), 422)["image"] == 1


def test_a_class_of_which_no_image_can_be_used_fails_the_import(http: httpx.Client, tmp_path: Path) -> None:
    identifier = service.create_dataset(http, name=f"half {service.free_port()}")
    path = factories.zip_of(tmp_path, {**factories.photos(classes=1), "wasps/1.jpg": b"no image"})
    accepted = service.upload(http, identifier, path)
    job = service.finished(http, accepted["job"]["id"])

    assert job["state"] == "failed"
    assert job["error"]["code"] == "empty_class"
    assert "'wasps'" in job["error"]["message"]
    refused = http.get(f"/v1/datasets/{identifier}/imports/{accepted['id']}/refused").json()["data"]
    assert [item["path"] for item in refused] == ["wasps/1.jpg"]
    assert http.get(f"/v1/datasets/{identifier}").json()["latest_version"] is None


@pytest.mark.skipif(bool(ELSEWHERE), reason="a service elsewhere may have the weights, or fetch them")
def test_weights_that_cannot_be_had_fail_the_job_and_say_what_was_tried(http: httpx.Client, dataset_id: str) -> None:
    job = service.finished(http, service.train(http, dataset_id, "never", backbone="resnet50")["id"])

    assert job["state"] == "failed"
    assert job["error"]["code"] == "weights_unavailable"
    assert len(job["error"]["detail"]["tried"]) == 3
    assert problem(http.get("/v1/models/never"), 404)["code"] == "model_not_found"


def test_a_running_training_is_cancelled_and_leaves_no_model(http: httpx.Client, dataset_id: str) -> None:
    recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 1000}
    job = service.train(http, dataset_id, "cancelled-one", **recipe)
    service.wait_for_event(http, job["id"], "epoch_finished")
    assert http.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelling"
    ended = service.finished(http, job["id"])

    assert ended["state"] == "cancelled"
    assert problem(http.get("/v1/models/cancelled-one"), 404)
