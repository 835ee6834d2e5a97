"""How good a classifier is: its probabilities for labelled images, and the figures that follow from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app import intervals
from app.backbones.classifier import InferenceForm
from app.backbones.preprocess import Preprocessing
from app.evaluation import ClassFigures, Evaluation, TopAccuracy
from app.intervals import Score
from worker.training import data, features, transfer, unknown
from worker.training.data import Images, Selection, Splits
from worker.training.events import Emit, Progress
from worker.training.features import Features

_TOP = 5
_TOPS = (2, 3, 5, 10)
_SHARPNESSES = tuple(2.0 ** (exponent / 4) for exponent in range(-12, 9))
"""Inverse temperatures."""
_RANKED_AT_ONCE = 1024
_ANSWERED_AT_ONCE = 8192


@dataclass(frozen=True)
class Answers:
    """What a classifier says of N images."""

    probabilities: NDArray[np.float64]
    """`(N, K)`."""
    similarities: NDArray[np.float64]
    """`(N, K)`: cosines with the mean of each label's features."""
    means: NDArray[np.float32]
    """Of the features of each label, `(K, D)`."""


class Gathered:
    """`count` rows that come in parts, and are never in memory twice."""

    def __init__(self, count: int) -> None:
        self._count, self._done = count, 0
        self._room: NDArray[np.float64] = np.empty((count, 0))

    @property
    def rows(self) -> NDArray[np.float64]:
        """Those that have come."""
        return self._room[: self._done]

    def add(self, part: NDArray[np.float64]) -> None:
        """The next rows `(B, K)`."""
        if not self._done:
            self._room = np.empty((self._count, part.shape[1]))
        self._room[self._done : self._done + len(part)] = part
        self._done += len(part)


@dataclass(frozen=True)
class Judge:
    """A classifier that is shown images, which take the same way as in serving."""

    network: InferenceForm
    preprocessing: Preprocessing
    max_pixels: int
    device: torch.device
    emit: Emit

    def features(self, images: Images, *, phase: str) -> Iterator[Tensor]:
        """What the head gets `(B, D) float32`, batch by batch, on the device. Raises `BadImage`."""
        done = 0
        parts = data.parts_of(len(images), features.batch_size(self.device))
        network = self.network.to(self.device)
        for batch in features.views(images, parts, self.preprocessing, max_pixels=self.max_pixels):
            with torch.inference_mode():
                yield torch.cat(transfer.in_pieces(lambda piece: network.features(piece.to(self.device)), batch))
            done += len(batch)
            self.emit(Progress(phase, done, len(images)))

    def probabilities(self, values: Tensor) -> NDArray[np.float64]:
        """Of features `(B, D)`, for each label `(B, K)`."""
        with torch.inference_mode():
            return self.network.head(values).double().softmax(dim=1).cpu().numpy()  # type: ignore[no-any-return]


def evaluate(probabilities: NDArray[np.float64], targets: NDArray[np.int64], labels: Sequence[str]) -> Evaluation:
    """The figures of `probabilities (N, K)` against `targets (N,)`, N at least 1."""
    rows = np.arange(len(targets))
    predicted = probabilities.argmax(axis=1)
    right = predicted == targets
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    # A probability that is rounded to 0 would make the loss infinite.
    likelihood = np.clip(probabilities[rows, targets], np.finfo(np.float64).eps, 1)
    return Evaluation(
        images=len(targets),
        accuracy=float(right.mean()),
        top5_accuracy=_top_accuracy(probabilities, targets, _TOP) if len(labels) > _TOP else None,
        log_loss=float(abs(np.log(likelihood).mean())),
        classes=tuple(_figures(confusion, place, label) for place, label in enumerate(labels)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        accuracy_interval=intervals.of_share(Score(int(right.sum()), len(targets))),
        top=tuple(TopAccuracy(k, _top_accuracy(probabilities, targets, k)) for k in _TOPS if k < len(labels)),
        right=np.packbits(right).tobytes().hex(),
    )


def tempered_log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """The mean log-loss in nats of `probabilities (N, K)` at the temperature that suits them best (Guo et al. 2017).

    With that, classifiers can be compared on few images: it does not jump from image to image as the accuracy does, and
    does not punish a network that is right but too sure of itself, as most are that were trained for long.
    """
    return float(tempered_losses(probabilities, targets).mean())


def tempered_losses(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The loss of each image `(N,)` at that temperature, the same for all."""
    losses = np.empty((len(_SHARPNESSES), len(targets)))
    for part in data.parts_of(len(targets), _RANKED_AT_ONCE):
        rows = slice(part.start, part.stop)
        losses[:, rows] = _sharpened_losses(probabilities[rows], targets[rows])
    return min(losses, key=lambda one: float(one.mean()))


def _sharpened_losses(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """At each of `_SHARPNESSES`, of each image `(T, N)`."""
    logits = np.log(np.clip(probabilities, np.finfo(np.float64).eps, 1))
    rows, losses = np.arange(len(targets)), []
    for sharpness in _SHARPNESSES:
        scaled = sharpness * logits
        top = scaled.max(axis=1)
        total = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
        losses.append(total - scaled[rows, targets])
    return np.stack(losses)


def predict(
    network: InferenceForm,
    images: Images,
    preprocessing: Preprocessing,
    *,
    max_pixels: int,
    phase: str,
    emit: Emit,
    device: torch.device,
) -> NDArray[np.float64]:
    """Probabilities `(N, K)` for all of `images`, which take the same way as in serving. Raises `BadImage`."""
    judge = Judge(network, preprocessing, max_pixels, device, emit)
    found = Gathered(len(images))
    for values in judge.features(images, phase=phase):
        found.add(judge.probabilities(values))
    return found.rows


def answer(judge: Judge, splits: Splits, *, seed: int) -> Answers:
    """What is said of the validation images, which are compared with some of the training images. Raises `BadImage`."""
    chosen = unknown.sample(splits.train.targets, seed=seed)
    seen = [values.cpu().numpy() for values in judge.features(Selection(splits.train, chosen), phase="reference")]
    means = unknown.directions(np.concatenate(seen), splits.train.targets[chosen], classes=len(splits.labels))
    probabilities, similarities = Gathered(len(splits.validation)), Gathered(len(splits.validation))
    for values in judge.features(splits.validation, phase="evaluate"):
        probabilities.add(judge.probabilities(values))
        similarities.add(unknown.similarities(values.cpu().numpy(), means))
    return Answers(probabilities.rows, similarities.rows, means)


def _top_accuracy(probabilities: NDArray[np.float64], targets: NDArray[np.int64], k: int) -> float:
    hits = 0
    for part in data.parts_of(len(targets), _RANKED_AT_ONCE):
        best = np.argpartition(-probabilities[part.start : part.stop], k, axis=1)[:, :k]
        hits += int((best == targets[part.start : part.stop, None]).any(axis=1).sum())
    return hits / len(targets)


def _figures(confusion: NDArray[np.int64], place: int, label: str) -> ClassFigures:
    hits = int(confusion[place, place])
    images, predicted = int(confusion[place].sum()), int(confusion[:, place].sum())
    return ClassFigures(
        label=label,
        images=images,
        precision=hits / predicted if predicted else 0.0,
        recall=hits / images if images else 0.0,
        f1=2 * hits / (images + predicted) if images + predicted else 0.0,
    )


def answer_from(found: Features, head: nn.Linear, splits: Splits, *, seed: int) -> Answers:
    """`answer` of a network whose features are there already, of which `head` sees those in `found`."""
    chosen = unknown.sample(splits.train.targets, seed=seed)
    means = unknown.directions(found.train[chosen], splits.train.targets[chosen], classes=len(splits.labels))
    probabilities, similarities = Gathered(len(found.validation)), Gathered(len(found.validation))
    for part in data.parts_of(len(found.validation), _ANSWERED_AT_ONCE):
        values = found.validation[part.start : part.stop]
        with torch.no_grad():
            probabilities.add(head(torch.from_numpy(values)).double().softmax(dim=1).numpy())
        similarities.add(unknown.similarities(values, means))
    return Answers(probabilities.rows, similarities.rows, means)
