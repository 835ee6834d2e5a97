"""The Open Inference Protocol as its clients speak it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from app.db import Database
from app.models import service as models
from app.predictions.engine import Engine
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.serving import LABELS, TEMPERATURE
from tests.app.v2 import OTHER, PHOTO, URL, binary, client, files, here, http, tensor
from tests.problems import problem

__all__ = ["client", "here", "http"]  # fixtures


def test_the_server_and_its_models_describe_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    server = client.get_server_metadata()
    assert server["name"] == "graft"
    assert server["extensions"] == ["binary_tensor_data", "classification"]

    model = client.get_model_metadata("insects")
    assert client.get_model_metadata("insects", "1") == model
    assert (model["name"], model["versions"]) == ("insects", ["1"])
    assert {one["name"]: (one["datatype"], one["shape"]) for one in model["inputs"]} == {
        "image": ("BYTES", [-1, 1]),
        "pixels": ("FP32", [-1, 3, 64, 64]),
        "raw_pixels": ("UINT8", [-1, 64, 64, 3]),
    }
    assert {one["name"]: (one["datatype"], one["shape"]) for one in model["outputs"]} == {
        "probabilities": ("FP32", [-1, 2]),
        "logits": ("FP32", [-1, 2]),
        "label": ("BYTES", [-1]),
        "unknown": ("BOOL", [-1]),
        "similarity": ("FP32", [-1]),
    }
    assert json.loads(model["parameters"]["labels"]) == list(LABELS)


def test_all_outputs_come_where_none_is_named(client: triton.InferenceServerClient) -> None:
    found = client.infer("insects@1", [files(PHOTO, OTHER)], request_id="42", parameters={"mine": "yes"})

    assert found.get_response()["id"] == "42"
    assert found.get_response()["model_version"] == "1"
    assert found.get_response()["parameters"] == {"mine": "yes"}
    probabilities, logits = found.as_numpy("probabilities"), found.as_numpy("logits")
    assert probabilities.dtype == logits.dtype == np.float32
    at_temperature = np.exp(logits / TEMPERATURE)
    np.testing.assert_allclose(probabilities, at_temperature / at_temperature.sum(axis=1, keepdims=True), atol=1e-5)
    assert [LABELS[place] for place in probabilities.argmax(axis=1)] == [
        label.decode() for label in found.as_numpy("label")
    ]
    assert found.as_numpy("unknown").dtype == np.bool_
    assert found.as_numpy("unknown").tolist() == (found.as_numpy("similarity") < 0).tolist()


def test_only_what_is_asked_for_comes_each_in_its_way(client: triton.InferenceServerClient) -> None:
    wanted = [
        triton.InferRequestedOutput("label", binary_data=True),
        triton.InferRequestedOutput("similarity", binary_data=False),
        triton.InferRequestedOutput("probabilities", binary_data=False, class_count=9),
        triton.InferRequestedOutput("logits", binary_data=True, class_count=1),
    ]
    found = client.infer("insects", [files(PHOTO, OTHER)], model_version="1", outputs=wanted)

    outputs = found.get_response()["outputs"]
    assert [one["name"] for one in outputs] == ["label", "similarity", "probabilities", "logits"]
    assert ["data" in one for one in outputs] == [False, True, True, False]
    ranked, best = found.as_numpy("probabilities"), found.as_numpy("logits")
    assert ranked.shape == (2, 2)
    assert best.shape == (2, 1)
    for row, label, first in zip(ranked, found.as_numpy("label"), best[:, 0], strict=True):
        (value, place, name), (other, _, _) = (text.split(":") for text in row)
        assert (LABELS[int(place)], name) == (label.decode(), label.decode())
        assert float(value) + float(other) == pytest.approx(1, abs=1e-5)
        assert first.decode().split(":")[1:] == [place, name]


@pytest.mark.parametrize("value", ["true", 1, 0.0])
def test_whether_an_output_is_binary_is_true_or_false(http: httpx.Client, value: Any) -> None:
    one = {"inputs": [tensor()], "outputs": [{"name": "label", "parameters": {"binary_data": value}}]}
    all_ = {"inputs": [tensor()], "parameters": {"binary_data_output": value}}
    places = [problem(http.post(URL, json=body), 422)["errors"][0]["location"] for body in (one, all_)]
    assert places == [
        ["body", "outputs", "label", "parameters", "binary_data"],
        ["body", "parameters", "binary_data_output"],
    ]


def test_an_output_is_as_all_are_where_it_does_not_say_otherwise(http: httpx.Client) -> None:
    def is_binary(*, said: bool | None) -> bool:
        wanted = {"name": "label", "parameters": {"binary_data": said}}
        body = {"inputs": [tensor()], "outputs": [wanted], "parameters": {"binary_data_output": True}}
        return http.post(URL, json=body).headers["content-type"] == "application/octet-stream"

    assert [is_binary(said=said) for said in (None, True, False)] == [True, True, False]


def test_a_body_may_be_one_image_and_nothing_else(http: httpx.Client) -> None:
    asked = {"Inference-Header-Content-Length": "0"}
    alone = http.post(URL, content=PHOTO, headers={**asked, "Content-Type": "application/octet-stream"})

    assert alone.status_code == 200, alone.text
    header = json.loads(alone.content[: int(alone.headers["inference-header-content-length"])])
    assert [one["shape"] for one in header["outputs"]] == [[1, 2], [1, 2], [1], [1], [1]]


def test_a_model_is_ready_once_it_was_loaded(http: httpx.Client, client: triton.InferenceServerClient) -> None:
    client.infer("insects", [files(PHOTO)])

    assert client.is_model_ready("insects")
    assert client.is_model_ready("insects", "1")
    assert not client.is_model_ready("insects", "2")
    assert http.get("/v2/models/insects/ready").json() == {"name": "insects", "ready": True}


def test_a_model_that_was_never_loaded_begins_to_when_it_is_asked_whether_it_is_ready(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("cold")
    given = Settings(data_dir=folder / "data", database_url=sqlite_url(folder), threads=1)
    with serving.listening(given) as cold, httpx.Client(base_url=cold.url, timeout=60) as http:
        first = problem(http.get("/v2/models/insects/ready"), 503)
        assert first["code"] == "model_loading"
        deadline = time.monotonic() + 60
        while not (answer := http.get("/v2/models/insects/ready")).is_success:
            assert problem(answer, 503)["code"] == "model_loading"
            assert time.monotonic() < deadline
        assert answer.json() == {"name": "insects", "ready": True}


def test_the_server_is_ready_once_what_it_keeps_in_memory_was_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("kept")
    given = Settings(data_dir=folder / "data", database_url=sqlite_url(folder), threads=1)
    with serving.listening(given) as first, httpx.Client(base_url=first.url, timeout=60) as http:
        put = http.put("/v1/models/insects/aliases/production", json={"version": 1, "keep_loaded": True})
        assert put.status_code == 201, put.text
        manifest = next((folder / "data" / "models").glob("*/artifact.json"))
    content = manifest.read_text()
    manifest.unlink()
    os.mkfifo(manifest)  # whoever loads it waits
    with serving.started(given) as again, httpx.Client(base_url=again.url, timeout=60) as http:
        early = http.get("/v2/health/ready")
        with manifest.open("w") as pipe:
            manifest.unlink()
            manifest.write_text(content)
            pipe.write(content)
        assert problem(early, 503)["code"] == "model_loading"
        deadline = time.monotonic() + 60
        while not (answer := http.get("/v2/health/ready")).is_success:
            assert problem(answer, 503)["code"] == "model_loading"
            assert time.monotonic() < deadline
        assert answer.json() == {"ready": True}


def test_a_process_that_is_not_asked_for_predictions_keeps_no_models(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=1)
    with serving.listening(given) as first, httpx.Client(base_url=first.url, timeout=60) as http:
        put = http.put("/v1/models/insects/aliases/production", json={"version": 1, "keep_loaded": True})
        assert put.status_code == 201, put.text
    with (
        serving.started(given, keeps_loaded=False) as again,
        httpx.Client(base_url=again.url, timeout=60) as http,
    ):
        assert http.get("/v2/health/ready").json() == {"ready": True}
        assert "graft_loaded_models 0.0" in http.get("/metrics").text
        assert http.post(URL, content=PHOTO, headers={"Inference-Header-Content-Length": "0"}).status_code == 200
        assert "graft_loaded_models 1.0" in http.get("/metrics").text


def test_an_alias_is_described_by_who_answers(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=1)
    with serving.listening(given) as here, httpx.Client(base_url=here.url, timeout=60) as http:
        alias, production = "/v1/models/insects/aliases/production", "/v2/models/insects:production"
        made = http.put(alias, json={"version": 1})
        body = {"inputs": [tensor()]}
        assert http.post(f"{production}/infer", json=body).json()["model_version"] == "1"
        dataset_id = http.get("/v1/datasets").json()["data"][0]["id"]
        _register_one_that_does_not_load(given, dataset_id)
        assert http.put(alias, json={"version": 2}, headers={"If-Match": made.headers["etag"]}).is_success

        assert http.post(f"{production}/infer", json=body).json()["model_version"] == "1"
        described = [http.get(f"/v2/models/{one}").json() for one in ("insects:production", "insects@2")]
        assert [one["parameters"]["version"] for one in described] == ["1", "2"]
        assert [len(one["outputs"]) for one in described] == [5, 3]
        assert [one["versions"] for one in described] == [["2", "1"]] * 2


def _register_one_that_does_not_load(settings: Settings, dataset_id: str) -> None:
    """Without a calibration, too."""
    version_id = models.new_version_id()
    folder = Storage(settings.data_dir).model_version(version_id)
    factories.write_artifact(folder)
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(b"damaged")
    database = Database(settings.sqlalchemy_url)
    factories.register_version(database, version_id, dataset_id, labels=LABELS)
    database.close()


def test_a_call_that_cannot_be_in_time_is_told_so(http: httpx.Client) -> None:
    def call(microseconds: int) -> httpx.Response:
        return http.post(URL, json={"inputs": [tensor()], "parameters": {"timeout": microseconds}})

    assert problem(call(1), 503)["code"] == "deadline_exceeded"
    assert call(60_000_000).is_success
    assert call(0).is_success
    too_short = http.post(URL, json={"inputs": [tensor()]}, headers={"X-Request-Timeout": "0"})
    assert problem(too_short, 422)["errors"][0]["location"] == ["header", "X-Request-Timeout"]


def test_time_that_only_the_body_names_is_not_taken_for_less(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[float] = []
    monkeypatch.setattr(Engine, "check", lambda _self, _version, *, timeout_seconds: checked.append(timeout_seconds))
    body = {"inputs": [tensor()], "parameters": {"timeout": 60_000_000}}
    assert http.post(URL, json=body).is_success
    assert http.post(URL, json=body, headers={"X-Request-Timeout": "30"}).is_success
    assert checked == [3600, 30]


def test_lists_are_flat_or_nested_as_the_shape_says(http: httpx.Client) -> None:
    nested = [[[[127] * 3] * 64] * 64]
    answers = [http.post(URL, json={"inputs": [tensor(data=data)]}) for data in ([127] * 64 * 64 * 3, nested)]
    assert answers[0].json()["outputs"] == answers[1].json()["outputs"]


def test_binary_tensors_have_as_many_numbers_as_they_like(http: httpx.Client) -> None:
    pixels = {**tensor(shape=[5, 64, 64, 3], data=None), "parameters": {"binary_data_size": 5 * 64 * 64 * 3}}
    assert http.post(URL, **binary({"inputs": [pixels]}, bytes(5 * 64 * 64 * 3))).status_code == 200
    whole = tensor(shape=[4, 64, 64, 3], data=[127] * 4 * 64 * 64 * 3)
    assert http.post(URL, json={"inputs": [whole]}).status_code == 200


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/healthz", "/readyz"])
def test_probes_may_ask_for_the_head_alone(http: httpx.Client, path: str) -> None:
    answer = http.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
