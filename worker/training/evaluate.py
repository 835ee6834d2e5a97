"""How good a classifier is: its probabilities for labelled images, and the figures that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from app.backbones import preprocess
from app.backbones.classifier import InferenceForm
from app.backbones.preprocess import Preprocessing
from worker.training import data, features
from worker.training.data import Images
from worker.training.events import Emit, Progress

_TOP = 5
_SHARPNESSES = tuple(2.0 ** (exponent / 4) for exponent in range(-12, 9))
"""Inverse temperatures."""
_RANKED_AT_ONCE = 1024


@dataclass(frozen=True)
class ClassFigures:
    """One label: its images, and precision, recall and F1 as 0-1; each is 0 where its denominator is."""

    label: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """Figures over labelled images; plain values throughout."""

    images: int
    accuracy: float
    top5_accuracy: float | None
    """None where there are no more than five labels."""
    log_loss: float
    """Mean, in nats."""
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    """`confusion[i][j]`: images of label i taken for label j."""


def evaluate(probabilities: NDArray[np.float64], targets: NDArray[np.int64], labels: Sequence[str]) -> Evaluation:
    """The figures of `probabilities (N, K)` against `targets (N,)`, N at least 1."""
    rows = np.arange(len(targets))
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    # A probability that is rounded to 0 would make the loss infinite.
    likelihood = np.clip(probabilities[rows, targets], np.finfo(np.float64).eps, 1)
    return Evaluation(
        images=len(targets),
        accuracy=float((predicted == targets).mean()),
        top5_accuracy=_top_accuracy(probabilities, targets) if len(labels) > _TOP else None,
        log_loss=float(-np.log(likelihood).mean()),
        classes=tuple(_figures(confusion, place, label) for place, label in enumerate(labels)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def tempered_log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """The mean log-loss in nats of `probabilities (N, K)` at the temperature that suits them best (Guo et al. 2017).

    With that, classifiers can be compared on few images: it does not jump from image to image as the accuracy does, and
    does not punish a network that is right but too sure of itself, as most are that were trained for long.
    """
    logits = np.log(np.clip(probabilities, np.finfo(np.float64).eps, 1))
    rows = np.arange(len(targets))
    losses = []
    for sharpness in _SHARPNESSES:
        scaled = sharpness * logits
        top = scaled.max(axis=1)
        total = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
        losses.append(float((total - scaled[rows, targets]).mean()))
    return min(losses)


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

    def view(_position: int, file: bytes) -> preprocess.Pixels:
        return preprocess.load(file, preprocessing, max_pixels=max_pixels)

    found: list[NDArray[np.float64]] = []
    done = 0
    parts = data.parts_of(len(images), features.batch_size(device))
    for batch in data.batches(images, parts, view, threads=torch.get_num_threads()):
        with torch.inference_mode():
            found.append(network(batch.to(device)).double().softmax(dim=1).cpu().numpy())
        done += len(batch)
        emit(Progress(phase, done, len(images)))
    return np.concatenate(found)


def _top_accuracy(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    hits = 0
    for part in data.parts_of(len(targets), _RANKED_AT_ONCE):
        best = np.argpartition(-probabilities[part.start : part.stop], _TOP, axis=1)[:, :_TOP]
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
