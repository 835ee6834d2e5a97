"""All forms of a classifier: built, run on the whole validation split, and put in the order that they are served in."""

import gc
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app import errors, optimisation
from app import files as kept
from app.backbones.export import to_onnx
from app.backbones.preprocess import Preprocessing
from app.optimisation import Figures, MeasuredForm, Report, Runtime, Tolerance
from app.runtimes import in_onnx, in_torch, opening
from app.runtimes.form import PLAIN, Files, Form, Machine, named
from app.runtimes.opening import Check
from app.runtimes.optimised import Optimised
from worker.optimising import measure, pixels, quantise, starting
from worker.optimising.events import FormBegun, FormMeasured, FormRefused, FormsOrdered, FormsRunInTurn, Quantised
from worker.optimising.measure import Answers, Memory, Pace, Scale
from worker.optimising.quantise import Quantiser
from worker.training.data import Splits
from worker.training.events import Emit

logger = logging.getLogger(__name__)

CALIBRATED_ON = 256
"""Training images that show how far activations go."""
_JUDGED_ON = 512
"""Validation images that tell whether a way of quantising will do; the forms themselves are run on all."""
_CHECKED_BY = 4
_OF_ONNX = ("onnxruntime", "openvino", "tensorrt")
_SEED = 0


@dataclass(frozen=True)
class Subject:
    """A classifier, and the images of the version that it was trained on."""

    files: Files
    """`optimised` is the folder that the networks are written to."""
    preprocessing: Preprocessing
    scale: Scale
    splits: Splits
    max_pixels: int


@dataclass(frozen=True)
class Setting:
    """What to measure, where, and how."""

    forms: tuple[Form, ...]
    tolerance: Tolerance
    machine: Machine
    seconds: float
    """For how long a form is timed."""
    machine_name: str
    workdir: Path
    """For the decoded images."""
    elsewhere: tuple[Form, ...] = ()
    """Forms that were asked for and are nothing for this machine."""
    given_up: Mapping[str, str] = field(default_factory=dict)
    """Names of forms that are not to be tried any more, and why."""

    @property
    def pace(self) -> Pace:
        return Pace(self.machine, self.seconds)


@dataclass(frozen=True)
class _Plain:
    """What the classifier makes of all validation images as it was trained."""

    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    answers: Answers
    figures: Figures


def compare(subject: Subject, setting: Setting, emit: Emit) -> Optimised:
    """Measure all forms of `setting`, the plain one always among them. Raises `BadImage`, `Unavailable` where not even
    that one can be had, and `OSError` and the like where the disk has no room."""
    validation = subject.splits.validation
    everything = np.arange(len(validation), dtype=np.int64)
    images = pixels.decode(
        validation,
        everything,
        subject.preprocessing,
        setting.workdir / "validation.pixels",
        max_pixels=subject.max_pixels,
        emit=emit,
    )
    bench = _Bench(subject, setting, images, emit)
    plain, first = bench.plain()
    lacking = bench.write_down(plain)
    measured, logits = [first], {PLAIN.name: plain.answers.logits}
    for form in setting.forms:
        if form != PLAIN:
            entry, found = bench.try_form(form, plain, lacking, rival=optimisation.best_rate(measured, form.precision))
            measured.append(entry)
            if found is not None:
                logits[form.name] = found
    measured = bench.run_in_turn(measured)
    measured.extend(bench.refused(form, opening.ELSEWHERE) for form in setting.elsewhere)
    order = optimisation.order(measured)
    emit(FormsOrdered(order))
    device = torch.device(setting.machine.device)
    machine = optimisation.Machine(
        "cuda" if device.type == "cuda" else "cpu",
        setting.machine_name,
        setting.machine.threads,
        int8_saturates=None if device.type == "cuda" else opening.saturates(),
    )
    is_partial = not {*opening.usual_forms(device)} <= {PLAIN, *setting.forms}
    temperature = subject.scale.temperature
    report = Report(machine, len(images), temperature, setting.tolerance, tuple(measured), order, is_partial)
    return Optimised(report, _check(images, logits))


@dataclass(frozen=True)
class _Bench:
    """Where one form after the other is built and measured."""

    subject: Subject
    setting: Setting
    images: NDArray[np.uint8]
    emit: Emit
    started: set[Runtime] = field(default_factory=set)

    def plain(self) -> tuple[_Plain, MeasuredForm]:
        entry, answers = self._measured(PLAIN, None, rival=0.0)
        assert entry.figures is not None
        return _Plain(self.images, self.subject.splits.validation.targets, answers, entry.figures), entry

    def try_form(
        self, form: Form, plain: _Plain, lacking: Mapping[str, str], *, rival: float
    ) -> tuple[MeasuredForm, NDArray[np.float32] | None]:
        """The form with its logits `(N, K)`; None where it cannot be had, with the reason. `rival` is the best rate of
        those before in this precision. Raises what says nothing of the form."""
        reason = self.setting.given_up.get(form.name)
        if reason is None and form.runtime in _OF_ONNX:
            reason = lacking.get(form.precision)
        try:
            if reason is None:
                self.emit(FormBegun(form.name))
                entry, answers = self._measured(form, plain, rival=rival)
                return entry, answers.logits
        except (
            Exception
        ) as error:  # runtimes raise what they like; an end that was asked for comes out of the next event
            if _passes(error):
                raise
            reason = str(error) or type(error).__name__
        return self.refused(form, reason), None

    def run_in_turn(self, measured: list[MeasuredForm]) -> list[MeasuredForm]:
        """All of `measured`, the two fastest in the proportion that they have when they are timed in turn, where that
        may turn them round: they were timed minutes apart, and meanwhile machines do other things, too. The faster one
        keeps the rate of the fastest, so that what others do in these minutes moves neither behind the other forms."""
        close = optimisation.contenders(measured)
        if not close:
            return measured
        machine, names = self.setting.machine, tuple(form.name for form in close)
        try:
            networks = [opening.open_form(self.subject.files, named(name), machine) for name in names]
            sizes = [form.speed.batch or 1 for form in close if form.speed is not None]
            rates = measure.rates([*zip(networks, sizes, strict=True)], self.images, self.setting.pace)
        except Exception as error:  # runtimes raise what they like, and what each had by itself is known
            logger.warning("%s could not be run in turn: %s", " and ".join(names), error)
            return measured
        self.emit(FormsRunInTurn(names, tuple(rates)))
        return optimisation.in_proportion(measured, dict(zip(names, rates, strict=True)))

    def refused(self, form: Form, reason: str) -> MeasuredForm:
        """The form without figures."""
        self.emit(FormRefused(form.name, reason))
        return MeasuredForm(form.runtime, form.precision, None, None, within=False, reason=reason)

    def write_down(self, plain: _Plain) -> dict[str, str]:
        """Write the networks that the forms need; for each precision that could not be had, why. Raises what says
        nothing of the network."""
        wanted = [form for form in self.setting.forms if form.runtime in _OF_ONNX]
        if not wanted:
            return {}
        try:
            self._write_plain()
        except Exception as error:  # of the exporter, for what has no ONNX form
            self._give_up("fp32", error)
            return {form.precision: f"the network has no ONNX form: {error}" for form in wanted}
        if not any(form.precision == "int8" for form in wanted):
            return {}
        try:
            self._write_int8(plain)
        except Exception as error:  # of the quantiser, which knows fewer operations than ONNX has
            self._give_up("int8", error)
            return {"int8": f"the network cannot be quantised: {error}"}
        return {}

    def _give_up(self, precision: str, error: Exception) -> None:
        """Leave nothing of the network that could not be written. Raises the `error` that another attempt may not
        meet."""
        self._path(precision).unlink(missing_ok=True)
        if _passes(error):
            raise error

    def _measured(self, form: Form, plain: _Plain | None, *, rival: float) -> tuple[MeasuredForm, Answers]:
        started = time.perf_counter()
        machine, targets = self.setting.machine, self.subject.splits.validation.targets
        if form.runtime not in self.started:
            self.started.add(form.runtime)
            starting.start([form.runtime], machine)
        memory = Memory(form.runtime, machine.device)
        network = opening.open_form(self.subject.files, form, machine)
        image = np.array(self.images[:1])
        network.run(image)
        network.widen()
        network.run(image, alone=True)
        grown = memory.grown()
        scale, phase = self.subject.scale, f"run {form.name}"
        answers = measure.answers(network, self.images, machine, scale, phase=phase, emit=self.emit)
        figures = measure.figures(answers, answers if plain is None else plain.answers, targets, scale)
        speed = measure.speed(network, self.images, self.setting.pace, memory_bytes=grown, rival=rival)
        del network
        gc.collect()
        reason = None if plain is None else optimisation.miss(figures, plain.figures, self.setting.tolerance)
        entry = MeasuredForm(form.runtime, form.precision, figures, speed, within=reason is None, reason=reason)
        self.emit(
            FormMeasured(
                name=form.name,
                accuracy=figures.accuracy,
                agreement=figures.agreement,
                log_loss=figures.log_loss,
                refused=figures.refused,
                latency_ms=speed.latency_ms,
                images_per_second=speed.images_per_second,
                batch=speed.batch,
                within=entry.within,
                reason=reason,
                seconds=time.perf_counter() - started,
            )
        )
        return entry, answers

    def _write_plain(self) -> None:
        side = self.subject.preprocessing.crop
        axes = {name: {0: "n"} for name in (in_onnx.INPUT, *in_onnx.OUTPUTS)}
        network = to_onnx(
            in_torch.whole(self.subject.files),
            torch.zeros(1, side, side, 3),
            inputs=[in_onnx.INPUT],
            outputs=list(in_onnx.OUTPUTS),
            dynamic=axes,
        )
        self._path("fp32").write_bytes(network)

    def _write_int8(self, plain: _Plain) -> None:
        """In the first way that is inside the tolerance, or in that which agrees best."""
        train, machine, scale = self.subject.splits.train, self.setting.machine, self.subject.scale
        seen = pixels.decode(
            train,
            pixels.spread(len(train), most=CALIBRATED_ON, seed=_SEED),
            self.subject.preprocessing,
            self.setting.workdir / "calibration.pixels",
            max_pixels=self.subject.max_pixels,
            emit=self.emit,
        )
        target = self._path("int8")
        quantiser = Quantiser(self._path("fp32"), seen, small_range=opening.saturates(), emit=self.emit)
        places = pixels.spread(len(self.images), most=_JUDGED_ON, seed=_SEED)
        images, targets, expected = self.images[places], plain.targets[places], plain.answers.at(places)
        plainly = measure.figures(expected, expected, targets, scale)
        tried: list[tuple[float, bytes]] = []
        for way in quantise.WAYS:
            try:
                quantiser.write(target, way)
            except Exception as error:  # of the quantiser or a runtime, and what was made before it is there
                if not tried or _passes(error):
                    raise
                logger.warning("the network was not quantised in the way %r: %s", way.name, error)
                continue
            network = opening.open_form(self.subject.files, Form("onnxruntime", "int8"), machine)
            answers = measure.answers(network, images, machine, scale, phase="judge int8", emit=self.emit)
            found = measure.figures(answers, expected, targets, scale)
            within = optimisation.miss(found, plainly, self.setting.tolerance) is None
            self.emit(Quantised(way.name, found.accuracy, found.agreement, within))
            tried.append((found.agreement, target.read_bytes()))
            if within:
                return
        target.write_bytes(max(tried, key=lambda one: one[0])[1])

    def _path(self, precision: str) -> Path:
        assert self.subject.files.optimised is not None
        return self.subject.files.optimised / in_onnx.NAMES[precision]


def _passes(error: Exception) -> bool:
    """Whether it says nothing of a network or a form, which could be had with room on the disk or all images."""
    return (
        isinstance(error, errors.BadImage)
        or (isinstance(error, errors.Unavailable) and error.code == "no_room")
        or kept.is_of_full_disk(error)
    )


def _check(images: NDArray[np.uint8], logits: Mapping[str, NDArray[np.float32]]) -> Check:
    places: Sequence[int] = sorted({int(place) for place in np.linspace(0, len(images) - 1, _CHECKED_BY)})
    chosen = np.array(images[places])
    return Check(chosen, {name: np.ascontiguousarray(values[places]) for name, values in logits.items()})
