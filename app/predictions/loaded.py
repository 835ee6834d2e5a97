"""A classifier that is ready to answer: its network in some runtime, with what its outputs mean."""

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.backbones.preprocess import Preprocessing
from app.models.artifact import Calibration
from app.runtimes.form import Form, Images, Machine, Network

_WIDE_FROM_SECONDS = 0.01
"""A pass that takes less is not worth a second copy of the network that computes on all threads."""
_PASSES = 3
_BATCHES = (8, 32)
_GAIN = 1.15
"""So much more an image must gain by a batch: whoever is in one waits for the others."""


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
        # Not by numpy: it lets go of the interpreter, and the event loop would have to wait to have it back.
        values = self.probabilities.tolist()
        best = heapq.nsmallest(top_k, range(len(values)), key=lambda place: (-values[place], place))
        return [Ranked(self.labels[place], values[place]) for place in best if values[place] >= threshold]


class Loaded:
    """A classifier ready to run. `measure` it before the first request."""

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
        self.seconds = 0.0
        """What an image takes on one thread."""
        self.batch = 1
        """How many images are best passed together."""
        self._calibration = calibration
        self._means = None if calibration is None else calibration.means.double().numpy().T

    def measure(self, *, batch: int | None) -> None:
        """Warm the network up, and find out how long an image takes and, unless that is given as `batch`, whether it
        gains by others passed with it."""
        one = self._blank(1)
        self.network.run(one)
        self.seconds = self._timed(one)
        if self.seconds > _WIDE_FROM_SECONDS:
            self.network.widen()
            self.network.run(one, alone=True)
        self.batch = batch or self._best_batch()

    def answers(self, images: Sequence[Images], *, alone: bool) -> list[Answer]:
        """What is said of images, each `(H, W, 3)` and of the size that `preprocessing` makes."""
        passed = self.network.run(_stacked(images), alone=alone)
        probabilities = _softmax(passed.logits, 1.0 if self._calibration is None else self._calibration.temperature)
        similar, unknown = self._likeness(passed.features)
        return [
            Answer(self.labels, values, logits, similarity, is_unknown)
            for values, logits, similarity, is_unknown in zip(
                probabilities, passed.logits, similar, unknown, strict=True
            )
        ]

    def _likeness(self, features: NDArray[np.float32]) -> tuple[Sequence[float | None], Sequence[bool | None]]:
        if self._calibration is None or self._means is None:
            return [None] * len(features), [None] * len(features)
        values = features.astype(np.float64)
        lengths = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        nearest = ((values / lengths) @ self._means).max(axis=1)
        return nearest.tolist(), (nearest < self._calibration.unknown_below).tolist()

    def _best_batch(self) -> int:
        best, least = 1, self.seconds / _GAIN
        for count in _BATCHES:
            each = self._timed(self._blank(count)) / count
            if each > least:
                break
            best, least = count, each
        return best

    def _timed(self, images: Images) -> float:
        times = []
        for _ in range(_PASSES):
            started = time.perf_counter()
            self.network.run(images)
            times.append(time.perf_counter() - started)
        return min(times)

    def _blank(self, count: int) -> Images:
        size = self.preprocessing.crop
        return np.full((count, size, size, 3), 127, np.uint8)


def _stacked(images: Sequence[Images]) -> Images:
    if len(images) == 1:
        return images[0][None]
    whole: Images = np.empty((len(images), *images[0].shape), images[0].dtype)
    np.stack(images, out=whole)
    return whole


def _softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
