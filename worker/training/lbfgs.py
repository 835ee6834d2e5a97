"""L-BFGS for several smooth convex functions side by side, whose values and gradients come from one call.

Sources: Nocedal and Wright, "Numerical optimization", 2006, sections 3.1 (backtracking) and 7.2 (the compact form);
Hager and Zhang, "A new conjugate gradient method with guaranteed descent", 2005, for what counts as a step down close
to the minimum.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of a point of each function `(B, P)`, the values `(B,)` and gradients `(B, P)`."""

_REMEMBERED = 12
"""Steps by which the curvature is known."""
_MOST_TRIES = 20
"""Lengths of a step."""
_DESCENT = 1e-4
"""Share of what the gradient promises that a step must bring."""
_ROUNDING = 1e-6
"""By so much of itself a value may seem to rise, where the slopes say that it falls: sums in float32 are no more
exact."""


@dataclass
class _History:
    """What the last steps say of the curvature: how far they went, and how the gradients changed, `(B, M, P)` each."""

    steps: Tensor
    changes: Tensor
    scale: Tensor
    """Of the inverse curvature where no step has been `(B, 1)`."""

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember steps `(B, P)`, but not of functions along which nothing curves: those that are solved rest."""
        along = (step * change).sum(dim=1, keepdim=True)
        curved = along > 1e-10 * (step.norm(dim=1) * change.norm(dim=1))[:, None]
        step, change = torch.where(curved, step, 0.0), torch.where(curved, change, 0.0)
        self.scale = torch.where(curved, along / change.square().sum(dim=1, keepdim=True), self.scale)
        self.steps = torch.cat([self.steps, step[:, None]], dim=1)[:, -_REMEMBERED:]
        self.changes = torch.cat([self.changes, change[:, None]], dim=1)[:, -_REMEMBERED:]

    def newton(self, gradient: Tensor) -> Tensor:
        """The inverse curvature times `gradient (B, P)`."""
        scaled: Tensor = self.scale * gradient
        if not self.steps.shape[1]:
            return scaled
        products = self.steps @ self.changes.mT
        upper, along = products.triu(), products.diagonal(dim1=1, dim2=2)
        upper.diagonal(dim1=1, dim2=2).masked_fill_(along == 0, 1.0)
        reached = torch.linalg.solve_triangular(upper, self.steps @ gradient[..., None], upper=True)
        bent = self.changes.mT @ reached
        back = along[..., None] * reached + self.changes @ (self.scale[..., None] * bent - scaled[..., None])
        found = self.steps.mT @ torch.linalg.solve_triangular(upper.mT, back, upper=False)
        correction: Tensor = found - self.scale[..., None] * bent
        return scaled + correction.squeeze(2)


@dataclass(frozen=True)
class _Place:
    """Where each function has been looked at."""

    point: Tensor
    value: Tensor
    gradient: Tensor


def minimum(slope: Slope, start: Tensor, *, tolerance: float, most_steps: int) -> Tensor:
    """The point of each function, from `start (B, P)` on, where no value of its gradient is more than `tolerance`; or
    where it was after `most_steps`, or where its values do not tell any more which way leads down."""
    place = _Place(start, *slope(start))
    nothing = start.new_zeros(len(start), 0, start.shape[1])
    history = _History(nothing, nothing, start.new_ones(len(start), 1))
    for _ in range(most_steps):
        left = place.gradient.abs().amax(dim=1, keepdim=True) > tolerance
        if not left.any():
            break
        reached = _further(slope, place, torch.where(left, -history.newton(place.gradient), 0.0))
        if reached is None:
            break
        history.add(reached.point - place.point, reached.gradient - place.gradient)
        place = reached
    return place.point


def _further(slope: Slope, place: _Place, direction: Tensor) -> _Place | None:
    """The whole way along `direction` for each function, or the part of it on which the function falls as it should; it
    stays where there is none. None where all stay."""
    promised = (direction * place.gradient).sum(dim=1)
    length = torch.ones_like(promised)
    for _ in range(_MOST_TRIES):
        point = place.point + length[:, None] * direction
        reached = _Place(point, *slope(point))
        rise = reached.value - place.value
        along = (direction * reached.gradient).sum(dim=1)
        # Close to the minimum, slopes tell what values do not any more.
        level = (rise <= _ROUNDING * place.value.abs()) & (along <= (2 * _DESCENT - 1) * promised)
        fallen = (rise <= _DESCENT * length * promised) | level
        if fallen.all():
            return reached
        # Where a parabola through what is known has its lowest point.
        lowest = -promised * length.square() / (2 * (rise - length * promised))
        length = torch.where(fallen, length, lowest.nan_to_num(0.0).clamp(0.1 * length, 0.5 * length))
    step = torch.where(fallen, length, 0.0)[:, None] * direction
    return _Place(place.point + step, *slope(place.point + step)) if step.any() else None
