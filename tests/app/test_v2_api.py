"""The Open Inference Protocol as its clients speak it, and what is said of requests that are wrong."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from app.db import Database
from app.models import service as models
from app.predictions.engine import Engine
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.serving import LABELS, TEMPERATURE, Listening
from tests.problems import problem

PHOTO = factories.image(factories.COLOURS["red"])
OTHER = factories.image(factories.COLOURS["blue"])
URL = "/v2/models/insects/infer"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("serving")
    given = Settings(
        data_dir=folder / "data",
        database_url=sqlite_url(folder),
        threads=1,
        max_images_per_predict=8,
        max_image_bytes=1_000_000,
        max_predict_bytes=3_000_000,
        max_json_numbers=50_000,
    )
    with serving.listening(given) as found:
        yield found


@pytest.fixture
def client(here: Listening) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(here.address) as found:
        yield found


@pytest.fixture
def http(here: Listening) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=here.url, timeout=60) as found:
        yield found


def files(*photos: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(photos), 1], "BYTES")
    return tensor.set_data_from_numpy(np.array(photos, np.object_)[:, None])


def tensor(**changed: Any) -> dict[str, Any]:
    """An input in JSON that is right but for what is changed."""
    pixels = {"name": "raw_pixels", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": [127] * 64 * 64 * 3}
    return {name: value for name, value in {**pixels, **changed}.items() if value is not None}


def binary(header: dict[str, Any], behind: bytes, length: int | None = None) -> dict[str, Any]:
    encoded = json.dumps(header).encode()
    return {
        "content": encoded + behind,
        "headers": {"Inference-Header-Content-Length": str(len(encoded) if length is None else length)},
    }


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


def test_clients_find_what_is_wrong_where_they_look_for_it(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="did you mean") as raised:
        client.infer("insects", [files(PHOTO)], outputs=[triton.InferRequestedOutput("probability")])
    assert raised.value.status() == "422"
    with pytest.raises(InferenceServerException, match="no model 'bugs'"):
        client.infer("bugs", [files(PHOTO)])


def test_clients_are_told_which_of_several_images_is_wrong(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="image 1: not a JPEG"):
        client.infer("insects", [files(PHOTO, b"xx")])
    with pytest.raises(InferenceServerException, match="] not a JPEG"):
        client.infer("insects", [files(b"xx")])
    pixels = triton.InferInput("pixels", [2, 3, 64, 64], "FP32")
    for right, wrong in ((0, 1e6), (1e6, 0)):
        values = np.stack([np.full((3, 64, 64), value, np.float32) for value in (right, wrong)])
        with pytest.raises(InferenceServerException, match=f"image {int(wrong > right)}: values that are none"):
            client.infer("insects", [pixels.set_data_from_numpy(values)])
    small = triton.InferInput("raw_pixels", [2, 8, 8, 3], "UINT8").set_data_from_numpy(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(InferenceServerException, match=r"image [01]: pixels of 8 x 8"):
        client.infer("insects", [small])


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("unknown_input", {"name": "photo"}),
        ("wrong_datatype", {"datatype": "FP32"}),
        ("wrong_datatype", {"datatype": "käse"}),
        ("wrong_shape", {"shape": [64, 64, 3]}),
        ("wrong_shape", {"shape": [1, 3, 64, 64]}),
        ("wrong_shape", {"shape": [0, 64, 64, 3]}),
        ("wrong_shape", {"shape": [1, -64, -64, 3]}),
        ("wrong_shape", {"shape": []}),
        ("wrong_shape", {"shape": [1, 10**2200, 10**2200, 3]}),
        ("wrong_shape", {"shape": [1, 10**4200, 2**63, 3], "data": None, "parameters": {"binary_data_size": 0}}),
        ("wrong_image_size", {"shape": [1, 32, 128, 3]}),
        ("wrong_data_length", {"shape": [2, 64, 64, 3]}),
        ("wrong_data_length", {"data": []}),
        ("wrong_data_length", {"shape": [1, 10**18, 10**18, 3]}),
        ("too_many_images", {"shape": [1000, 64, 64, 3]}),
        ("not_numbers", {"data": ["127"] * 12}),
        ("not_numbers", {"data": [True] * 12}),
        ("not_numbers", {"data": [{"a": 1}]}),
        ("not_numbers", {"data": [10**30]}),
        ("wrong_shape", {"data": [[[[127] * 64] * 64] * 3]}),
        ("wrong_shape", {"data": [[127] * 64 * 64 * 3]}),
        ("ragged_array", {"data": [[1, 2, 3], [4, 5, 6, 7]]}),
        ("not_uint8", {"data": [0.5] * 64 * 64 * 3}),
        ("not_uint8", {"data": [256] * 64 * 64 * 3}),
        ("not_uint8", {"data": [256.0] * 64 * 64 * 3}),
        ("not_uint8", {"data": [-1.0] * 64 * 64 * 3}),
        ("not_images", {"data": [[] for _ in range(1000)]}),
        ("not_images", {"data": ["" for _ in range(1000)]}),
        ("too_many_numbers", {"shape": [5, 64, 64, 3], "data": [127] * 5 * 64 * 64 * 3}),
        ("too_many_numbers", {"data": [" " * 1600] * 1001}),
        ("tensor_data_missing", {"data": None}),
        ("tensor_data_twice", {"parameters": {"binary_data_size": 0}}),
        ("wrong_binary_data_size", {"parameters": {"binary_data_size": 7}}),
        ("invalid_request", {"parameters": {"binary_data_size": -1}}),
        ("invalid_request", {"parameters": {"binary_data_size": True}}),
        ("invalid_request", {"parameters": {"binary_data_size": [1]}}),
        ("shared_memory", {"parameters": {"shared_memory_region": "mine"}}),
        ("not_base64", {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["?"]}),
        ("empty_image", {"name": "image", "datatype": "BYTES", "shape": [1], "data": [""]}),
        ("not_an_image", {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [["AAAA"]]}),
        ("wrong_shape", {"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": [["AAAA", "AAAA"]]}),
        ("wrong_shape", {"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": [["AAAA"], "AAAA"]}),
        ("wrong_shape", {"name": "image", "datatype": "BYTES", "shape": [1], "data": [["AAAA"]]}),
        ("not_texts", {"name": "image", "datatype": "BYTES", "shape": [1], "data": [7]}),
        ("wrong_data_length", {"name": "image", "datatype": "BYTES", "shape": [2], "data": ["AAAA"]}),
        ("too_large", {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["A" * 2_000_000]}),
        ("not_normalised", {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 64, 64]}),
        ("not_normalised", {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": [1e300] * 12288}),
        ("wrong_image_size", {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 2, 2], "data": [1e6] * 12}),
    ],
)
def test_each_wrong_tensor_has_a_code_that_says_what_is_wrong(
    http: httpx.Client, code: str, changed: dict[str, Any]
) -> None:
    document = problem(answer := http.post(URL, json={"inputs": [tensor(**changed)]}), answer.status_code)

    assert document["code"] == code, document
    assert document["status"] == (413 if code in ("too_many_images", "too_large", "too_many_numbers") else 422)
    assert document["error"] == document["detail"]


def test_lists_are_flat_or_nested_as_the_shape_says(http: httpx.Client) -> None:
    nested = [[[[127] * 3] * 64] * 64]
    answers = [http.post(URL, json={"inputs": [tensor(data=data)]}) for data in ([127] * 64 * 64 * 3, nested)]
    assert answers[0].json()["outputs"] == answers[1].json()["outputs"]


def test_what_there_is_too_much_or_too_little_of_is_told_exactly(http: httpx.Client) -> None:
    def said(**request: Any) -> str:
        detail: str = problem(http.post(URL, **request), 422)["detail"]
        return detail

    assert said(json={"inputs": [tensor(data=[1] * 49_999)]}).endswith("has 12288 elements, and there are 49999")
    pixels = binary(with_size(PIXELS, 49_151), bytes(49_151))
    assert said(**pixels).endswith("of shape [1, 3, 64, 64] has 49152 bytes, and there are 49151")


def test_a_number_that_is_none_is_told_with_its_place(http: httpx.Client) -> None:
    body = json.dumps({"inputs": [tensor(data=[1, 8888])]}).replace("8888", "1e999")
    (wrong,) = problem(http.post(URL, content=body), 422)["errors"]
    assert wrong["location"] == ["body", "inputs", 0, "data", 1]
    rows = http.post("/v1/models/insects:predict", content='{"instances": [[[[1, 2, 1e999]]]]}')
    assert problem(rows, 422)["errors"][0]["location"] == ["body", "instances", 0, 0, 0, 2]


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/octet-stream"}], ids=["none", "binary"])
def test_what_is_wrong_with_json_is_told_whatever_it_is_sent_as(http: httpx.Client, headers: dict[str, str]) -> None:
    length = {"Inference-Header-Content-Length": "2"}
    assert "`inputs`" in problem(http.post(URL, content=b"{}", headers={**headers, **length}), 422)["detail"]


IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES"}
AS_BINARY = {"Content-Type": "application/octet-stream"}
PIXELS = {"name": "pixels", "shape": [1, 3, 64, 64], "datatype": "FP32"}


def with_size(described: dict[str, Any], size: int) -> dict[str, Any]:
    return {"inputs": [{**described, "parameters": {"binary_data_size": size}}]}


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        ("invalid_request", {"content": PHOTO, "headers": {"Inference-Header-Content-Length": "x"}}),
        ("invalid_request", {"content": PHOTO, "headers": {"Inference-Header-Content-Length": "-1"}}),
        ("wrong_header_length", {"content": PHOTO, "headers": {"Inference-Header-Content-Length": "999999"}}),
        ("header_length_missing", {"content": PHOTO, "headers": AS_BINARY}),
        ("header_length_missing", {"content": b"", "headers": AS_BINARY}),
        ("invalid_request", {"content": b" \n{}", "headers": AS_BINARY}),
        ("broken_json", {"content": b"{" + PHOTO, "headers": AS_BINARY}),
        ("broken_json", binary({}, b"", 1)),
        ("broken_json", {"content": b""}),
        ("invalid_request", {"content": b"[" * 1_000_000}),
        ("broken_json", {"content": b'{"inputs": [], "x": ' + b"[" * 1_000_000}),
        ("broken_json", {"content": b'{"inputs": [{"name": "\xff"}]}'}),
        ("empty_image", {"content": b"", "headers": {"Inference-Header-Content-Length": "0"}}),
        ("broken_bytes_tensor", binary(with_size(IMAGE, 4), b"\xff\xff\xff\xff")),
        ("broken_bytes_tensor", binary(with_size(IMAGE, 2), b"\0\0")),
        ("wrong_data_length", binary(with_size(IMAGE, 8), bytes(8))),
        ("wrong_data_length", binary(with_size(IMAGE, 0), b"")),
        ("empty_image", binary(with_size(IMAGE, 4), bytes(4))),
        ("too_large", binary(with_size(IMAGE, 1_000_005), (1_000_001).to_bytes(4, "little") + bytes(1_000_001))),
        ("wrong_data_length", binary(with_size(PIXELS, 7), bytes(7))),
        ("wrong_binary_data_size", binary(with_size(PIXELS, 3 * 64 * 64 * 4), bytes(9))),
        ("not_normalised", binary(with_size(PIXELS, 3 * 64 * 64 * 4), np.full(3 * 64 * 64, np.nan, "<f4").tobytes())),
        ("not_normalised", binary(with_size(PIXELS, 3 * 64 * 64 * 4), np.full(3 * 64 * 64, 200, "<f4").tobytes())),
        ("invalid_request", {"json": {"inputs": 1}}),
        ("invalid_request", {"json": []}),
        ("not_one_input", {"json": {"inputs": []}}),
        ("not_one_input", {"json": {"inputs": [tensor(), tensor()]}}),
        ("unknown_output", {"json": {"inputs": [tensor()], "outputs": [{"name": "labels"}]}}),
        ("output_twice", {"json": {"inputs": [tensor()], "outputs": [{"name": "label"}, {"name": "label"}]}}),
        (
            "not_classes",
            {"json": {"inputs": [tensor()], "outputs": [{"name": "label", "parameters": {"classification": 1}}]}},
        ),
        (
            "invalid_request",
            {"json": {"inputs": [tensor()], "outputs": [{"name": "logits", "parameters": {"classification": 0}}]}},
        ),
        ("invalid_request", {"json": {"inputs": [tensor()], "parameters": {"timeout": "soon"}}}),
        ("invalid_request", {"json": {"inputs": [tensor()], "parameters": {"timeout": -1}}}),
        ("unsupported_media_type", {"content": PHOTO, "headers": {"Content-Type": "image/jpeg"}}),
        ("content_encoding", {"content": PHOTO, "headers": {"Content-Encoding": "gzip"}}),
        ("too_large", {"content": bytes(3_000_001)}),
    ],
)
def test_each_wrong_request_has_a_code_that_says_what_is_wrong(
    http: httpx.Client, code: str, request_: dict[str, Any]
) -> None:
    document = problem(answer := http.post(URL, **request_), answer.status_code)

    assert document["code"] == code, document
    assert 413 <= document["status"] <= 422
    assert document["error"] == document["detail"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/models/bugs", "model_not_found"),
        ("/v2/models/insects/versions/9", "model_version_not_found"),
        ("/v2/models/insects/versions/one/ready", "model_version_not_found"),
        ("/v2/models/insects/versions/0/ready", "model_version_not_found"),
        ("/v2/models/insects/versions/01", "model_version_not_found"),
        ("/v2/models/insects@1000000000", "model_version_not_found"),
        ("/v2/models/insects@9/ready", "model_version_not_found"),
        ("/v2/models/insects@1/versions/1", "model_not_found"),
        ("/v2/models/%00", "model_not_found"),
    ],
)
def test_what_is_not_there_is_told(http: httpx.Client, path: str, code: str) -> None:
    document = problem(http.get(path), 404)

    assert document["code"] == code
    assert document["error"] == document["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/insects/config", 404),
        ("GET", "/v2/models/insects/versions/1/stats", 404),
        ("GET", URL, 405),
        ("GET", "/v1/models/insects:predict", 404),
    ],
)
def test_where_there_is_no_route_clients_find_it_in_the_same_place(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    document = problem(http.request(method, path), status)
    assert document["error"] == document["detail"]
    assert "error" not in problem(http.get("/v1/nowhere"), 404)


def test_binary_tensors_have_as_many_numbers_as_they_like(http: httpx.Client) -> None:
    pixels = {**tensor(shape=[5, 64, 64, 3], data=None), "parameters": {"binary_data_size": 5 * 64 * 64 * 3}}
    assert http.post(URL, **binary({"inputs": [pixels]}, bytes(5 * 64 * 64 * 3))).status_code == 200
    whole = tensor(shape=[4, 64, 64, 3], data=[127] * 4 * 64 * 64 * 3)
    assert http.post(URL, json={"inputs": [whole]}).status_code == 200


def test_many_numbers_are_refused_before_they_are_decoded(http: httpx.Client) -> None:
    answer = http.post(URL, content=b"[" + b"7," * 60_000)  # which is no JSON
    assert problem(answer, 413)["max_numbers"] == 50_000
    answer = http.post("/v1/models/insects:predict", content=b"[" + b"7," * 60_000)
    assert problem(answer, 413)["code"] == "too_many_numbers"


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/healthz", "/readyz"])
def test_probes_may_ask_for_the_head_alone(http: httpx.Client, path: str) -> None:
    answer = http.head(path)
    assert answer.status_code == 200
    assert answer.content == b""


@pytest.mark.parametrize("path", [URL, "/v1/models/insects/predict", "/v1/models/insects:predict"])
def test_compressed_bodies_are_refused_on_all_routes_of_predictions(http: httpx.Client, path: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert problem(http.post(path, content=b"\x1f\x8b", headers=headers), 415)["code"] == "content_encoding"
    said = {"Content-Type": "image/jpeg", "Content-Encoding": "identity"}
    assert http.post("/v1/models/insects/predict", content=PHOTO, headers=said).status_code == 200


def test_the_image_that_is_wrong_is_named_and_nothing_else_suffers(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"image 1: the file is damaged or cut off$") as raised:
        client.infer("insects", [files(PHOTO, PHOTO[:200])])
    assert raised.value.status() == "422"
    assert client.infer("insects", [files(PHOTO)]).as_numpy("label").shape == (1,)
