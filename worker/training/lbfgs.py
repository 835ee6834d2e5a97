"""L-BFGS for several smooth convex functions side by side, whose values and gradients come from one call.

Sources: Nocedal and Wright, "Numerical optimization", 2006, sections 3.1 (backtracking) and 7.2 (the compact form);
Hager and Zhang, "A new conjugate gradient method with guaranteed descent", 2005, for what counts as a step down close
to the minimum.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Functions = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of a point of each function `(B, P)`, the values `(B,)` and gradients `(B, P)`."""

_MOST_TRIES = 20
"""Lengths of a step."""
_DESCENT = 1e-4
"""Share of what the gradient promises that a step must bring."""
_ROUNDING = 1e-6
"""By so much of itself a value may seem to rise, where the slopes say that it falls. Sums in float32 are no more exact,
and those in float64 need not be."""
_CURVED = 1e-8
"""Cosine of a step and the change of the gradient along it, below which they are noise."""


class History:
    """What the last steps, as many as are `remembered`, of so many `functions` of `size` variables say of their
    curvature."""

    def __init__(self, functions: int, size: int, *, remembered: int) -> None:
        kind = torch.float64
        # The pairs lie in a ring, in which the oldest gives way to the next one.
        self._steps = torch.zeros(functions, remembered, size, dtype=kind)
        self._changes = torch.zeros(functions, remembered, size, dtype=kind)
        self._products = torch.zeros(functions, remembered, remembered, dtype=kind)
        """Of each step with each change."""
        self._scale = torch.ones(functions, 1, dtype=kind)
        """Of the inverse curvature where no step has been."""
        self._remembered = remembered
        self._added = 0

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember how far each function went, and how its gradient changed, `(B, P)`; but nothing of those along
        which nothing curves, as of those that rest."""
        along = (step * change).sum(dim=1, keepdim=True)
        curved = along > _CURVED * (step.norm(dim=1) * change.norm(dim=1))[:, None]
        step, change = torch.where(curved, step, 0.0), torch.where(curved, change, 0.0)
        self._scale = torch.where(curved, along / change.square().sum(dim=1, keepdim=True), self._scale)
        place = self._added % self._remembered
        self._steps[:, place], self._changes[:, place] = step, change
        self._products[:, place] = (self._changes @ step[..., None]).squeeze(2)
        self._products[:, :, place] = (self._steps @ change[..., None]).squeeze(2)
        self._added += 1

    def newton(self, gradient: Tensor) -> Tensor:
        """The inverse curvature times `gradient (B, P)`."""
        scaled: Tensor = self._scale * gradient
        if not self._added:
            return scaled
        oldest = max(0, self._added - self._remembered)
        order = torch.arange(oldest, self._added) % self._remembered
        products = self._products[:, order][:, :, order]
        upper, along = products.triu(), products.diagonal(dim1=1, dim2=2)
        upper.diagonal(dim1=1, dim2=2).masked_fill_(along == 0, 1.0)
        scale = self._scale[..., None]
        reached = torch.linalg.solve_triangular(upper, (self._steps @ gradient[..., None])[:, order], upper=True)
        bent = self._changes.mT @ self._in_ring(reached, order)
        back = along[..., None] * reached + (self._changes @ (scale * bent - scaled[..., None]))[:, order]
        sent = torch.linalg.solve_triangular(upper.mT, back, upper=False)
        correction: Tensor = self._steps.mT @ self._in_ring(sent, order) - scale * bent
        return scaled + correction.squeeze(2)

    def _in_ring(self, ordered: Tensor, order: Tensor) -> Tensor:
        return ordered.new_zeros(len(ordered), self._remembered, 1).index_copy(1, order, ordered)


@dataclass(frozen=True)
class _Place:
    """Where each function has been looked at."""

    point: Tensor
    value: Tensor
    gradient: Tensor


def minimum(functions: Functions, start: Tensor, *, tolerance: float, most_steps: int, remembered: int = 10) -> Tensor:
    """The point of each function, from `start (B, P) float64` on, where no value of its gradient is more than
    `tolerance`; or where it was after `most_steps`, or where its values did not tell any more which way leads down.

    The curvature is known by so many `remembered` steps, each of which is kept as 2 P values for every function.
    """
    place = _Place(start, *functions(start))
    history = History(*start.shape, remembered=remembered)
    lost = torch.zeros(len(start), 1, dtype=torch.bool)
    for _ in range(most_steps):
        left = ~lost & ~(place.gradient.abs().amax(dim=1, keepdim=True) <= tolerance)
        if not left.any():
            break
        direction = torch.where(left, -history.newton(place.gradient), 0.0)
        reached, fallen = _further(functions, place, direction, left.squeeze(1))
        lost |= ~fallen[:, None]
        history.add(reached.point - place.point, reached.gradient - place.gradient)
        place = reached
    return place.point


def _further(functions: Functions, place: _Place, direction: Tensor, left: Tensor) -> tuple[_Place, Tensor]:
    """The whole way along `direction` for each function, or the part of it on which the function falls as it should;
    and whether there was one `(B,)`: where there was none, it stays. Those that are not `left (B,)` rest."""
    promised = (direction * place.gradient).sum(dim=1)
    length = torch.ones_like(promised)
    for _ in range(_MOST_TRIES):
        point = place.point + length[:, None] * direction
        reached = _Place(point, *functions(point))
        rise = reached.value - place.value
        along = (direction * reached.gradient).sum(dim=1)
        # Close to the minimum, slopes tell what values do not any more.
        level = (rise <= _ROUNDING * place.value.abs()) & (along <= (2 * _DESCENT - 1) * promised)
        fallen = ~left | (rise <= _DESCENT * length * promised) | level
        if fallen.all():
            return reached, fallen
        # Where a parabola through what is known has its lowest point.
        lowest = -promised * length.square() / (2 * (rise - length * promised))
        length = torch.where(fallen, length, lowest.nan_to_num(0.0).clamp(0.1 * length, 0.5 * length))
    point = torch.where(fallen[:, None], place.point + length[:, None] * direction, place.point)
    return _Place(point, *functions(point)), fallen
