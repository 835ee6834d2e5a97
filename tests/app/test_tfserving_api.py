"""TensorFlow Serving's predictions: rows and columns, and what is said of requests that are wrong."""

import base64
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.models import service as models
from app.storage import Storage
from tests import factories
from tests.app.conftest import sqlite_url
from tests.problems import problem

URL = "/v1/models/insects:predict"
FILE = {"b64": base64.b64encode(factories.image(factories.COLOURS["red"])).decode()}
PIXELS = [[[200, 40, 40]] * 64] * 64


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture(autouse=True)
def insects(http: TestClient, database: Database, files: Storage, dataset_id: str) -> None:
    """A model whose version knows nothing of what is unknown."""
    version_id = models.new_version_id()
    factories.write_artifact(files.model_version(version_id))
    factories.register_version(database, version_id, dataset_id, labels=("ants", "bees"))


@pytest.mark.parametrize(
    "instances",
    [[FILE, FILE], [{"image": FILE}, {"image": FILE}], [PIXELS, PIXELS], [{"image": PIXELS}, FILE]],
    ids=["files", "files by name", "pixels", "both"],
)
def test_rows_are_answered_by_rows_and_columns_by_columns(http: TestClient, instances: list[Any]) -> None:
    rows = http.post(URL, json={"instances": instances}).json()["predictions"]
    columns = http.post(URL, json={"inputs": instances}).json()["outputs"]

    assert len(rows) == 2
    for row in rows:
        assert sorted(row["labels"]) == ["ants", "bees"]
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
        assert sum(row["probabilities"]) == pytest.approx(1)
        assert row.keys() == {"labels", "probabilities"}
    assert columns["labels"] == [row["labels"] for row in rows]
    assert columns["probabilities"] == [pytest.approx(row["probabilities"]) for row in rows]


def test_versions_are_addressed_in_each_way(http: TestClient) -> None:
    body = {"instances": [FILE]}
    expected = http.post(URL, json=body).json()

    assert http.post("/v1/models/insects@1:predict", json=body).json() == expected
    assert http.post("/v1/models/insects/versions/1:predict", json=body).json() == expected
    assert http.put("/v1/models/insects/aliases/production", json={"version": 1}).is_success
    assert http.post("/v1/models/insects:production:predict", json=body).json() == expected
    assert http.post("/v1/models/insects/labels/production:predict", json=body).json() == expected
    assert http.post("/v1/models/insects:production/predict", json={"images": [FILE]}).status_code == 200
    for missing in ("insects/versions/2", "insects/versions/0", "insects@0"):
        document = problem(http.post(f"/v1/models/{missing}:predict", json=body), 404)
        assert document["code"] == "model_version_not_found"
    assert problem(http.post("/v1/models/insects/labels/nowhere:predict", json=body), 404)["error"]
    assert problem(http.post("/v1/models/bugs:predict", json=body), 404)["code"] == "model_not_found"


def test_the_routes_of_models_go_on_as_they_are(http: TestClient) -> None:
    assert http.get("/v1/models/insects").json()["name"] == "insects"
    assert http.get("/v1/models/insects/versions/1").json()["number"] == 1
    assert http.post("/v1/models/insects/predict", json={"images": [FILE]}).status_code == 200
    assert problem(http.post("/v1/models/insects:predict/predict", json={"images": [FILE]}), 404)["code"] != (
        "no_such_route"
    )


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("not_one_format", {}),
        ("not_one_format", {"instances": [FILE], "inputs": [FILE]}),
        ("no_images", {"instances": []}),
        ("no_images", {"instances": FILE}),
        ("no_images", {"inputs": FILE}),
        ("too_many_images", {"instances": [FILE] * 9}),
        ("not_images", {"instances": [{}] * 1000}),
        ("not_images", {"instances": [[] for _ in range(1000)]}),
        ("unknown_signature", {"instances": [FILE], "signature_name": "classify"}),
        ("unknown_input", {"instances": [{"photo": FILE}]}),
        ("unknown_input", {"inputs": {"image": [FILE], "other": [1]}}),
        ("not_base64", {"instances": [{"b64": "?"}]}),
        ("empty_image", {"instances": [{"b64": ""}]}),
        ("not_an_image", {"instances": [FILE, {"b64": "AAAA"}]}),
        ("not_an_image", {"instances": ["AAAA"]}),
        ("not_an_image", {"instances": [{"b64": 7}]}),
        ("not_an_image", {"instances": [None]}),
        ("wrong_shape", {"instances": [[1, 2, 3]]}),
        ("wrong_shape", {"instances": [[[[1, 2, 3, 4]] * 8] * 8]}),
        ("wrong_image_size", {"instances": [[[[1, 2, 3]] * 8] * 8]}),
        ("ragged_array", {"instances": [[[[1, 2, 3]] * 8, [[1, 2, 3]] * 7]]}),
        ("not_numbers", {"instances": [[[["1", "2", "3"]] * 2] * 2]}),
        ("pixels_out_of_range", {"instances": [[[[-1, 0, 0.5]] * 64] * 64]}),
        ("pixels_out_of_range", {"instances": [[[[1, 2, 256]] * 64] * 64]}),
        ("invalid_request", {"instances": [FILE], "top_k": 3}),
        ("invalid_request", []),
    ],
)
def test_each_wrong_body_has_a_code_that_says_what_is_wrong(http: TestClient, code: str, body: Any) -> None:
    document = problem(answer := http.post(URL, json=body), answer.status_code)

    assert document["code"] == code, document
    assert document["status"] == (413 if code == "too_many_images" else 422)
    assert document["error"] == document["detail"]


def test_what_is_wrong_is_told_of_json_that_curl_calls_a_form(http: TestClient) -> None:
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = http.post(URL, content=b'{"instances": [1], "top_k": 3}', headers=as_form)
    assert "`top_k`" in problem(answer, 422)["detail"]
