"""A model version taken elsewhere: its files over HTTP, and what others can make of them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app import optimisation
from app.backbones import crops
from app.backbones.preprocess import Preprocessing
from app.db import Database, utc_now
from app.libraries import onnxruntime
from app.models import service as models
from app.models import serving
from app.models.serving import NewOptimisation
from app.runtimes import optimised
from app.runtimes.opening import Check
from app.runtimes.optimised import Optimised
from app.storage import Storage
from tests import factories
from tests.app.conftest import sqlite_url
from tests.app.test_optimisation import REPORT
from tests.problems import problem

URL = "/v1/models/insects/versions/1/files"
PHOTO = factories.image(factories.COLOURS["red"], size=(90, 70))


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def version_id(http: TestClient, database: Database, files: Storage, dataset_id: str) -> str:
    identifier = models.new_version_id()
    factories.write_artifact(files.model_version(identifier))
    factories.register_version(database, identifier, dataset_id, labels=("ants", "bees"))
    return identifier


@pytest.fixture
def optimised_id(database: Database, files: Storage, version_id: str) -> str:
    """An optimisation with the network as ONNX."""
    identifier = serving.new_optimisation_id()
    folder = files.optimisation(identifier)
    folder.mkdir()
    (folder / "fp32.onnx").write_bytes(factories.onnx_of(files.model_version(version_id)))
    optimised.write(folder, Optimised(REPORT, Check(np.zeros((1, 64, 64, 3), np.uint8), {})))
    with database.write() as session:
        job_id = models.find_version(session, "insects", 1).job_id
        serving.record(session, NewOptimisation(identifier, version_id, job_id, REPORT), now=utc_now())
    return identifier


def test_what_is_listed_can_be_downloaded_as_it_was_written(http: TestClient, version_id: str) -> None:
    listed = http.get(URL).json()["data"]
    names = [entry["name"] for entry in listed]
    assert names[0] == "artifact.json"
    assert {"weights.safetensors", "labels.json", "preprocessing.json", "provenance.json"} <= set(names)
    for entry in listed:
        answer = http.get(f"{URL}/{entry['name']}")
        assert len(answer.content) == entry["size_bytes"]
        assert hashlib.sha256(answer.content).hexdigest() == entry["sha256"]
        assert answer.headers["etag"] == f'"{entry["sha256"]}"'
        assert entry["name"] in answer.headers["content-disposition"]
        assert entry["about"]
    part = http.get(f"{URL}/labels.json", headers={"Range": "bytes=0-0"})
    assert (part.status_code, part.content) == (206, b"[")


def test_a_file_that_is_not_one_of_the_versions_is_not_found(http: TestClient, version_id: str) -> None:
    missing = problem(http.get(f"{URL}/weight.safetensors"), 404)
    assert missing["code"] == "model_file_not_found"
    assert missing["nearest"][0] == "weights.safetensors"
    assert "come with its optimisation" in problem(http.get(f"{URL}/fp32.onnx"), 404)["detail"]
    for outside in ("..%2Fgraft.db", "%2Fetc%2Fpasswd", "report.json"):
        assert http.get(f"{URL}/{outside}").status_code == 404
    assert problem(http.get("/v1/models/insects/versions/2/files"), 404)["code"] == "model_version_not_found"


def test_a_file_that_is_gone_is_told(http: TestClient, files: Storage, version_id: str) -> None:
    (files.model_version(version_id) / "plan.json").unlink()
    assert "plan.json" not in [entry["name"] for entry in http.get(URL).json()["data"]]
    assert "plan.json is missing" in problem(http.get(f"{URL}/plan.json"), 503)["detail"]


def test_an_optimisation_that_cannot_be_read_leaves_the_artifact(
    http: TestClient, files: Storage, optimised_id: str
) -> None:
    assert "fp32.onnx" in [entry["name"] for entry in http.get(URL).json()["data"]]
    (files.optimisation(optimised_id) / optimisation.MANIFEST).write_text("[]")
    listed = [entry["name"] for entry in http.get(URL).json()["data"]]
    assert "fp32.onnx" not in listed
    assert "weights.safetensors" in listed


def test_the_network_elsewhere_says_what_it_says_here(http: TestClient, optimised_id: str, tmp_path: Path) -> None:
    (tmp_path / "fp32.onnx").write_bytes(http.get(f"{URL}/fp32.onnx").content)
    labels = http.get(f"{URL}/labels.json").json()
    prepared = Preprocessing.from_json(http.get(f"{URL}/preprocessing.json").json())
    pixels = crops.load(PHOTO, prepared, max_pixels=10**6)[None].astype(np.float32)
    _, logits = onnxruntime.InferenceSession(tmp_path / "fp32.onnx").run(None, {"images": pixels})
    exponents = np.exp(logits[0] - logits[0].max())
    here = http.post("/v1/models/insects/predict", content=PHOTO, headers={"Content-Type": "image/jpeg"}).json()[
        "predictions"
    ][0]["labels"]
    there = dict(zip(labels, exponents / exponents.sum(), strict=True))
    assert there == pytest.approx({entry["label"]: entry["probability"] for entry in here}, abs=1e-4)
