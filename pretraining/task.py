"""What the network is asked in training: which formulas drew a view, what it looks like, which view is its other."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining import description
from pretraining.drawing.scenes import NOTHING

_SMOOTHING = 0.1
_TEMPERATURE = 0.2
_PROJECTION = 128


@dataclass(frozen=True)
class Weighting:
    """How much each question counts."""

    shapes: float = 1.0
    textures: float = 1.0
    description: float = 1.0
    pairs: float = 1.0


class Questions(nn.Module):
    """Heads on features `(N, D)`; only training needs them."""

    def __init__(self, features: int, *, shapes: int, textures: int) -> None:
        super().__init__()
        self.shapes = nn.Linear(features, shapes)
        self.textures = nn.Linear(features, textures)
        self.description = nn.Linear(features, description.SIZE)
        # Measurements of very different spread; standardised, each counts alike.
        self.standard = nn.BatchNorm1d(description.SIZE, affine=False, momentum=0.01)
        self.projection = nn.Sequential(
            nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, _PROJECTION)
        )

    def losses(self, features: Tensor, described: Tensor, categories: Tensor) -> dict[str, Tensor]:
        """Of features `(2 N, D)`, the two views of N images one after the other, `described (2 N, description.SIZE)`
        and `categories (N, 3)`: shape, ground, fill."""
        shape, ground, fill = categories.repeat(2, 1).unbind(1)
        target = self.standard(described).clamp(-4, 4)
        return {
            "shapes": _classified(self.shapes(features), shape),
            "textures": _classified(self.textures(features), torch.where(ground == NOTHING, fill, ground)),
            "description": functional.mse_loss(self.description(features), target),
            "pairs": _told_apart(functional.normalize(self.projection(features), dim=1)),
        }


def _classified(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(logits, target, ignore_index=NOTHING, label_smoothing=_SMOOTHING)


def _told_apart(points: Tensor) -> Tensor:
    """Each view is to find the other one of its image among all views (Chen et al. 2020, SimCLR, section 2.1)."""
    count = len(points)
    similar = points @ points.T / _TEMPERATURE
    similar = similar.masked_fill(torch.eye(count, dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(similar, torch.arange(count).roll(count // 2))
