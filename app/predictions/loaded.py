"""A classifier that is ready to answer: its network in some runtime, with what its outputs mean."""

import heapq
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app import errors
from app.backbones import crops, preprocess
from app.backbones.preprocess import Preprocessing
from app.models.artifact import Calibration
from app.predictions.lone import Lone
from app.runtimes.form import BATCH, SIDE_BY_SIDE, Form, Images, Machine, Network, Passed

_WIDE_FROM_SECONDS = 0.01
"""A pass that takes less is not worth a second copy of the network that computes on all threads."""
_PASSES = 3
_LONE_PASSES = 2
"""On all threads, and on one: what is asked for tells more."""
_BATCHES = (8, BATCH)
_GAIN = 1.15
"""So much more an image must gain by a batch: whoever is in one waits for the others."""
_LONGEST_BATCH_SECONDS = 0.1
"""A batch that would take longer is not tried: its answers would all come late, and it would need much memory."""
_LOSS_SIDE_BY_SIDE = 1.06
"""There batches are made only of what would wait anyway, and what is done for a pass, besides the pass, is done once
for all: so it is enough that the pass itself takes no more than this."""
_LONGEST_SIDE_BY_SIDE_SECONDS = 0.05
"""A batch that would take longer is not tried there, as the first request would have to wait for that: an optimisation
knows already whether it gains, and without one each image is passed by itself."""
_HOPELESS = 1.5
"""A batch that takes so many times what it may take once is not timed again."""
_FAR = 2.0
"""A pass that takes so many times what another one does had to wait for something else."""

Clock = Callable[[], float]
"""The time in seconds, since whenever."""

_PIXEL_RANGE = (-255.0, 510.0)
"""Further from 0-255 no resizing gets an image; what is there was not normalised as the version wants it."""


@dataclass(frozen=True)
class Normalised:
    """An image as the network takes it: `(3, H, W) float32`, scaled to 0-1 and normalised with the version's mean and
    std."""

    values: NDArray[np.float32]


Given = bytes | Images | Normalised
"""An image as a client gives it: a file (JPEG, PNG, WebP), RGB pixels `(H, W, 3)` 0-255 of the size that the version
takes, or such pixels normalised."""


@dataclass
class Pace:
    """How fast a network is, which is the same for all of the same kind on the same machine; for any thread."""

    seconds: float
    """What an image takes on one thread, at the most."""
    batch: int
    """How many images are best passed together, where so many wait."""
    lone: Lone | None = None
    """What one takes on all threads, where that is worth a try."""
    _measured_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self._measured_seconds = self.seconds

    @property
    def is_doubtful(self) -> bool:
        """Whether passes have taken far less since `batch` was found: the machine was busy then."""
        return _FAR * self.seconds < self._measured_seconds

    def took(self, seconds: float) -> None:
        """An image took no longer on one thread: the machine may have been busy when that was timed first."""
        if seconds < self.seconds:
            self.seconds = seconds


@dataclass(frozen=True)
class Ranked:
    """One label of one image; probability 0-1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What is said of one image."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    """`(K,)`, at the temperature of the classifier's calibration."""
    logits: NDArray[np.float32]
    """`(K,)`."""
    similarity: float | None
    """Cosine of its features with the mean of the nearest label's; None for versions of old, which have no means."""
    is_unknown: bool | None
    """Whether that is below the version's threshold."""

    def ranked(self, top_k: int, threshold: float = 0.0) -> list[Ranked]:
        """The `top_k` most probable labels with at least `threshold`, the most probable first."""
        values = self.probabilities.tolist()
        return [
            Ranked(self.labels[place], values[place]) for place in best(values, top_k) if values[place] >= threshold
        ]


def best(values: Sequence[float], count: int) -> list[int]:
    """The places of the `count` greatest values, the greatest first."""
    # Not by numpy: it lets go of the interpreter, and the event loop would have to wait to have it back.
    return heapq.nsmallest(count, range(len(values)), key=lambda place: (-values[place], place))


@dataclass(frozen=True)
class Opened:
    """An image of which at most the header was read."""

    large_pixels: int
    """How many pixels are in memory while it is decoded, of an image that has so many that it is to be decoded while no
    other such image is; 0 for others."""
    pixels: Callable[[], Images]
    """What the network sees of it: `(H, W, 3)` 0-255. Raises `BadImage`."""


class Loaded:
    """A classifier ready to run. `measure` it before the first request, or `warm_up` one whose pace is known."""

    def __init__(
        self,
        network: Network,
        form: Form,
        *,
        labels: tuple[str, ...],
        preprocessing: Preprocessing,
        calibration: Calibration | None,
        machine: Machine,
    ) -> None:
        self.network = network
        self.form = form
        self.labels = labels
        self.preprocessing = preprocessing
        self.passes_at_once = machine.threads if machine.device == "cpu" else 1
        self.pace = Pace(0.0, 1)
        self.batch = 1
        """How many images are best passed together, where so many wait."""
        self._calibration = calibration
        self._means = None if calibration is None else calibration.means.double().numpy().T

    @property
    def is_calibrated(self) -> bool:
        """Whether its answers say how similar images are to what it knows."""
        return self._calibration is not None

    def measure(self, *, batch: int | None, known: int | None = None, clock: Clock = time.perf_counter) -> Pace:
        """Warm the network up, and find out how long an image takes and, unless that is given as `batch`, whether it
        gains by others passed with it: where that would take long, by the batch that was best when it was optimised,
        `known`."""
        seconds = _timed(partial(self.network.run, self._blank(1)), clock, seconds=math.inf)
        lone = Lone(clock) if self.passes_at_once > 1 and seconds > _WIDE_FROM_SECONDS else None
        pace = Pace(seconds, batch or self._best_batch(seconds, known, clock), lone)
        self.network.settle()
        self.warm_up(pace)
        if lone is not None:
            for is_wide in (True, False) * _LONE_PASSES:
                self._pass_alone(self._blank(1), lone, is_wide=is_wide)
        return pace

    def warm_up(self, pace: Pace) -> None:
        """Make ready for the first request."""
        self.pace, self.batch = pace, pace.batch
        for count in sorted({1, pace.batch}):  # what is compiled is compiled for one, and then for any number of images
            self.network.run(self._blank(count))
        if pace.lone is not None:
            self.network.widen()
            self.network.run(self._blank(1), alone=True)

    def opened(self, image: Given, *, max_pixels: int) -> Opened:
        """`image` with no more than the header of its file read. Raises `BadImage`."""
        if not isinstance(image, bytes):
            return Opened(0, partial(self._checked, image))
        file = preprocess.open_file(image, max_pixels=max_pixels, target=self.preprocessing.resize)
        return Opened(file.large_pixels, lambda: crops.centre_crop(crops.decoded(file), self.preprocessing))

    def pixels(self, image: Given, *, max_pixels: int) -> Images:
        """What the network sees of `image`: `(H, W, 3)` 0-255. Raises `BadImage`."""
        return self.opened(image, max_pixels=max_pixels).pixels()

    def answers(self, images: Sequence[Images], *, alone: bool) -> list[Answer]:
        """What is said of images, each `(H, W, 3)` and of the size that `preprocessing` makes."""
        passed = self._passed(_stacked(images), alone=alone)
        probabilities = _softmax(passed.logits, 1.0 if self._calibration is None else self._calibration.temperature)
        similar, unknown = self._likeness(passed.features)
        return [
            Answer(self.labels, values, logits, similarity, is_unknown)
            for values, logits, similarity, is_unknown in zip(
                probabilities, passed.logits, similar, unknown, strict=True
            )
        ]

    def _passed(self, images: Images, *, alone: bool) -> Passed:
        lone = self.pace.lone
        if not alone or lone is None:
            return self.network.run(images, alone=alone)
        return self._pass_alone(images, lone, is_wide=lone.next_is_wide())

    def _pass_alone(self, image: Images, lone: Lone, *, is_wide: bool) -> Passed:
        started = lone.clock()
        passed = self.network.run(image, alone=is_wide)
        seconds = lone.clock() - started
        lone.took(seconds, is_wide=is_wide)
        # One thread needs no longer than all of them do one after the other.
        self.pace.took(seconds * self.passes_at_once if is_wide else seconds)
        return passed

    def _checked(self, image: Images | Normalised) -> Images:
        """The pixels of what is no file. Raises `BadImage`."""
        height, width = image.values.shape[1:] if isinstance(image, Normalised) else image.shape[:2]
        size = self.preprocessing.crop
        if (height, width) != (size, size):
            raise errors.BadImage(
                f"pixels of {width} x {height} where this version takes {size} x {size}",
                code="wrong_image_size",
                detail={"width": size, "height": size},
            )
        return self._denormalised(image) if isinstance(image, Normalised) else image

    def _denormalised(self, image: Normalised) -> Images:
        mean, std = (np.array(values, np.float32) for values in (self.preprocessing.mean, self.preprocessing.std))
        with np.errstate(over="ignore", invalid="ignore"):
            pixels = (image.values.transpose(1, 2, 0) * std + mean) * np.float32(255)
        least, most = _PIXEL_RANGE
        if not (least <= pixels.min() and pixels.max() <= most):  # nor where there is a NaN
            raise errors.BadImage(
                f"values that are none of an image normalised with mean {list(self.preprocessing.mean)} and std "
                f"{list(self.preprocessing.std)} for pixels scaled to 0-1",
                code="not_normalised",
                detail={"mean": list(self.preprocessing.mean), "std": list(self.preprocessing.std)},
            )
        return np.ascontiguousarray(pixels)

    def _likeness(self, features: NDArray[np.float32]) -> tuple[Sequence[float | None], Sequence[bool | None]]:
        if self._calibration is None or self._means is None:
            return [None] * len(features), [None] * len(features)
        values = features.astype(np.float64)
        lengths = np.sqrt(np.einsum("nd,nd->n", values, values))
        nearest = (values @ self._means).max(axis=1) / np.maximum(lengths, 1e-12)
        return nearest.tolist(), (nearest < self._calibration.unknown_below).tolist()

    def _best_batch(self, seconds: float, known: int | None, clock: Clock) -> int:
        """`seconds`: what an image takes by itself."""
        if self.passes_at_once > 1:
            if SIDE_BY_SIDE * seconds > _LONGEST_SIDE_BY_SIDE_SECONDS:
                return known or 1
            return self._best_side_by_side(clock)
        best, least = 1, seconds / _GAIN
        for count in _BATCHES:
            if count * least > _LONGEST_BATCH_SECONDS:
                break
            each = _timed(partial(self.network.run, self._blank(count)), clock, seconds=count * least) / count
            if each > least:
                break
            best, least = count, each
        return best

    def _best_side_by_side(self, clock: Clock) -> int:
        """As many images as are best passed together by each thread while all of them do so: they share the caches,
        out of which each pass takes the weights of the others."""
        threads = range(self.passes_at_once)
        with ThreadPoolExecutor(len(threads), thread_name_prefix="measure") as pool:

            def passed(batches: Sequence[Images]) -> None:
                """All of `batches` by each of the threads."""
                for _ in pool.map(lambda _thread: [self.network.run(batch) for batch in batches], threads):
                    pass

            one_by_one = _timed(partial(passed, [self._blank(1)] * SIDE_BY_SIDE), clock, seconds=math.inf)
            together = _timed(partial(passed, [self._blank(SIDE_BY_SIDE)]), clock, seconds=one_by_one)
        return SIDE_BY_SIDE if together <= _LOSS_SIDE_BY_SIDE * one_by_one else 1

    def _blank(self, count: int) -> Images:
        size = self.preprocessing.crop
        return np.full((count, size, size, 3), 127, np.uint8)


def _timed(run: Callable[[], object], clock: Clock, *, seconds: float) -> float:
    """The least that `run` takes of some times, of which there are no more once one is far from `seconds`."""
    run()  # the first of so many images may be compiled for them, or load what computes them
    least = math.inf
    for _ in range(_PASSES):
        started = clock()
        run()
        least = min(least, clock() - started)
        if least > _HOPELESS * seconds:
            break
    return least


def _stacked(images: Sequence[Images]) -> Images:
    if len(images) == 1:
        return images[0][None]
    # Where files and tensors come together, all are floats.
    whole: Images = np.empty((len(images), *images[0].shape), np.result_type(*images))
    np.stack(images, out=whole)
    return whole


def _softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
