"""Which form of a classifier is served: the tolerance, the order, and what is pinned."""

from dataclasses import replace

import pytest
import torch

from app import errors, optimisation
from app.optimisation import (
    DeviceKind,
    Figures,
    Machine,
    MeasuredForm,
    Pins,
    Precision,
    Report,
    Runtime,
    Speed,
    Tolerance,
)
from app.runtimes import opening

PLAIN_FIGURES = Figures(accuracy=0.9, agreement=1.0, log_loss=0.3, calibration_error=0.02)


def form(runtime: Runtime, precision: Precision, rate: float | None, *, within: bool = True) -> MeasuredForm:
    """One that passes so many images a second; None for one that could not be built."""
    if rate is None:
        return MeasuredForm(runtime, precision, None, None, within=False, reason="not installed")
    reason = None if within else "its accuracy is lower"
    return MeasuredForm(runtime, precision, PLAIN_FIGURES, Speed(1.0, 2.0, rate, None), within=within, reason=reason)


FORMS = (
    form("torch", "fp32", 50),
    form("onnxruntime", "fp32", 100),
    form("openvino", "fp32", 40),
    form("openvino", "int8", 300, within=False),
    form("onnxruntime", "int8", 200),
    form("torch-compiled", "fp32", None),
)
REPORT = Report(Machine("cpu", "a CPU", 2), 100, 1.0, Tolerance(), FORMS, optimisation.order(FORMS))


@pytest.mark.parametrize(
    ("accuracy", "agreement", "said"),
    [
        (0.9, 1.0, None),
        (0.895, 0.99, None),
        (0.95, 0.99, None),
        (0.894, 1.0, "0.60 points lower; 0.5 are allowed"),
        (0.9 - 2 / 398, 1.0, "0.503 points lower; 0.5 are allowed"),
        (0.9, 0.989, "agrees on 98.90 %"),
        (0.9, 0.98996, "agrees on 98.996 % of the images; 99 % are wanted"),
    ],
)
def test_a_form_is_inside_the_tolerance_or_there_is_a_reason(
    accuracy: float, agreement: float, said: str | None
) -> None:
    found = optimisation.miss(Figures(accuracy, agreement, 0.3, 0.02), PLAIN_FIGURES, Tolerance())
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(
    ("same", "said"),
    [
        (None, None),
        (0.95, None),
        (0.94, "which images are unknown for 94.00 % of them; 95 % are wanted"),
        (0.94999, "which images are unknown for 94.999 % of them; 95 % are wanted"),
    ],
)
def test_a_form_that_decides_otherwise_what_is_unknown_is_outside_the_tolerance(
    same: float | None, said: str | None
) -> None:
    found = optimisation.miss(replace(PLAIN_FIGURES, unknown_agreement=same), PLAIN_FIGURES, Tolerance())
    assert found is None if said is None else said in str(found)


def test_a_report_says_from_where_on_an_image_is_unknown_to_a_form_as_far_as_that_was_measured() -> None:
    figures = replace(PLAIN_FIGURES, refused=0.05, unknown_agreement=1.0, unknown_below=0.31)
    report = replace(REPORT, forms=(*FORMS[:1], replace(FORMS[1], figures=figures), *FORMS[2:]))
    names = ("onnxruntime-fp32", "torch-fp32", "torch-compiled-fp32", "tensorrt-fp16")
    assert [report.unknown_below(name) for name in names] == [0.31, None, None, None]


def test_the_fastest_come_first_as_far_as_they_are_faster_than_the_plain_one() -> None:
    assert REPORT.order == ("onnxruntime-int8", "onnxruntime-fp32", "torch-fp32")


@pytest.mark.parametrize(
    ("pins", "tried"),
    [
        (Pins(), REPORT.order),
        (Pins("torch", "fp32"), ("torch-fp32",)),
        (Pins("torch"), ("torch-fp32",)),
        (Pins("onnxruntime"), ("onnxruntime-int8", "onnxruntime-fp32", "torch-fp32")),
        (Pins(precision="fp32"), ("onnxruntime-fp32", "torch-fp32", "openvino-fp32")),
        (Pins("openvino"), ("openvino-fp32", "openvino-int8", "torch-fp32")),
        (Pins("openvino", "int8"), ("openvino-int8", "torch-fp32")),
        (Pins("torch-compiled"), ("torch-fp32",)),
        (Pins("tensorrt", "fp16"), ("torch-fp32",)),
    ],
)
def test_what_is_pinned_is_tried_and_the_plain_form_is_always_there(pins: Pins, tried: tuple[str, ...]) -> None:
    assert optimisation.choose(REPORT, pins) == tried
    assert optimisation.choose(None, pins) == ("torch-fp32",)


@pytest.mark.parametrize(
    ("process", "version", "together"),
    [
        (Pins(), Pins(), Pins()),
        (Pins(), Pins("openvino", "int8"), Pins("openvino", "int8")),
        (Pins("torch"), Pins("openvino", "fp32"), Pins("torch", "fp32")),
        (Pins(precision="fp32"), Pins("openvino", "int8"), Pins("openvino", "fp32")),
    ],
)
def test_the_pins_of_a_process_come_before_those_of_a_version(process: Pins, version: Pins, together: Pins) -> None:
    assert process.over(version) == together


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        (Pins(), "The fastest form inside the tolerance: 4.0 times as many images per second as torch-fp32."),
        (Pins("openvino", "int8"), "outside the tolerance: its accuracy is lower"),
        (Pins("onnxruntime"), "As runtime onnxruntime and precision auto are pinned."),
        (Pins("tensorrt"), "It is run as it was trained: runtime tensorrt and precision auto are pinned"),
    ],
)
def test_there_is_a_reason_for_what_is_served(pins: Pins, said: str) -> None:
    assert said in optimisation.explain(REPORT, pins)
    assert "was not optimised" in optimisation.explain(None, pins)


@pytest.mark.parametrize(
    ("rate", "said"), [(200.0, "4.0 times"), (55.0, "1.1 times"), (52.0, "1.04 times"), (50.1, "1.002 times")]
)
def test_the_fastest_form_is_said_to_be_faster_by_however_little(rate: float, said: str) -> None:
    forms = (FORMS[0], form("onnxruntime", "fp32", rate))
    report = replace(REPORT, forms=forms, order=optimisation.order(forms))
    assert f": {said} as many images per second" in optimisation.explain(report, Pins())


def test_the_reason_says_what_was_measured_where_that_was_not_everything() -> None:
    some = replace(REPORT, is_partial=True)
    among = "of those measured (torch-fp32, onnxruntime-fp32, openvino-fp32, openvino-int8, onnxruntime-int8) "
    assert f"The fastest form {among}" in optimisation.explain(some, Pins())
    plain = replace(some, forms=FORMS[:1], order=optimisation.order(FORMS[:1]))
    assert optimisation.explain(plain, Pins()) == (
        "No other form of those measured (torch-fp32) inside the tolerance is faster."
    )
    assert optimisation.explain(REPORT, Pins("torch")) == optimisation.explain(some, Pins("torch"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("has_half", [False, True])
def test_all_that_a_machine_may_run_has_a_name(
    device: DeviceKind, has_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_half})
    possible = {form.name for form in opening.forms(torch.device(device))}
    without_half = {"torch-bf16", "torch-compiled-bf16", "openvino-bf16"}
    lacking = set() if has_half or device == "cuda" else without_half
    assert possible == {*optimisation.FORMS_ON[device]} - lacking
    usual = {form.name for form in opening.usual_forms(torch.device(device))}
    assert possible - usual == (set() if lacking else {"torch-compiled-fp32"})


@pytest.mark.parametrize(
    ("pins", "names"),
    [
        (Pins("tensorrt"), ("tensorrt-bf16", "tensorrt-fp16")),
        (Pins(precision="int8"), ("onnxruntime-int8", "openvino-int8")),
        (Pins("openvino", "int8"), ("openvino-int8",)),
        (Pins("onnxruntime", "bf16"), ()),
    ],
)
def test_pins_name_the_forms_that_fit(pins: Pins, names: tuple[str, ...]) -> None:
    assert pins.names == names


def test_pins_are_refused_with_the_nearest_names_or_with_what_was_built() -> None:
    for good in (Pins(), Pins("torch", "fp32"), Pins("openvino", "int8"), Pins(precision="int8")):
        optimisation.check(good, [REPORT])
    for fits_as_it_was_trained in (Pins("torch"), Pins(precision="fp32"), Pins("torch", "fp32")):
        optimisation.check(fits_as_it_was_trained, [])
    with pytest.raises(errors.UnknownName, match="did you mean openvino"):
        optimisation.check(Pins("openvin"), [REPORT])
    with pytest.raises(errors.UnknownName, match="int8"):
        optimisation.check(Pins(precision="int4"), [REPORT])
    with pytest.raises(errors.Invalid, match="torch-compiled-fp32: not installed") as caught:
        optimisation.check(Pins("torch-compiled"), [REPORT])
    assert caught.value.code == "form_not_built"
    assert caught.value.detail["valid"] == [
        "onnxruntime-fp32",
        "onnxruntime-int8",
        "openvino-fp32",
        "openvino-int8",
        "torch-fp32",
    ]
    with pytest.raises(errors.Invalid, match="built are torch-fp32"):
        optimisation.check(Pins("openvino"), [])
    with pytest.raises(errors.Invalid, match="built are torch-fp32"):
        optimisation.check(Pins("torch", "bf16"), [])


def small(
    runtime: Runtime, precision: Precision, rate: float, *, within: bool = True, memory_bytes: int | None = 10**6
) -> MeasuredForm:
    found = form(runtime, precision, rate, within=within)
    assert found.speed is not None
    return replace(found, speed=replace(found.speed, memory_bytes=memory_bytes))


@pytest.mark.parametrize(
    ("forms", "names"),
    [
        ([small("torch", "fp32", 50), small("openvino", "fp32", 90), small("onnxruntime", "fp32", 100)], [2, 1]),
        ([small("torch", "fp32", 50), small("openvino", "fp32", 70), small("onnxruntime", "fp32", 100)], []),
        ([small("torch", "fp32", 50), small("openvino", "int8", 99, within=False)], []),
        ([small("torch", "fp32", 99), form("openvino", "fp32", None), small("onnxruntime", "fp32", 100)], [2, 0]),
        ([form("torch", "fp32", None)], []),
        ([small("torch", "fp32", 99, memory_bytes=2**29), small("openvino", "fp32", 99, memory_bytes=2**29)], [0, 1]),
        ([small("torch", "fp32", 99, memory_bytes=2**29), small("openvino", "fp32", 99, memory_bytes=2**30)], []),
        ([small("torch", "fp32", 99), small("openvino", "fp32", 99, memory_bytes=None)], []),
    ],
)
def test_the_two_fastest_are_contenders_if_they_are_close_and_small(
    forms: list[MeasuredForm], names: list[int]
) -> None:
    assert optimisation.contenders(forms) == [forms[place] for place in names]


def test_a_report_says_how_many_images_a_form_takes_best() -> None:
    assert REPORT.batch("onnxruntime-fp32") is None
    speed = Speed(1.0, 2.0, 100, None, batch=4)
    known = replace(REPORT, forms=(replace(FORMS[1], speed=speed), FORMS[5]))
    assert known.batch("onnxruntime-fp32") == 4
    assert known.batch("torch-compiled-fp32") is None
    assert known.batch("tensorrt-fp16") is None


def test_forms_that_were_timed_in_turn_are_not_moved_behind_those_that_were_not() -> None:
    forms = [
        form("torch", "fp32", 93),
        form("onnxruntime", "fp32", 95),
        form("openvino", "fp32", 100),
        form("openvino", "bf16", 94),
        form("onnxruntime", "int8", None),
    ]
    found = optimisation.in_proportion(forms, {"openvino-fp32": 76, "onnxruntime-fp32": 80})  # of a slower minute
    assert [one.speed and one.speed.images_per_second for one in found] == [93, 100, 95, 94, None]
    assert optimisation.order(found) == ("onnxruntime-fp32", "openvino-fp32", "openvino-bf16", "torch-fp32")


def test_a_rival_is_of_the_same_precision_and_inside_the_tolerance() -> None:
    forms = [*FORMS, form("openvino", "bf16", 500), form("torch-compiled", "fp32", 500, within=False)]
    assert optimisation.best_rate(forms, "fp32") == 100
    assert optimisation.best_rate(forms, "fp16") == 0
