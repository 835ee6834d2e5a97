"""What can be measured of an image without any label: colours and edges, and where they are."""

import math

import torch
from torch import Tensor
from torch.nn import functional

CELLS = 4
"""Along each side of the grid in which edges and colours are counted."""
_DIRECTIONS = 8
_SHADES = 4
SIZE = CELLS * CELLS * 3 + _SHADES**3 + 2 * CELLS * CELLS * _DIRECTIONS
"""Values of a description."""


def describe(images: Tensor) -> Tensor:
    """Of images `(N, 3, S, S) float32`, 0 to 1: `(N, SIZE) float32`.

    Mean colours and a histogram of colours; and edges by direction in two scales (Dalal and Triggs 2005), which
    "Masked Feature Prediction" (Wei et al. 2021) found to be as good a target as learnt ones.
    """
    grey = images.mean(dim=1, keepdim=True)
    return torch.cat(
        [
            functional.adaptive_avg_pool2d(images, CELLS).flatten(1),
            _shades(functional.avg_pool2d(images, 2)),
            _edges(functional.avg_pool2d(grey, 2)),
            _edges(functional.avg_pool2d(grey, 4)),
        ],
        dim=1,
    )


def _shades(images: Tensor) -> Tensor:
    """The root of the share of each of 64 colours."""
    levels = (images * _SHADES).long().clamp(0, _SHADES - 1)
    index = ((levels[:, 0] * _SHADES + levels[:, 1]) * _SHADES + levels[:, 2]).flatten(1)
    counts = torch.zeros(len(images), _SHADES**3).scatter_add_(1, index, torch.ones(index.shape))
    return (counts / index.shape[1]).sqrt()


def _edges(grey: Tensor) -> Tensor:
    """The root of the strength of edges in each cell and direction."""
    right = (grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2]).unsqueeze(1)
    down = (grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]).unsqueeze(1)
    angles = torch.arange(_DIRECTIONS) * (math.pi / _DIRECTIONS)
    along = angles.cos().view(1, -1, 1, 1) * right + angles.sin().view(1, -1, 1, 1) * down
    across = angles.sin().view(1, -1, 1, 1) * right - angles.cos().view(1, -1, 1, 1) * down
    strength = (along.abs() - across.abs()).clamp(min=0)
    return functional.adaptive_avg_pool2d(strength, CELLS).flatten(1).sqrt()
