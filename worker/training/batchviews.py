"""Views of all images of a batch at once, on the device that trains: what `crops.random_crop` and `augment.view`
do to one image, with other random numbers.

They are drawn for each image by its place in the epoch, so that a view does not depend on the others of its batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.augmentation import Augmentation
from app.backbones import crops
from app.backbones.preprocess import Interpolation, Preprocessing
from worker.training import augment, batchchanges, transfer

Numbers = NDArray[np.float64]

_A_COUNT = 4
"""Numbers that Philox makes at once."""
_A_TRY = 4
_AN_OPERATION = 3
_CROP = slice(0, crops.CROP_TRIES * _A_TRY)
_MIRROR = _CROP.stop
_OPERATIONS = slice(_MIRROR + 1, _MIRROR + 1 + augment.RAND_OPERATIONS * _AN_OPERATION)
_ERASE = _OPERATIONS.stop
_ERASED = slice(_ERASE + 1, _ERASE + 1 + augment.ERASE_TRIES * _A_TRY)
_COLUMNS = -(-_ERASED.stop // _A_COUNT) * _A_COUNT
_STREAM = 2
"""Sets these random numbers apart from others of the same seed and epoch."""


def draw(seed: int, epoch: int, places: Sequence[int]) -> Numbers:
    """Random numbers for the views at these places of the epoch, 0-1: a row for each."""
    first, last = min(places), max(places)
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch, _STREAM]))
    bits.advance(first * _COLUMNS // _A_COUNT)
    numbers = np.random.Generator(bits).random((last - first + 1, _COLUMNS))
    found: Numbers = numbers[np.asarray(places) - first]
    return found


def views(
    images: Tensor,
    ratios: NDArray[np.float32],
    numbers: Numbers,
    *,
    wanted: Augmentation,
    preprocessing: Preprocessing,
) -> Tensor:
    """Views `(N, 3, crop, crop) uint8` in channels-last order of whole `images (N, H, W, 3) uint8`, whose width was
    `ratios` times their height; changed as `wanted`, except for what mixes images."""
    if wanted.policy == "none":
        boxes, mirrored = _centred(ratios, preprocessing), np.zeros(len(ratios), np.bool_)
    else:
        boxes, mirrored = _random_boxes(numbers[:, _CROP], ratios), numbers[:, _MIRROR] < 0.5
    seen = resampled(images, boxes, mirrored, preprocessing.crop, preprocessing.interpolation)
    for which, strengths in _POLICIES[wanted.policy](numbers[:, _OPERATIONS], wanted):
        seen = batchchanges.changed(seen, which, strengths)
    return _erased(seen, numbers, wanted)


def resampled(
    images: Tensor, boxes: Numbers, mirrored: NDArray[np.bool_], size: int, interpolation: Interpolation
) -> Tensor:
    """The `boxes (N, 4)` (left, top, right, bottom, as shares of width and height) of `images (N, H, W, 3) uint8`, in
    `size` pixels `(N, 3, size, size) uint8`, as Pillow resizes: antialiased, along one axis after the other."""
    count, height, width, _ = images.shape
    # Half precision has all of 0-255, and its products are added up in full precision.
    exact = torch.float16 if images.device.type == "cuda" else torch.float32
    left, top, right, bottom = transfer.send_array(boxes.T.astype(np.float32), images.device)
    reach, kernel = _KERNELS[interpolation]
    down = _weights(top * height, bottom * height, size, height, reach, kernel)
    across = _weights(left * width, right * width, size, width, reach, kernel)
    turned = transfer.send_array(mirrored, images.device)
    across = torch.where(turned[:, None, None], across.flip(1), across)
    rows = down.to(exact) @ images.to(exact).flatten(2)
    rows = rows.view(count, size, width, 3).transpose(2, 3).reshape(count, 3 * size, width)
    found = (rows @ across.to(exact).mT).view(count, size, 3, size).transpose(1, 2)
    return found.round().clamp(0, 255).to(torch.uint8, memory_format=torch.channels_last)


def _weights(
    low: Tensor, high: Tensor, size: int, source: int, reach: int, kernel: Callable[[Tensor], Tensor]
) -> Tensor:
    """How much each of `source` pixels counts for each of the `size` pixels between `low` and `high (N,)`, as
    `(N, size, source)`."""
    scale = (high - low)[:, None] / size
    centres = low[:, None] + (torch.arange(size, device=low.device) + 0.5) * scale
    distances = (torch.arange(source, device=low.device) + 0.5 - centres[:, :, None]).abs() / scale.clamp(min=1)[
        :, None
    ]
    weights = torch.where(distances < reach, kernel(distances), 0)
    return weights / weights.sum(dim=2, keepdim=True)


def _triangle(distances: Tensor) -> Tensor:
    return 1 - distances


def _cubic(distances: Tensor) -> Tensor:
    """Of Keys 1981, with a = -0.5."""
    near = (1.5 * distances - 2.5) * distances * distances + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    return torch.where(distances < 1, near, far)


def _lanczos(distances: Tensor) -> Tensor:
    return torch.sinc(distances) * torch.sinc(distances / 3)


_KERNELS: dict[Interpolation, tuple[int, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1, _triangle),
    "bicubic": (2, _cubic),
    "lanczos": (3, _lanczos),
}
"""How many pixels each filter reaches, and its weight at a distance within that."""


def _centred(ratios: NDArray[np.float32], preprocessing: Preprocessing) -> Numbers:
    """As `crops.centre_crop` cuts, rounding included."""
    shapes = np.stack([np.maximum(ratios, 1), np.maximum(1 / ratios, 1)], axis=1)
    sides = np.floor(preprocessing.resize * shapes.astype(np.float64))
    begin = np.rint((sides - preprocessing.crop) / 2)
    return np.concatenate([begin / sides, (begin + preprocessing.crop) / sides], axis=1)


def _random_boxes(numbers: Numbers, ratios: NDArray[np.float32]) -> Numbers:
    """As `crops.random_crop` chooses them."""
    tries = numbers.reshape(len(numbers), crops.CROP_TRIES, _A_TRY)
    area = _between(crops.CROP_AREA, tries[:, :, 0])
    ratio = np.exp(_between(tuple(np.log(crops.CROP_RATIO)), tries[:, :, 1])) / ratios[:, None]
    sides = np.sqrt(np.stack([area * ratio, area / ratio], axis=2))
    fits = (sides[:, :, 0] <= 1) & (sides[:, :, 1] <= 1)
    first = fits.argmax(axis=1)
    rows = np.arange(len(numbers))
    # The image is longer than any ratio allowed: as much of its middle as is.
    low, high = crops.CROP_RATIO
    middle = np.minimum(1, np.stack([high / ratios, ratios / low], axis=1))
    is_found = fits[rows, first].reshape(-1, 1)
    side = np.where(is_found, sides[rows, first], middle)
    begin = np.where(is_found, tries[rows, first, 2:], 0.5) * (1 - side)
    return np.concatenate([begin, begin + side], axis=1)


def _between(bounds: tuple[float, ...], shares: Numbers) -> Numbers:
    low, high = bounds
    return low + shares * (high - low)


Chosen = tuple[NDArray[np.int64], Numbers]
"""For each image the number of an operation, and its strength."""


def _unchanged(_numbers: Numbers, _wanted: Augmentation) -> list[Chosen]:
    return []


def _trivial(numbers: Numbers, _wanted: Augmentation) -> list[Chosen]:
    return [_chosen(numbers[:, :_AN_OPERATION], numbers[:, 1])]


def _rand(numbers: Numbers, wanted: Augmentation) -> list[Chosen]:
    strengths = np.full(len(numbers), wanted.strength)
    starts = range(0, numbers.shape[1], _AN_OPERATION)
    return [_chosen(numbers[:, start : start + _AN_OPERATION], strengths) for start in starts]


def _chosen(numbers: Numbers, strengths: Numbers) -> Chosen:
    which = (numbers[:, 0] * len(augment.OPERATIONS)).astype(np.int64)
    signed = np.array([operation.signed for operation in augment.OPERATIONS.values()])[which]
    return which, np.where(signed & (numbers[:, 2] < 0.5), -strengths, strengths)


_POLICIES: dict[str, Callable[[Numbers, Augmentation], list[Chosen]]] = {
    "none": _unchanged,
    "crop": _unchanged,
    "trivial": _trivial,
    "rand": _rand,
}


def _erased(images: Tensor, numbers: Numbers, wanted: Augmentation) -> Tensor:
    """As `augment` blots parts out."""
    height, width = images.shape[2:]
    tries = numbers[:, _ERASED].reshape(len(numbers), augment.ERASE_TRIES, _A_TRY)
    area = _between(augment.ERASED_AREA, tries[:, :, 0]) * height * width
    ratio = np.exp(_between(tuple(np.log(augment.ERASED_RATIO)), tries[:, :, 1]))
    down, across = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (down > 0) & (down < height) & (across > 0) & (across < width)
    rows = np.flatnonzero((numbers[:, _ERASE] < wanted.erasing) & fits.any(axis=1))
    if not len(rows):
        return images
    first = fits[rows].argmax(axis=1)
    down, across = down[rows, first], across[rows, first]
    top, left = (
        np.floor(tries[rows, first, 2 + n] * (s - part)) for n, s, part in ((0, height, down), (1, width, across))
    )
    boxes = np.stack([top, top + down, left, left + across])
    seeds = (numbers[rows, _ERASE] * 2**53).astype(np.int64)
    return batchchanges.blotted(images, rows, boxes, seeds)
