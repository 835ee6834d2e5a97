"""How much memory a model version is taken to need."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from app import optimisation
from app.models.service import Served
from app.optimisation import Machine, MeasuredForm, Report, Serving, Tolerance
from app.predictions import needs
from app.runtimes import optimised
from app.runtimes.opening import Check
from app.runtimes.optimised import Optimised
from app.storage import Storage
from tests import factories
from tests.app.test_optimisation import form

PLAIN = Served("mv_1", "insects", 1)
OPTIMISED = Served("mv_1", "insects", 1, Serving("opt_1", ("onnxruntime-int8", "torch-fp32")))
FILE_BYTES = 3_000_000


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path)
    factories.write_artifact(storage.model_version("mv_1"))
    return storage


def optimise(storage: Storage, memory_bytes: int | None) -> None:
    """The version in int8, for which so much was measured."""
    folder = storage.optimisation("opt_1")
    folder.mkdir()
    (folder / "int8.onnx").write_bytes(bytes(FILE_BYTES))
    forms = (form("torch", "fp32", 10), measured(memory_bytes))
    report = Report(Machine("cpu", "a CPU", 1), 2, 1.0, Tolerance(), forms, optimisation.order(forms))
    check = Check(np.zeros((1, 8, 8, 3), np.uint8), {"torch-fp32": np.zeros((1, 2), np.float32)})
    optimised.write(folder, Optimised(report, check))


def measured(memory_bytes: int | None) -> MeasuredForm:
    found = form("onnxruntime", "int8", 20)
    assert found.speed is not None
    return replace(found, speed=replace(found.speed, memory_bytes=memory_bytes))


def test_what_was_measured_counts(storage: Storage) -> None:
    optimise(storage, 50_000_000)
    assert needs.of(OPTIMISED, storage).kept == 50_000_000
    assert needs.of(OPTIMISED, storage).loading > 50_000_000


def test_where_nothing_was_measured_the_size_of_the_file_counts(storage: Storage) -> None:
    plain, weights = needs.of(PLAIN, storage), (storage.model_version("mv_1") / "weights.safetensors").stat().st_size
    assert weights < plain.kept < plain.loading
    optimise(storage, None)
    found = needs.of(OPTIMISED, storage)
    assert 2 * FILE_BYTES < found.kept < 10 * FILE_BYTES


def test_less_than_the_file_was_not_measured_but_missed(storage: Storage) -> None:
    optimise(storage, 1)
    assert needs.of(OPTIMISED, storage).kept > 2 * FILE_BYTES


def test_an_optimisation_that_cannot_be_read_is_no_obstacle(storage: Storage) -> None:
    optimise(storage, 50_000_000)
    report = storage.optimisation("opt_1") / "report.json"
    report.write_text(json.dumps({**asdict(PLAIN), "forms": "none"}))
    assert 2 * FILE_BYTES < needs.of(OPTIMISED, storage).kept < 50_000_000
    report.unlink()
    assert 2 * FILE_BYTES < needs.of(OPTIMISED, storage).kept < 50_000_000
