"""Views of drawn images, as a network sees them in training: another part, other colours, something in front."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Views:
    """Images `(N, 3, S, S) float32`, 0 to 1."""

    clean: Tensor
    """What is to be seen."""
    spoilt: Tensor
    """The same with noise, blur and parts covered."""


def take(pixels: Tensor, *, size: int, generator: torch.Generator) -> Views:
    """A random view of each of `pixels (N, H, W, 3) uint8`, `size` pixels wide."""
    images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last) / 255
    clean = _recoloured(_part(images, size, generator), generator)
    return Views(clean, _covered(_noisy(_blurred(clean, generator), generator), generator))


def _part(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Turned, stretched, mirrored parts of 30-100 % of the area."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    side, stretch = uniform(0.3, 1).sqrt(), uniform(-0.25, 0.25).exp()
    turn = uniform(-0.35, 0.35) * (uniform(0, 1) < 0.5)
    across = side * stretch * (uniform(0, 1) < 0.5).float().mul(2).sub(1)
    down = side / stretch
    matrix = torch.stack(
        [across * turn.cos(), -down * turn.sin(), uniform(-1, 1) * (1 - side),
         across * turn.sin(), down * turn.cos(), uniform(-1, 1) * (1 - side)], dim=1
    ).view(count, 2, 3)  # fmt: skip
    grid = functional.affine_grid(matrix, [count, 3, size, size], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _recoloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Another contrast, brightness, saturation and hue; some without any colour."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1).uniform_(low, high, generator=generator)

    grey = torch.tensor(_LUMA).expand(3, 3)
    saturation = uniform(0.5, 1.5) * (uniform(0, 1) > 0.12)
    contrast, brightness = uniform(0.6, 1.3), uniform(-0.2, 0.2)
    hue = _hue_turn(uniform(-1, 1) * math.pi * torch.where(uniform(0, 1) < 0.3, 1.0, 0.06))
    matrix = contrast * ((grey + saturation * (torch.eye(3) - grey)) @ hue)
    mixed = torch.einsum("nij,njhw->nihw", matrix, images - 0.5) + 0.5 + brightness[..., None]
    return mixed.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _hue_turn(angle: Tensor) -> Tensor:
    """Matrices `(N, 3, 3)` that turn colours around the grey axis by `angle (N, 1, 1)`."""
    cosine, sine = angle.cos(), angle.sin() / math.sqrt(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return cosine * torch.eye(3) + (1 - cosine) / 3 + sine * cross


def _blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every fifth image blurred as if it had been taken at half or a quarter of the size."""
    result = images.clone()
    chosen = torch.rand(len(images), generator=generator)
    for low, high, factor in ((0.0, 0.12, 2), (0.12, 0.2, 4)):
        here = (chosen >= low) & (chosen < high)
        if here.any():
            small = functional.avg_pool2d(images[here], factor)
            result[here] = functional.interpolate(small, size=images.shape[2:], mode="bilinear")
    return result


def _noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    strength = torch.rand(len(images), 1, 1, 1, generator=generator).sub(0.6).clamp(min=0) * 0.2
    return images + strength * torch.randn(images.shape, generator=generator)


def _covered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every third image with a rectangle of its mean colour on it (DeVries and Taylor 2017)."""
    count, size = len(images), images.shape[2]
    centre = torch.rand(count, 2, generator=generator) * size
    reach = torch.rand(count, 2, generator=generator) * 0.2 * size + 0.05 * size
    reach = reach * (torch.rand(count, 1, generator=generator) < 0.33)
    line = torch.arange(size)
    rows = (line - centre[:, :1]).abs() < reach[:, :1]
    columns = (line - centre[:, 1:]).abs() < reach[:, 1:]
    covered = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(covered, images.mean(dim=(2, 3), keepdim=True), images)
