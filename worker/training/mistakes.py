"""The mistakes that a classifier is surest of, with small pictures of the images."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.backbones import preprocess
from app.evaluation import Mistake
from worker.training.data import Images

MOST = 24
SIDE = 192
"""Pixels of a thumbnail's longer side."""

_QUALITY = 80


def worst(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of up to `MOST` images that are labelled wrong, those with the highest probability first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    order = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    return wrong[order[:MOST]]


def described(
    positions: NDArray[np.int64], probabilities: NDArray[np.float64], images: Images, labels: Sequence[str]
) -> tuple[Mistake, ...]:
    """What is known of the images at these positions."""
    hashes, targets, predicted = images.sha256, images.targets, probabilities.argmax(axis=1)
    return tuple(
        Mistake(
            sha256=hashes[place],
            label=labels[targets[place]],
            predicted=labels[predicted[place]],
            probability=float(probabilities[place, predicted[place]]),
            label_probability=float(probabilities[place, targets[place]]),
        )
        for place in positions
    )


def thumbnail(file: bytes, *, max_pixels: int) -> bytes:
    """The whole image as a JPEG of `SIDE` pixels at most, upright and without its metadata. Raises `BadImage`."""
    image = preprocess.decode(file, max_pixels=max_pixels, target=SIDE)
    # A strip of one pixel's height would have none left.
    scale = min(1.0, SIDE / max(image.size))
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
