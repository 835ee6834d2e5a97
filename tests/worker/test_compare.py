"""How forms that are close to one another are put in order."""

import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app import errors, optimisation
from app.backbones import crops
from app.models import artifact
from app.optimisation import Speed
from app.runtimes import in_onnx, opening
from app.runtimes.form import PLAIN, Files, Form, Machine, Network
from tests import factories
from tests.training import samples
from worker.optimising import compare, measure, rounding
from worker.optimising.compare import Setting, Subject
from worker.optimising.events import FormMeasured, FormsOrdered, FormsRunInTurn, Quantised
from worker.optimising.measure import Pace, Scale
from worker.optimising.quantise import Quantiser

OTHER = Form("onnxruntime", "fp32")
INT8 = Form("onnxruntime", "int8")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    factories.write_artifact(tmp_path / "version")
    (tmp_path / "networks").mkdir()
    stored = artifact.read(tmp_path / "version")
    splits = samples.split(samples.colours(4), stored.labels, train=0.5, seed=0)
    return Subject(
        Files(tmp_path / "version", tmp_path / "networks"), stored.preprocessing, Scale(1.0, None, 0.0), splits, 10**6
    )


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting((OTHER,), optimisation.DEFAULT_TOLERANCE, Machine(threads=2), 0.1, "a CPU", tmp_path)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Form]:
    """All forms are close; those that were opened, and the next after three fails."""
    found: list[Form] = []
    open_form = opening.open_form

    def failing(files: Files, form: Form, machine: Machine) -> Network:
        found.append(form)
        if len(found) > 3:
            raise errors.Unavailable("no room for two")
        return open_form(files, form, machine)

    monkeypatch.setattr(optimisation, "_CLOSE", 0.0)
    monkeypatch.setattr(opening, "open_form", failing)
    return found


def test_forms_that_are_close_are_ordered_by_what_they_do_in_turn(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimisation, "_CLOSE", 0.0)
    told = samples.Recorder()
    report = compare.compare(subject, setting, told).report
    (again,) = told.of(FormsRunInTurn)
    assert {*again.names} == {PLAIN.name, OTHER.name}
    speeds = {form.name: form.speed for form in report.forms if form.speed}
    first, second = (speeds[name].images_per_second for name in again.names)
    assert first / second == pytest.approx(again.images_per_second[0] / again.images_per_second[1])
    best = max(event.images_per_second for event in told.of(FormMeasured))
    assert max(first, second) == pytest.approx(best)
    assert {event.name: event.batch for event in told.of(FormMeasured)} == {
        name: speed.batch for name, speed in speeds.items()
    }
    assert all(speed.batch in measure.SIZES["cpu"] for speed in speeds.values())
    fastest = max(speeds, key=lambda name: speeds[name].images_per_second)
    assert report.order[0] == fastest
    assert told.of(FormsOrdered)[0].order == report.order


@pytest.mark.parametrize("has_vnni", [True, False])
def test_the_report_says_whether_sums_in_int8_saturate_where_it_was_made(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch, *, has_vnni: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": has_vnni})
    report = compare.compare(subject, replace(setting, forms=()), samples.Recorder()).report
    assert report.machine.int8_saturates is not has_vnni


def test_each_form_is_timed_as_long_as_is_set(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimisation, "_CLOSE", 0.0)
    lasted: list[float] = []
    rates = measure.rates

    def noted(contenders: Sequence[tuple[Network, int]], images: NDArray[np.uint8], pace: Pace) -> list[float]:
        started = time.perf_counter()
        found = rates(contenders, images, pace)
        lasted.append(time.perf_counter() - started)
        return found

    monkeypatch.setattr(measure, "rates", noted)
    compare.compare(subject, replace(setting, seconds=0.6), samples.Recorder())
    assert len(lasted) == 3  # of each by itself, and of both in turn
    assert min(lasted) >= 0.6


def test_forms_that_cannot_be_in_memory_together_keep_what_each_had_by_itself(
    subject: Subject, setting: Setting, opened: list[Form]
) -> None:
    told = samples.Recorder()
    report = compare.compare(subject, setting, told).report
    assert len(opened) == 4
    assert told.of(FormsRunInTurn) == []
    assert [form.speed.images_per_second for form in report.forms if form.speed] == [
        event.images_per_second for event in told.of(FormMeasured)
    ]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ((compare, "to_onnx"), FULL),
        ((Quantiser, "write"), RuntimeError(f"onnxruntime: {FULL}")),
        ((Quantiser, "write"), errors.Unavailable("decoded images have no room", code="no_room")),
        ((Quantiser, "write"), errors.BadImage("a photo that is gone", code="broken_image")),
        ((in_onnx, "InOnnx"), FULL),
    ],
)
def test_what_says_nothing_of_a_network_ends_the_comparison(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch, place: tuple[object, str], error: Exception
) -> None:
    monkeypatch.setattr(*place, failing(error))
    forms = (OTHER, INT8) if place[0] is Quantiser else (OTHER,)
    with pytest.raises(type(error), match=re.escape(str(error))):
        compare.compare(subject, replace(setting, forms=forms), samples.Recorder())


def test_the_calibration_error_of_each_form_is_that_of_its_probabilities_at_the_temperature(
    subject: Subject, setting: Setting
) -> None:
    temperature, validation = 0.25, subject.splits.validation
    scaled = replace(subject, scale=replace(subject.scale, temperature=temperature))
    report = compare.compare(scaled, replace(setting, forms=(OTHER, INT8)), samples.Recorder()).report
    files = validation.read(range(len(validation)))
    images = np.stack([crops.load(file, subject.preprocessing, max_pixels=10**6) for file in files])
    assert [form.name for form in report.forms] == [PLAIN.name, OTHER.name, INT8.name]
    for form in report.forms:
        assert form.figures is not None
        network = opening.open_form(subject.files, Form(form.runtime, form.precision), setting.machine)
        probabilities = np.exp(network.run(images).logits / temperature)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        error = calibration_error(probabilities, validation.targets)
        assert error > 0.05
        assert form.figures.calibration_error == pytest.approx(error, abs=1e-4)


def calibration_error(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """How far the mean confidence is from the accuracy, in the mean over images in 15 bins of confidence."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    bins = np.floor(15 * confidence)
    return float(
        sum(abs((right[bins == one] - confidence[bins == one]).sum()) for one in {*bins.tolist()}) / len(targets)
    )


HELD_BYTES = 64 * 2**20


def test_a_form_takes_what_the_process_grows_by_from_before_it_is_opened_until_it_was_run(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[NDArray[np.uint8]] = []
    open_form = opening.open_form

    def large(files: Files, form: Form, machine: Machine) -> Network:
        if form == OTHER:
            held.append(np.ones(HELD_BYTES, np.uint8))
        return open_form(files, form, machine)

    monkeypatch.setattr(opening, "open_form", large)
    report = compare.compare(subject, setting, samples.Recorder()).report
    (grown,) = (form.speed.memory_bytes for form in report.forms if form.speed and form.name == OTHER.name)
    assert grown is not None
    assert HELD_BYTES <= grown < 2 * HELD_BYTES


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_given: object, **_more: object) -> None:
        raise error

    return fail


def test_a_network_that_cannot_be_quantised_is_said_so_and_leaves_no_file(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_written(_quantiser: Quantiser, target: Path, *_given: object) -> None:
        target.write_bytes(b"half of a network")
        raise ValueError("it knows no such operation")

    monkeypatch.setattr(Quantiser, "write", half_written)
    report = compare.compare(subject, replace(setting, forms=(OTHER, INT8)), samples.Recorder()).report
    assert [form.reason for form in report.forms] == [
        None,
        None,
        "the network cannot be quantised: it knows no such operation",
    ]
    assert subject.files.optimised is not None
    assert [path.name for path in subject.files.optimised.iterdir()] == ["fp32.onnx"]


def test_weights_that_cannot_be_rounded_anew_leave_the_network_as_it_was_quantised_before(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "rounded", failing(RuntimeError("it has no such layer")))
    monkeypatch.setattr(optimisation, "miss", lambda *_figures: "it is too far off")
    told = samples.Recorder()
    report = compare.compare(subject, replace(setting, forms=(OTHER, INT8)), told).report
    assert [event.way for event in told.of(Quantised)] == ["all"]
    assert report.forms[-1].reason == "it is too far off"
    assert report.forms[-1].speed is not None


def test_batches_and_rivals_are_those_of_the_forms(
    subject: Subject, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter([Speed(1.0, 1.0, 50.0, 10, 1), Speed(1.0, 1.0, 90.0, 10, 4), Speed(1.0, 1.0, 80.0, 10, 1)])
    rivals: list[float] = []
    sizes: list[int] = []

    def speed(*_given: object, memory_bytes: int | None, rival: float) -> Speed:
        rivals.append(rival)
        return next(speeds)

    def rates(contenders: Sequence[tuple[Network, int]], *_given: object) -> list[float]:
        sizes.extend(size for _, size in contenders)
        return [20.0, 40.0]

    monkeypatch.setattr(measure, "speed", speed)
    monkeypatch.setattr(measure, "rates", rates)
    forms, missing = (OTHER, Form("openvino", "fp32")), Form("tensorrt", "fp16")
    report = compare.compare(subject, replace(setting, forms=forms, elsewhere=(missing,)), samples.Recorder()).report
    assert rivals == [0.0, 50.0, 90.0]
    assert sizes == [4, 1]
    assert report.order == ("openvino-fp32", PLAIN.name)  # the other one is slower than that in turn
    assert [form.speed and form.speed.images_per_second for form in report.forms] == [50.0, 45.0, 90.0, None]
