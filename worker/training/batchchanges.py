"""The operations of `augment` for many images at once, `(N, 3, H, W) uint8`, on any device: the same pixels, but for
rounding."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.training import augment, transfer

_GREY = 128
_LEVELS = 256
_SMOOTH = (1, 1, 1, 1, 5, 1, 1, 1, 1)


def changed(images: Tensor, which: NDArray[np.int64], strengths: NDArray[np.float64]) -> Tensor:
    """`images`, the i-th changed by the operation with the number `which[i]` of `augment`; the tensor is written to."""
    for number, name in enumerate(augment.OPERATIONS):
        rows = np.flatnonzero(which == number)
        if name in OPERATIONS and len(rows):
            places = transfer.send_array(rows, images.device)
            strength = transfer.send_array(strengths[rows].astype(np.float32), images.device)
            images[places] = OPERATIONS[name](images[places], strength)
    return images


def blotted(images: Tensor, rows: NDArray[np.int64], boxes: NDArray[np.float64], seeds: NDArray[np.int64]) -> Tensor:
    """`images`, those in `rows` with noise over their `boxes (4, M)` (top, bottom, left, right), each with that of its
    seed; the tensor is written to."""
    places = transfer.send_array(rows, images.device)
    top, bottom, left, right = transfer.send_array(boxes.astype(np.int64), images.device)[:, :, None, None]
    down = torch.arange(images.shape[2], device=images.device)[:, None]
    across = torch.arange(images.shape[3], device=images.device)
    inside = (down >= top) & (down < bottom) & (across >= left) & (across < right)
    hit = images[places]
    noise = _noise(transfer.send_array(seeds, images.device), hit.shape[1:])
    images[places] = torch.where(inside[:, None], noise, hit)
    return images


def _noise(seeds: Tensor, shape: torch.Size) -> Tensor:
    """`(N, *shape) uint8` that follows from `seeds (N,)`: the steps of SplitMix64 (Steele et al. 2014)."""
    count = torch.arange(shape.numel(), device=seeds.device)
    mixed = seeds[:, None] + count * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return (mixed >> 40).to(torch.uint8).view(-1, *shape)


def _moved(images: Tensor, matrices: Tensor) -> Tensor:
    """Each pixel from where `matrices (N, 2, 3)` say, the nearest one; grey from outside."""
    count, channels, height, width = images.shape
    down = torch.arange(height, device=images.device) + 0.5
    across = torch.arange(width, device=images.device) + 0.5
    spots = torch.stack(
        [
            across.expand(height, width),
            down[:, None].expand(height, width),
            torch.ones_like(across.expand(height, width)),
        ]
    ).flatten(1)
    # Written out, as matrix products of GPUs may round.
    x, y = (matrices[:, :, :, None] * spots).sum(dim=2).floor().long().unbind(1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1))[:, None].expand(-1, channels, -1)
    found = images.reshape(count, channels, -1).gather(2, places)
    return torch.where(inside[:, None], found, _GREY).view(images.shape)


def _affine(rows: tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _shear_x(images: Tensor, strength: Tensor) -> Tensor:
    shear, no, one = 0.99 * strength, torch.zeros_like(strength), torch.ones_like(strength)
    return _moved(images, _affine(((one, shear, -shear * images.shape[2] / 2), (no, one, no))))


def _shear_y(images: Tensor, strength: Tensor) -> Tensor:
    shear, no, one = 0.99 * strength, torch.zeros_like(strength), torch.ones_like(strength)
    return _moved(images, _affine(((one, no, no), (shear, one, -shear * images.shape[3] / 2))))


def _shift_x(images: Tensor, strength: Tensor) -> Tensor:
    no, one = torch.zeros_like(strength), torch.ones_like(strength)
    return _moved(images, _affine(((one, no, strength * images.shape[3] / 7), (no, one, no))))


def _shift_y(images: Tensor, strength: Tensor) -> Tensor:
    no, one = torch.zeros_like(strength), torch.ones_like(strength)
    return _moved(images, _affine(((one, no, no), (no, one, strength * images.shape[2] / 7))))


def _turned(images: Tensor, strength: Tensor) -> Tensor:
    angle = torch.deg2rad(-135 * strength)
    cos, sin = angle.cos(), angle.sin()
    x, y = images.shape[3] / 2, images.shape[2] / 2
    return _moved(images, _affine(((cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y))))


def _blended(other: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """Away from `other` by `strength`, or towards it."""
    factor = (1 + 0.99 * strength)[:, None, None, None]
    return (other + (images.float() - other) * factor).clamp(0, 255).to(torch.uint8)


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _blended(torch.zeros((), device=images.device), images, strength)


def _colour(images: Tensor, strength: Tensor) -> Tensor:
    return _blended(_luminance(images), images, strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _blended((_luminance(images).mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor(), images, strength)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    values = images.float()
    kernel = torch.tensor(_SMOOTH, dtype=torch.float32, device=images.device).view(1, 1, 3, 3).expand(3, 1, 3, 3)
    smooth = values.clone()
    # Whole numbers to the division, so that no precision of convolutions makes a difference.
    smooth[:, :, 1:-1, 1:-1] = (functional.conv2d(values, kernel, groups=3) / sum(_SMOOTH)).round()
    return _blended(smooth, images, strength)


def _luminance(images: Tensor) -> Tensor:
    """Of ITU-R 601-2, `(N, 1, H, W) float32`, in whole numbers."""
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16)[:, None].float()


def _posterised(images: Tensor, strength: Tensor) -> Tensor:
    dropped = (6 * strength).round().to(torch.int32)[:, None, None, None]
    return ((images.int() >> dropped) << dropped).to(torch.uint8)


def _solarised(images: Tensor, strength: Tensor) -> Tensor:
    threshold = (256 - (256 * strength).round())[:, None, None, None]
    return torch.where(images < threshold, images, 255 - images)


def _stretched(images: Tensor, _strength: Tensor) -> Tensor:
    values = images.float()
    low, high = values.amin(dim=(2, 3), keepdim=True), values.amax(dim=(2, 3), keepdim=True)
    scaled = ((values - low) * (255 / (high - low).clamp(min=1))).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, scaled, images)


def _equalised(images: Tensor, _strength: Tensor) -> Tensor:
    flat = images.reshape(*images.shape[:2], -1)
    # By sorting: what counts values on GPUs makes the processor wait, or cannot be repeated exactly.
    ordered = flat.sort(dim=2).values.contiguous()
    levels = torch.arange(_LEVELS, dtype=torch.uint8, device=images.device).expand(*flat.shape[:2], -1).contiguous()
    below = torch.searchsorted(ordered, levels)
    highest = flat.shape[2] - torch.searchsorted(ordered, ordered[:, :, -1:].contiguous())
    step = (flat.shape[2] - highest) // 255
    becomes = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    becomes = torch.where(step > 0, becomes, levels.long())
    return becomes.gather(2, flat.long()).to(torch.uint8).view(images.shape)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "shift_x": _shift_x,
    "shift_y": _shift_y,
    "turned": _turned,
    "brightness": _brightness,
    "colour": _colour,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterised": _posterised,
    "solarised": _solarised,
    "stretched": _stretched,
    "equalised": _equalised,
}
"""Those of `augment` by their names; what is not here changes nothing."""
