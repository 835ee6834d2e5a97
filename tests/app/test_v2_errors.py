"""The Open Inference Protocol: what clients are told where something is wrong."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.app.v2 import PHOTO, URL, binary, client, files, here, http, tensor
from tests.problems import problem

__all__ = ["client", "here", "http"]  # fixtures


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


def test_many_numbers_are_refused_before_they_are_decoded(http: httpx.Client) -> None:
    answer = http.post(URL, content=b"[" + b"7," * 60_000)  # which is no JSON
    assert problem(answer, 413)["max_numbers"] == 50_000
    answer = http.post("/v1/models/insects:predict", content=b"[" + b"7," * 60_000)
    assert problem(answer, 413)["code"] == "too_many_numbers"


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
