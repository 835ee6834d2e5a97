"""Changes to training images that leave their label as it is, and mixtures of images that mix their labels.

Every random choice comes from the generator that is passed in, so that an image is changed in the same way whichever
thread does it. (torchvision's transforms draw from one generator that all threads share, so they cannot be used here.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional

from app.augmentation import Augmentation
from app.backbones.preprocess import Pixels

RAND_OPERATIONS = 2
_GREY = (128, 128, 128)
ERASED_AREA = (0.02, 0.33)
ERASED_RATIO = (0.3, 3.3)
ERASE_TRIES = 10


@dataclass(frozen=True)
class Operation:
    """One way to change an image; `strength` is 0-1, and its sign is chosen by a coin where `signed`."""

    apply: Callable[[Image.Image, float], Image.Image]
    signed: bool = False


def view(pixels: Pixels, wanted: Augmentation, rng: np.random.Generator) -> Pixels:
    """`pixels (H, W, 3) uint8` changed as `wanted`, except for what mixes images."""
    changed = _POLICIES[wanted.policy](pixels, wanted, rng)
    if wanted.erasing and rng.random() < wanted.erasing:
        changed = _erased(changed, rng)
    return changed


def mix(
    images: Tensor, targets: Tensor, wanted: Augmentation, *, classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A batch `(N, 3, H, W) uint8` with `targets (N,)` mixed with itself in another order, if wanted.

    Gives images of the same shape, float32 in 0-255, and the share of each class `(N, classes) float32`. With mixup
    ("mixup: Beyond Empirical Risk Minimization", Zhang et al. 2017) two images shine through each other, with CutMix
    (Yun et al. 2019) one is a window in the other; where both are wanted a coin decides for the batch.
    """
    ways = [(way, alpha) for way, alpha in ((_blend, wanted.mixup), (_window, wanted.cutmix)) if alpha]
    if not ways:
        return images, targets
    way, alpha = ways[int(rng.integers(len(ways)))]
    shares = functional.one_hot(targets, classes).float()
    order = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    mixed, kept = way(images.float(), order, float(rng.beta(alpha, alpha)), rng)
    return mixed, kept * shares + (1 - kept) * shares[order]


def _blend(images: Tensor, order: Tensor, kept: float, _rng: np.random.Generator) -> tuple[Tensor, float]:
    return kept * images + (1 - kept) * images[order], kept


def _window(images: Tensor, order: Tensor, kept: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    height, width = images.shape[2:]
    side = (1 - kept) ** 0.5
    down, across = int(side * height), int(side * width)
    # Its middle may be anywhere, so that it may reach beyond the edge: the share is counted in pixels.
    top, left = (int(rng.integers(length)) - part // 2 for length, part in ((height, down), (width, across)))
    rows, columns = slice(max(0, top), max(0, top + down)), slice(max(0, left), max(0, left + across))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[order][:, :, rows, columns]
    replaced = mixed[0, 0, rows, columns].numel() / (height * width)
    return mixed, 1 - replaced


def _unchanged(pixels: Pixels, _wanted: Augmentation, _rng: np.random.Generator) -> Pixels:
    return pixels


def _trivial(pixels: Pixels, _wanted: Augmentation, rng: np.random.Generator) -> Pixels:
    """One operation of any strength (TrivialAugment with its wide ranges, Müller and Hutter 2021, section 3)."""
    operation = _IN_ORDER[int(rng.integers(len(_IN_ORDER)))]
    return np.asarray(_applied(Image.fromarray(pixels), operation, float(rng.random()), rng))


def _rand(pixels: Pixels, wanted: Augmentation, rng: np.random.Generator) -> Pixels:
    """Two operations of the strength asked for (RandAugment, Cubuk et al. 2019, section 3)."""
    image = Image.fromarray(pixels)
    for place in rng.integers(len(_IN_ORDER), size=RAND_OPERATIONS):
        image = _applied(image, _IN_ORDER[int(place)], wanted.strength, rng)
    return np.asarray(image)


def _applied(image: Image.Image, operation: Operation, strength: float, rng: np.random.Generator) -> Image.Image:
    if operation.signed and rng.random() < 0.5:
        strength = -strength
    return operation.apply(image, strength)


def _erased(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A rectangle of noise over a part of the image (Zhong et al. 2017, algorithm 1)."""
    height, width = pixels.shape[:2]
    low, high = np.log(ERASED_RATIO)
    for _ in range(ERASE_TRIES):
        area, ratio = rng.uniform(*ERASED_AREA) * height * width, float(np.exp(rng.uniform(low, high)))
        down, across = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < down < height and 0 < across < width:
            top, left = int(rng.integers(height - down)), int(rng.integers(width - across))
            erased: NDArray[np.uint8] = pixels.copy()
            erased[top : top + down, left : left + across] = rng.integers(0, 256, (down, across, 3), dtype=np.uint8)
            return erased
    return pixels


def _moved(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=_GREY)


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
    shear = 0.99 * strength
    return _moved(image, (1, shear, -shear * image.height / 2, 0, 1, 0))


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    shear = 0.99 * strength
    return _moved(image, (1, 0, 0, shear, 1, -shear * image.width / 2))


def _shift_x(image: Image.Image, strength: float) -> Image.Image:
    return _moved(image, (1, 0, strength * image.width / 7, 0, 1, 0))


def _shift_y(image: Image.Image, strength: float) -> Image.Image:
    return _moved(image, (1, 0, 0, 0, 1, strength * image.height / 7))


def _turned(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(135 * strength, Image.Resampling.NEAREST, fillcolor=_GREY)


def _enhanced(
    kind: type[ImageEnhance.Brightness | ImageEnhance.Color | ImageEnhance.Contrast | ImageEnhance.Sharpness],
) -> Operation:
    return Operation(lambda image, strength: kind(image).enhance(1 + 0.99 * strength), signed=True)


OPERATIONS = {
    "unchanged": Operation(lambda image, _strength: image),
    "shear_x": Operation(_shear_x, signed=True),
    "shear_y": Operation(_shear_y, signed=True),
    "shift_x": Operation(_shift_x, signed=True),
    "shift_y": Operation(_shift_y, signed=True),
    "turned": Operation(_turned, signed=True),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterised": Operation(lambda image, strength: ImageOps.posterize(image, 8 - round(6 * strength))),
    "solarised": Operation(lambda image, strength: ImageOps.solarize(image, 256 - round(256 * strength))),
    "stretched": Operation(lambda image, _strength: ImageOps.autocontrast(image)),
    "equalised": Operation(lambda image, _strength: ImageOps.equalize(image)),
}
_IN_ORDER = tuple(OPERATIONS.values())
_POLICIES: dict[str, Callable[[Pixels, Augmentation, np.random.Generator], Pixels]] = {
    "none": _unchanged,
    "crop": _unchanged,
    "trivial": _trivial,
    "rand": _rand,
}
