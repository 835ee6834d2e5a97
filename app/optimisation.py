"""How the forms of one classifier compare: which runtime, in which precision, gives the answers of the plain one, and
how fast. Values only, shared by the API, the artifact's neighbours on disk and the work that measures them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field

from app import errors, wording
from app.described import described
from app.numbers import Number

Runtime = Literal["torch", "torch-winograd", "torch-compiled", "onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
DeviceKind = Literal["cpu", "cuda"]

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

FORMS_ON: Mapping[DeviceKind, tuple[str, ...]] = {
    "cpu": (
        "torch-fp32",
        "torch-winograd-fp32",
        "onnxruntime-fp32",
        "openvino-fp32",
        "torch-bf16",
        "openvino-bf16",
        "torch-compiled-fp32",
        "torch-compiled-bf16",
        "onnxruntime-int8",
        "openvino-int8",
    ),
    "cuda": (
        "torch-fp32",
        "torch-bf16",
        "torch-compiled-fp32",
        "torch-compiled-bf16",
        "tensorrt-fp16",
        "tensorrt-bf16",
    ),
}
"""Names of all forms that one or the other machine with such a device may run, in the order that they are measured
in."""
FORM_NAMES = tuple(dict.fromkeys(name for names in FORMS_ON.values() for name in names))
AUTO = "auto"
PLAIN_NAME = "torch-fp32"
"""The form that every artifact can be run in, and that the others are compared with."""

MANIFEST = "optimisation.json"
"""The list of the files that were made, in their folder."""
_ROUNDING = 1e-9
_CLOSE = 0.8
"""Of the rate of the fastest form: by so much a machine's speed changes from minute to minute."""
_MOST_FOR_TWO = 2**30
"""Bytes: who optimises has room for one form after the other."""


@dataclass(frozen=True)
class Tolerance:
    """How far a form may be from the plain one to be served."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    accuracy_points: Annotated[Number, Field(ge=0, le=100)] = 0.5
    """By how many points, of 100, its accuracy may be lower."""
    agreement: Annotated[Number, Field(ge=0, le=1)] = 0.99
    """The least share of images, 0-1, for which its most probable label is to be the same."""
    unknown_agreement: Annotated[Number, Field(ge=0, le=1)] = 0.95
    """The least share of images, 0-1, for which it is to decide the same as to whether they are unknown."""


DEFAULT_TOLERANCE = Tolerance()


@described
@dataclass(frozen=True)
class Figures:
    """What a form makes of the validation images."""

    accuracy: float
    """Share of images, 0-1, that are labelled right."""
    agreement: float
    """Share of images, 0-1, with the same most probable label as in the plain form."""
    log_loss: float
    """Mean, in nats, at the version's temperature."""
    calibration_error: float
    """Expected calibration error at that temperature, 0-1."""
    refused: float | None = None
    """Share of images, 0-1, that are said to be unknown; None, as what follows, for optimisations of old and for
    versions without a calibration."""
    unknown_agreement: float | None = None
    """Share of images, 0-1, of which that is said as in the plain form, be it yes or no."""
    unknown_below: float | None = None
    """The similarity below which it is: the version's threshold, moved as far as the similarities around it have moved
    from those of the plain form, so that as many images are refused."""


@described
@dataclass(frozen=True)
class Speed:
    """What it takes, on the machine that measured."""

    latency_ms: float
    """Median for one image by itself, on all threads."""
    single_thread_ms: float
    """... and on one thread."""
    images_per_second: float
    """In batches of so many as `batch` says; on a CPU, as many batches at once as there are threads."""
    memory_bytes: int | None
    """By which the process grew when it was loaded and first run, on one thread and on all; None where that cannot be
    told."""
    batch: int | None = None
    """How many images are best passed together, of the sizes that were tried; None for optimisations of old."""


@described
@dataclass(frozen=True)
class MeasuredForm:
    """One form; `reason` says why it is not inside the tolerance, or why there are no figures."""

    runtime: Runtime
    precision: Precision
    figures: Figures | None
    speed: Speed | None
    within: bool
    """Whether it is inside the tolerance."""
    reason: str | None

    @property
    def name(self) -> str:
        """Such as `openvino-int8`."""
        return f"{self.runtime}-{self.precision}"


@described
@dataclass(frozen=True)
class Machine:
    """What was measured on."""

    device: DeviceKind
    name: str
    """Of its CPU or GPU."""
    threads: int
    int8_saturates: bool | None = None
    """Whether its CPU adds products of 8 bits in 16, where two may not fit, so that weights in int8 have 7 bits; None
    for GPUs and for optimisations of old."""


@described
@dataclass(frozen=True)
class Report:
    """The forms of a classifier, measured on all validation images."""

    machine: Machine
    images: int
    """Of the validation split."""
    temperature: float
    """That logits are divided by."""
    tolerance: Tolerance
    forms: tuple[MeasuredForm, ...]
    """The plain one first."""
    order: tuple[str, ...]
    """Those inside the tolerance that are faster than the plain one, the fastest first; then the plain one."""
    is_partial: bool = False
    """Whether some are missing that its machine compares where nobody says which."""

    def unknown_below(self, name: str) -> float | None:
        """The similarity below which the form `name` says that an image is unknown; None where that was not measured,
        and is the version's own."""
        found = self._named(name)
        return None if found is None or found.figures is None else found.figures.unknown_below

    def batch(self, name: str) -> int | None:
        """How many images the form `name` is best passed together; None where that was not measured."""
        found = self._named(name)
        return None if found is None or found.speed is None else found.speed.batch

    def _named(self, name: str) -> MeasuredForm | None:
        return next((form for form in self.forms if form.name == name), None)


@dataclass(frozen=True)
class Pins:
    """What somebody has decided a classifier is to be run by; `auto` leaves it to what was measured."""

    runtime: str = AUTO
    precision: str = AUTO

    @property
    def is_open(self) -> bool:
        return self.runtime == self.precision == AUTO

    def over(self, others: "Pins") -> "Pins":
        """These, and where they leave something open, `others`."""
        return Pins(
            others.runtime if self.runtime == AUTO else self.runtime,
            others.precision if self.precision == AUTO else self.precision,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the forms that fit, whatever machine runs them."""
        runtimes = RUNTIMES if self.runtime == AUTO else (self.runtime,)
        precisions = PRECISIONS if self.precision == AUTO else (self.precision,)
        pairs = (f"{runtime}-{precision}" for runtime in runtimes for precision in precisions)
        return tuple(name for name in pairs if name in FORM_NAMES)

    def fit(self, form: MeasuredForm) -> bool:
        return self.runtime in (AUTO, form.runtime) and self.precision in (AUTO, form.precision)


NO_PINS = Pins()
_PLAIN_PINS = Pins("torch", "fp32")


@dataclass(frozen=True)
class Serving:
    """How a classifier is to be run: the first of `forms` that works, with the files of this optimisation."""

    optimisation_id: str | None
    forms: tuple[str, ...]

    @property
    def is_of_torch(self) -> bool:
        """Whether the first form is the network as torch has it, which is built to be loaded."""
        return self.forms[0].startswith("torch")


UNOPTIMISED = Serving(None, (PLAIN_NAME,))


def miss(found: Figures, plain: Figures, tolerance: Tolerance) -> str | None:
    """Why a form is not inside the tolerance, None where it is."""
    lower = 100 * (plain.accuracy - found.accuracy)
    if lower > tolerance.accuracy_points + _ROUNDING:
        allowed = tolerance.accuracy_points
        return f"its accuracy is {wording.past(lower, allowed)} points lower; {allowed:g} are allowed"
    if found.agreement < tolerance.agreement - _ROUNDING:
        wanted = 100 * tolerance.agreement
        told = wording.past(100 * found.agreement, wanted)
        return f"it agrees on {told} % of the images; {wanted:g} % are wanted"
    if found.unknown_agreement is not None and found.unknown_agreement < tolerance.unknown_agreement - _ROUNDING:
        wanted = 100 * tolerance.unknown_agreement
        told = wording.past(100 * found.unknown_agreement, wanted)
        return f"it agrees on which images are unknown for {told} % of them; {wanted:g} % are wanted"
    return None


def best_rate(forms: Sequence[MeasuredForm], precision: Precision) -> float:
    """Of those in `precision` that are inside the tolerance, images a second; 0 where there is none."""
    fit = (form.speed.images_per_second for form in forms if form.within and form.speed and form.precision == precision)
    return max(fit, default=0.0)


def contenders(forms: Sequence[MeasuredForm]) -> list[MeasuredForm]:
    """The two fastest inside the tolerance, where they are so close that timing them again may turn them round; none
    where they are not, or are not known to be small enough to be in memory at the same time."""
    fit = [(form.speed.images_per_second, form) for form in forms if form.within and form.speed]
    fastest = sorted(fit, key=lambda pair: -pair[0])[:2]
    if len(fastest) < 2 or fastest[1][0] < _CLOSE * fastest[0][0]:
        return []
    found = [form for _, form in fastest]
    sizes = [form.speed.memory_bytes for form in found if form.speed]
    is_small = sum(size for size in sizes if size is not None) <= _MOST_FOR_TWO
    return found if is_small and None not in sizes else []


def in_proportion(forms: Sequence[MeasuredForm], rates: Mapping[str, float]) -> list[MeasuredForm]:
    """`forms`, those that `rates` names in that proportion to one another, with the highest rate that one of them
    had."""
    before = (form.speed.images_per_second for form in forms if form.speed and form.name in rates)
    factor = max(before) / max(rates.values())
    return [
        replace(form, speed=replace(form.speed, images_per_second=factor * rates[form.name]))
        if form.speed and form.name in rates
        else form
        for form in forms
    ]


def order(forms: Sequence[MeasuredForm]) -> tuple[str, ...]:
    """The names of those to serve, the fastest first, as far as they are faster than the plain one, which is last."""
    rates = {form.name: form.speed.images_per_second for form in forms if form.within and form.speed}
    plain = rates.get(PLAIN_NAME, 0.0)
    faster = [name for name, rate in rates.items() if name != PLAIN_NAME and rate > plain]
    return (*sorted(faster, key=lambda name: -rates[name]), PLAIN_NAME)


def choose(report: Report | None, pins: Pins) -> tuple[str, ...]:
    """The forms to try in order, the plain one last: as measured, or those that somebody has pinned.

    Who pins has decided, so what is pinned is served also where it is outside the tolerance or slow; among several
    that fit, those inside come first, and then the fastest. In place of what was not built there is the plain form.
    """
    if report is None:
        return (PLAIN_NAME,)
    if pins.is_open:
        return report.order
    fitting = [form for form in report.forms if form.speed is not None and pins.fit(form)]
    fitting.sort(key=lambda form: (not form.within, -(form.speed.images_per_second if form.speed else 0.0)))
    return tuple(dict.fromkeys([*(form.name for form in fitting), PLAIN_NAME]))


def explain(report: Report | None, pins: Pins) -> str:
    """Why the first of `choose` is that, in words."""
    first = choose(report, pins)[0]
    if report is None:
        return "It was not optimised on such a device, so it is run as it was trained."
    entry = next(form for form in report.forms if form.name == first)
    if pins.is_open:
        names = ", ".join(form.name for form in report.forms if form.speed)
        measured = f" of those measured ({names})" if report.is_partial else ""
        if first == PLAIN_NAME:
            return f"No other form{measured} inside the tolerance is faster."
        plain = next(form for form in report.forms if form.name == PLAIN_NAME)
        assert entry.speed is not None
        assert plain.speed is not None
        times = entry.speed.images_per_second / plain.speed.images_per_second
        gain = f"{times:.1f}" if times >= 1.1 else wording.past(times, 1.0)
        faster = f"{gain} times as many images per second as {PLAIN_NAME}"
        return f"The fastest form{measured} inside the tolerance: {faster}."
    asked = f"runtime {pins.runtime} and precision {pins.precision} are pinned"
    if not pins.fit(entry):
        return f"It is run as it was trained: {asked}, which was not built here."
    outside = "" if entry.within else f"; it is outside the tolerance: {entry.reason}"
    return f"As {asked}{outside}."


def check_names(pins: Pins) -> None:
    """Raise `UnknownName` for a runtime or precision that there is none of."""
    if pins.runtime not in (AUTO, *RUNTIMES):
        raise errors.UnknownName("runtime", pins.runtime, (AUTO, *RUNTIMES)).at("runtime")
    if pins.precision not in (AUTO, *PRECISIONS):
        raise errors.UnknownName("precision", pins.precision, (AUTO, *PRECISIONS)).at("precision")


def check(pins: Pins, reports: Sequence[Report]) -> None:
    """Raise `UnknownName` for names that nothing has, and `Invalid` where none of `reports`, one for each kind of
    device, has a form with figures that fits."""
    check_names(pins)
    if pins.over(_PLAIN_PINS) == _PLAIN_PINS:
        return  # every version can be run as it was trained
    measured = {form.name: form for report in reports for form in report.forms}
    if any(pins.fit(form) and form.speed is not None for report in reports for form in report.forms):
        return
    failed = {name: form.reason or "" for name, form in measured.items() if pins.fit(form)}
    valid = sorted({form.name for report in reports for form in report.forms if form.speed}) or [PLAIN_NAME]
    why = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    raise errors.Invalid(
        f"this version was not built with runtime {pins.runtime} and precision {pins.precision}"
        + (f" ({why})" if why else "")
        + f"; built are {', '.join(valid)}",
        code="form_not_built",
        detail={"runtime": pins.runtime, "precision": pins.precision, "valid": [*valid], "failed": dict(failed)},
    )
