"""How a model version gets into memory: in the form that was chosen, or in the next that works."""

import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch.nn import functional

from app import errors, files, optimisation
from app.metrics import Metrics
from app.models.artifact import Calibration
from app.models.service import Served
from app.optimisation import Machine as MeasuredOn
from app.optimisation import Report, Serving, Tolerance
from app.predictions.loaded import Loaded, Pace
from app.predictions.opener import FromStorage
from app.runtimes import in_onnx, in_torch, opening, optimised
from app.runtimes.form import Files, Images, Machine, Network, Passed
from app.runtimes.form import Form as MadeOf
from app.runtimes.opening import Check
from app.runtimes.optimised import Optimised
from app.storage import Storage
from tests import factories
from tests.app.test_optimisation import form

VERSION = Served("mv_1", "insects", 1, Serving("opt_1", ("onnxruntime-fp32", "torch-fp32")))
FORMS = (form("torch", "fp32", 10), form("onnxruntime", "fp32", 20))
MADE_ON = MeasuredOn("cpu", "a CPU", 1)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """With an optimised version, whose check says of each form what it gives."""
    storage = Storage(tmp_path)
    factories.write_artifact(storage.model_version("mv_1"))
    network = in_torch.whole(Files(storage.model_version("mv_1")))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    with torch.inference_mode():
        logits = network(torch.from_numpy(images).float())[1].numpy()
    folder = storage.optimisation("opt_1")
    folder.mkdir()
    (folder / "fp32.onnx").write_bytes(factories.onnx_of(storage.model_version("mv_1")))
    report = Report(MADE_ON, 2, 1.0, Tolerance(), FORMS, optimisation.order(FORMS))
    optimised.write(folder, Optimised(report, Check(images, {"onnxruntime-fp32": logits})))
    return storage


@pytest.fixture
def source(storage: Storage) -> FromStorage:
    return FromStorage(storage, Machine(threads=1), 1, Metrics())


def test_a_form_that_fails_is_in_memory_no_more_when_the_next_one_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (MadeOf("onnxruntime", "fp32"), MadeOf("openvino", "fp32"))
    there: weakref.WeakSet[Opened] = weakref.WeakSet()

    def opened(_files: Files, _form: MadeOf, _machine: Machine) -> Opened:
        assert not there
        found = Opened()
        there.add(found)
        return found

    def make(_network: Network, made_of: MadeOf) -> MadeOf:
        if made_of == first:
            raise RuntimeError("out of memory")
        return made_of

    failed: list[tuple[MadeOf, str]] = []

    def pass_over(made_of: MadeOf, reason: str) -> None:
        failed.append((made_of, reason))

    for runtime in ("onnxruntime", "openvino"):
        monkeypatch.setitem(opening._OPENERS, runtime, opened)
    wanted = (first, second)
    made = opening.open_first(Files(Path(), None), wanted, Machine(threads=1), make=make, pass_over=pass_over)
    assert made == second
    assert failed == [(first, "out of memory")]


class Opened:
    """A network that is never run."""

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        raise AssertionError("it is never run")

    widen = settle = run


def test_a_version_is_opened_in_the_form_that_was_chosen(source: FromStorage) -> None:
    assert source.open(VERSION).form.name == "onnxruntime-fp32"
    assert source.open(Served("mv_1", "insects", 1)).form.name == "torch-fp32"


def test_what_is_unknown_is_decided_by_the_threshold_of_the_form_that_answers(
    source: FromStorage, storage: Storage
) -> None:
    means = functional.normalize(torch.randn(2, 128, generator=torch.Generator().manual_seed(1)), dim=1)
    shutil.rmtree(storage.model_version("mv_1"))
    factories.write_artifact(storage.model_version("mv_1"), calibration=Calibration(1.0, -2.0, (), means))
    folder = storage.optimisation("opt_1")
    found = optimised.read(folder)
    image = found.check.images[0]

    def is_unknown(below: float | None) -> bool | None:
        """To the second form, to which images are unknown `below` that similarity."""
        plain, other = found.report.forms
        assert other.figures is not None
        forms = (plain, replace(other, figures=replace(other.figures, unknown_below=below)))
        optimised.write(folder, Optimised(replace(found.report, forms=forms), found.check))
        return source.open(VERSION).answers([image], alone=True)[0].is_unknown

    assert [is_unknown(below) for below in (2.0, -2.0, None)] == [True, False, False]
    plain = Served("mv_1", "insects", 1, Serving("opt_1", ("torch-fp32",)))
    assert source.open(plain).answers([image], alone=True)[0].is_unknown is False


PROGRAM = """
import sys
from pathlib import Path
from app.metrics import Metrics
from app.models.service import Served
from app.optimisation import Serving
from app.predictions.opener import FromStorage
from app.runtimes.form import Machine
from app.storage import Storage

source = FromStorage(Storage(Path(sys.argv[1])), Machine(threads=1), 1, Metrics())
for forms in (("onnxruntime-fp32", "torch-fp32"), ("torch-fp32",)):
    version = Served("mv_1", "insects", 1, Serving("opt_1", forms))
    source.need(version)
    before = "torchvision" in sys.modules
    print(before, source.open(version).form.name, "torchvision" in sys.modules)
"""


def test_what_networks_are_built_with_is_imported_for_those_that_are_before_their_memory_is_counted(
    storage: Storage,
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(storage.root)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == ["False onnxruntime-fp32 False", "True torch-fp32 True"]


def test_a_report_is_read_as_it_was_written(storage: Storage) -> None:
    found = optimised.read(storage.optimisation("opt_1"))
    assert asdict(found.report)["order"] == ("onnxruntime-fp32", "torch-fp32")
    assert list(found.check.logits) == ["onnxruntime-fp32"]


def test_what_has_changed_on_disk_is_not_run(
    source: FromStorage, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    (storage.optimisation("opt_1") / "fp32.onnx").write_bytes(b"no network")
    assert source.open(VERSION).form.name == "torch-fp32"
    assert "insects@1 is run as it was trained: the optimisation has changed" in caplog.text
    assert b"graft_unreadable_optimisations_total 1.0" in source.metrics.text()


def _gone(folder: Path) -> None:
    (folder / "optimisation.json").unlink()


def _unreadable(folder: Path) -> None:
    _gone(folder)
    (folder / "optimisation.json").mkdir()


def _no_list(folder: Path) -> None:
    (folder / "optimisation.json").write_text("null")


def _listed(folder: Path, name: str) -> None:
    """Let the list say that the file is as it was written."""
    listed = files.read_json(folder / "optimisation.json")
    listed["files"][name] = files.sha256(folder / name)
    files.write_json(folder / "optimisation.json", listed)


def _without_images(folder: Path) -> None:
    safetensors.numpy.save_file({"torch-fp32": np.zeros((1, 2), np.float32)}, folder / "check.safetensors")
    _listed(folder, "check.safetensors")


def _cut_off(folder: Path) -> None:
    check = folder / "check.safetensors"
    check.write_bytes(check.read_bytes()[:20])
    _listed(folder, "check.safetensors")


def _of_another_release(folder: Path) -> None:
    (folder / "report.json").write_text("{}")
    _listed(folder, "report.json")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_gone, "is incomplete: optimisation.json is missing"),
        (_unreadable, "cannot be read: Is a directory"),
        (_no_list, "cannot be read"),
        (_without_images, "cannot be read: 'images'"),
        (_cut_off, "cannot be read"),
        (_of_another_release, "'s report cannot be read: "),
    ],
)
def test_damage_to_an_optimisation_is_told_without_its_place_and_the_network_is_run_as_it_was_trained(
    source: FromStorage, storage: Storage, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], told: str
) -> None:
    damage(storage.optimisation("opt_1"))
    with pytest.raises(errors.Unavailable, match=re.escape(told)) as caught:
        optimised.read(storage.optimisation("opt_1"))
    assert str(storage.root) not in str(caught.value)
    others = Served("mv_1", "insects", 1, Serving("opt_1", ("torch-winograd-fp32", "onnxruntime-fp32", "torch-fp32")))
    assert source.open(others).form.name == "torch-fp32"
    assert "insects@1 is run as it was trained: the optimisation" in caplog.text
    assert b"graft_runtime_fallbacks_total{" not in source.metrics.text()


def test_what_cannot_be_read_counts_as_a_failure_to_load(source: FromStorage, storage: Storage) -> None:
    (storage.model_version("mv_1") / "artifact.json").unlink()
    for attempt in (source.need, source.open):
        with pytest.raises(errors.Unavailable):
            attempt(VERSION)
    assert b'graft_model_loads_total{form="failed"} 2.0' in source.metrics.text()


def test_what_a_runtime_keeps_beside_the_networks_changes_nothing(source: FromStorage, storage: Storage) -> None:
    folder = storage.optimisation("opt_1")
    found = optimised.read(folder)
    kept = folder / in_onnx.ENGINES / "fp16" / "one.engine"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"built first")
    (folder / "timing.cache").write_bytes(b"of the first")
    optimised.write(folder, found)
    kept.write_bytes(b"built again")
    (folder / "timing.cache").unlink()
    assert source.open(VERSION).form.name == "onnxruntime-fp32"


def test_a_network_is_not_run_by_another_provider_than_its_form_says(storage: Storage) -> None:
    path = storage.optimisation("opt_1") / "fp32.onnx"
    with (
        pytest.warns(UserWarning, match="TensorrtExecutionProvider"),
        pytest.raises(errors.Unavailable, match="by TensorrtExecutionProvider"),
    ):
        in_onnx.InOnnx(path, Machine(threads=1), ["TensorrtExecutionProvider", "CPUExecutionProvider"])


def test_a_form_that_answers_otherwise_than_it_did_is_passed_over(
    source: FromStorage, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    folder = storage.optimisation("opt_1")
    found = optimised.read(folder)
    moved = {name: logits + 1 for name, logits in found.check.logits.items()}
    optimised.write(folder, Optimised(found.report, Check(found.check.images, moved)))
    assert source.open(VERSION).form.name == "torch-fp32"
    assert "insects@1: onnxruntime-fp32 does not run (its answers here are" in caplog.text


def serve_first(
    storage: Storage, name: Literal["onnxruntime-int8", "torch-bf16"], *, made_on: MeasuredOn = MADE_ON
) -> Served:
    """The version, to be run in that form, which was made on such a machine, and then by ONNX Runtime in fp32."""
    folder = storage.optimisation("opt_1")
    found = optimised.read(folder)
    shutil.copy(folder / in_onnx.NAMES["fp32"], folder / in_onnx.NAMES["int8"])
    first = form("onnxruntime", "int8", 30) if name == "onnxruntime-int8" else form("torch", "bf16", 30)
    report = replace(found.report, machine=made_on, forms=(*FORMS, first), order=(name, *found.report.order))
    optimised.write(folder, replace(found, report=report))
    return replace(VERSION, serving=Serving("opt_1", report.order))


@pytest.mark.parametrize(
    ("saturated", "here", "served"),
    [
        (False, {}, "onnxruntime-fp32"),
        (False, {"avx512_vnni": True}, "onnxruntime-int8"),
        (True, {}, "onnxruntime-int8"),
        (None, {}, "onnxruntime-int8"),
    ],
)
def test_weights_of_8_bits_are_passed_over_where_their_sums_saturate_as_they_did_not_where_they_were_made(
    source: FromStorage,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    saturated: bool | None,
    here: dict[str, bool],
    served: str,
) -> None:
    version = serve_first(storage, "onnxruntime-int8", made_on=replace(MADE_ON, int8_saturates=saturated))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: here)
    assert source.open(version).form.name == served
    is_passed_over = served != "onnxruntime-int8"
    assert ("insects@1: onnxruntime-int8 does not run (its weights have 8 bits" in caplog.text) == is_passed_over
    counted = b'graft_runtime_fallbacks_total{form="onnxruntime-int8"} 1.0'
    assert (counted in source.metrics.text()) == is_passed_over


@pytest.mark.parametrize(("has_half", "served"), [(True, "torch-bf16"), (False, "onnxruntime-fp32")])
def test_bf16_is_passed_over_on_a_cpu_without_it(
    source: FromStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch, *, has_half: bool, served: str
) -> None:
    version = serve_first(storage, "torch-bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_half})
    assert source.open(version).form.name == served
    assert (b'graft_runtime_fallbacks_total{form="torch-bf16"} 1.0' in source.metrics.text()) != has_half


def test_the_plain_form_is_run_however_a_machine_rounds(
    source: FromStorage, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    check_by(storage, 1.1)
    assert source.open(VERSION).form.name == "torch-fp32"
    assert "torch-fp32 is run all the same: its answers here are 0.091 away" in caplog.text


def test_the_plain_form_is_not_run_where_it_gives_no_numbers(
    source: FromStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_network: in_torch.InTorch, images: Images, *, alone: bool = False) -> Passed:
        return Passed(np.zeros((len(images), 1), np.float32), np.full((len(images), 2), np.nan, np.float32))

    check_by(storage, 1.1)
    monkeypatch.setattr(in_torch.InTorch, "run", run)
    with pytest.raises(errors.Unavailable, match="its answers here are inf away"):
        source.open(VERSION)


def check_by(storage: Storage, factor: float) -> None:
    """Let the check of both forms say so many times what they give."""
    folder = storage.optimisation("opt_1")
    found = optimised.read(folder)
    moved = found.check.logits["onnxruntime-fp32"] * np.float32(factor)
    forms = ("onnxruntime-fp32", "torch-fp32")
    optimised.write(folder, Optimised(found.report, Check(found.check.images, dict.fromkeys(forms, moved))))


def test_networks_of_one_kind_are_timed_once(
    source: FromStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = source.open(Served("mv_1", "insects", 1))
    factories.write_artifact(storage.model_version("mv_2"))
    with monkeypatch.context() as patched:
        patched.setattr(Loaded, "measure", lambda *_args, **_settings: pytest.fail("it was timed again"))
        second = source.open(Served("mv_2", "birds", 1))
    assert second.pace is first.pace
    assert second.batch == first.batch
    assert source.open(VERSION).form.name == "onnxruntime-fp32"


def test_a_kind_that_was_timed_on_a_busy_machine_is_timed_again_when_the_next_of_it_is_loaded(
    source: FromStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = iter((Pace(seconds=1.0, batch=1), Pace(seconds=0.9, batch=1), Pace(seconds=0.3, batch=4)))

    def measure(found: Loaded, **_settings: int | None) -> Pace:
        found.warm_up(pace := next(timed))
        return pace

    monkeypatch.setattr(Loaded, "measure", measure)
    version = Served("mv_1", "insects", 1)
    first = source.open(version).pace
    first.took(0.6)
    assert source.open(version).pace is first
    first.took(0.4)
    second = source.open(version).pace
    assert (second is not first, second.seconds) == (True, 0.4)  # though the machine is busy again
    third = source.open(version)
    assert (third.batch, third.pace.seconds) == (4, 0.3)
    third.pace.took(0.1)
    assert source.open(version).pace is third.pace  # three times are enough


def test_the_batch_that_an_optimisation_found_best_is_known_when_a_network_is_timed(
    source: FromStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = storage.optimisation("opt_1")
    found = optimised.read(folder)
    plain, other = found.report.forms
    assert other.speed is not None
    best = replace(other, speed=replace(other.speed, batch=4))
    optimised.write(folder, Optimised(replace(found.report, forms=(plain, best)), found.check))
    told: list[int | None] = []

    def measure(_loaded: Loaded, *, batch: int | None, known: int | None) -> Pace:
        told.append(known)
        return Pace(seconds=0.001, batch=1)

    monkeypatch.setattr(Loaded, "measure", measure)
    as_trained = Served("mv_1", "insects", 1)
    source.open(as_trained)
    source.open(VERSION)
    source.open(as_trained)
    optimised.write(folder, Optimised(found.report, found.check))
    source.open(VERSION)
    source.open(VERSION)
    assert told == [None, 4, None]  # timed again only where something else is known of the kind
