"""Cross-validation of the penalties of a linear classifier, whose folds are solved side by side."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.training import regression, threads
from worker.training.events import Emit, PenaltyTried, Progress
from worker.training.regression import Centre, Projected, Solution, Told
from worker.training.threads import Crew

_SIDE_BY_SIDE = 2**17
"""Weights of folds that are solved together. More do not stay in the caches of a CPU, and take longer together; and to
solve a fold takes up to some thirty times the memory of its weights."""
_CLEARLY = 2.0
"""Standard errors of a mean that chance seldom explains."""


@dataclass(frozen=True)
class Effort:
    """How far solutions are taken."""

    tolerance: float
    """The gradient at which one is good enough."""
    patience: int
    """Penalties in a row that are worse than one before, after which weaker ones are not tried; one is enough where it
    is worse by more than chance."""


# To choose a penalty. The loss falls and rises once along the grid, and the weak penalties take long to solve.
CHOOSING = Effort(tolerance=1e-4, patience=2)
# For figures to look at: what is left of the gradient moves the accuracy far less than another choice of images would.
QUICK = Effort(tolerance=1e-4, patience=1)


@dataclass(frozen=True)
class Crossing:
    """Labelled images, and by which classifiers they are to be judged."""

    values: Tensor
    """In principal axes `(N, R) float64`, or `(F, N, R)` where each fold has its own."""
    targets: Tensor
    variances: Tensor
    """Along the axes, `(R,)` or `(F, R)`."""
    fold_of: NDArray[np.int64]
    """The fold of each image `(N,)`, 0 to F - 1."""
    start: Solution
    """That classifiers start from."""
    centre: Centre | None = None
    """That they are drawn to."""


@dataclass(frozen=True)
class Judged:
    """A penalty in cross-validation."""

    l2: float
    predicted: Tensor
    """For each image `(N,) int64`."""
    log_losses: Tensor
    """Of each image `(N,) float64`."""
    accuracy: float

    @property
    def log_loss(self) -> float:
        """Mean, in nats; infinite where it is no number."""
        found = float(self.log_losses.mean())
        return math.inf if math.isnan(found) else found

    def is_clearly_worse(self, other: "Judged") -> bool:
        """Whether its mean log-loss is higher by so much that other images would say so, too."""
        excess = self.log_losses - other.log_losses
        error = excess.std() / math.sqrt(len(excess)) if len(excess) > 1 else math.inf
        return bool(excess.mean() > _CLEARLY * error)

    def told(self) -> PenaltyTried:
        """What to tell of it."""
        return PenaltyTried(self.l2, self.log_loss, self.accuracy)


@dataclass(frozen=True)
class Crossed:
    """Penalties in cross-validation."""

    judged: tuple[Judged, ...]
    """The strongest first."""
    best: Judged
    """The one with the least mean log-loss."""
    solution: Solution
    """With that one, the classifier of each fold, `(F, K, R)`."""

    def tried(self) -> tuple[PenaltyTried, ...]:
        """What to tell of them."""
        return tuple(one.told() for one in self.judged if math.isfinite(one.log_loss))


def cross(crossing: Crossing, l2_grid: Sequence[float], *, effort: Effort, emit: Emit) -> Crossed:
    """What each penalty of the grid gives."""
    # All of it, for between two solutions there are short operations, too.
    multiplications = crossing.values.shape[-2] * crossing.start.weight.numel() * (int(crossing.fold_of.max()) + 1)
    with threads.crew(multiplications) as crew:
        return _crossed(crossing, l2_grid, effort, crew, emit)


def _crossed(crossing: Crossing, l2_grid: Sequence[float], effort: Effort, crew: Crew, emit: Emit) -> Crossed:
    held_out = torch.from_numpy(crossing.fold_of) == torch.arange(int(crossing.fold_of.max()) + 1)[:, None]
    rough = crossing.values.float()
    solution = crossing.start.repeated(len(held_out))
    judged: list[Judged] = []
    progress, speaking = Progress("probe", 0, len(l2_grid)), threading.Lock()

    def goes_on(_passes: int) -> None:
        with speaking:  # for folds are solved in several threads
            emit(progress)

    best, best_solution = 0, solution
    for step, l2 in enumerate(sorted(l2_grid, reverse=True)):
        progress = Progress("probe", step, len(l2_grid))
        emit(progress)
        # From strong to weak, each solution is close to the next.
        begun = replace(crossing, values=rough, start=solution)
        solution = _solved(begun, held_out, l2=l2, tolerance=effort.tolerance, crew=crew, goes_on=goes_on)
        judged.append(_judged(crossing, held_out, solution, l2))
        if step == 0 or judged[step].log_loss < judged[best].log_loss:
            best, best_solution = step, solution
        if step - best >= effort.patience or judged[step].is_clearly_worse(judged[best]):
            break
    return Crossed(tuple(judged), judged[best], best_solution)


def _solved(
    crossing: Crossing, held_out: Tensor, *, l2: float, tolerance: float, crew: Crew, goes_on: Told
) -> Solution:
    """The classifier of each fold `held_out (F, N)`, from what `crossing` starts with for each. `goes_on` is told of
    each time that the images of one or more of them are gone through, in whatever thread."""
    variances, start = crossing.variances, crossing.start

    def of(folds: slice, crew: Crew) -> Solution:
        return regression.solve(
            _of_folds(crossing, ~held_out[folds], folds),
            variances[folds] if variances.ndim > 1 else variances,
            l2=l2,
            start=Solution(start.weight[folds], start.bias[folds]),
            tolerance=tolerance,
            centre=crossing.centre,
            passed=goes_on,
            crew=crew,
        )

    fitting = _SIDE_BY_SIDE // max(1, start.weight[0].numel())
    together = max(1, min(fitting, math.ceil(len(held_out) / crew.count)))
    parts = [slice(begin, begin + together) for begin in range(0, len(held_out), together)]
    side_by_side = partial(of, crew=threads.ALONE)
    found = crew.each(side_by_side, parts) if fitting else [of(fold, crew) for fold in parts]
    return Solution(torch.cat([one.weight for one in found]), torch.cat([one.bias for one in found]))


def _of_folds(crossing: Crossing, seen: Tensor, folds: slice) -> Projected:
    """What some folds learn from; `seen (B, N) bool` says which images."""
    values = crossing.values[folds] if crossing.values.ndim > 2 else crossing.values
    if len(seen) > 1:
        return Projected(values, crossing.targets, seen)
    return Projected(values[..., seen[0], :], crossing.targets[seen[0]])


def _judged(crossing: Crossing, held_out: Tensor, solution: Solution, l2: float) -> Judged:
    """What the fold that has held an image out says of it."""
    values, targets = crossing.values, crossing.targets
    predicted, log_losses = torch.empty_like(targets), values.new_empty(len(targets))
    of_folds = values.expand(len(held_out), *values.shape[-2:])
    for rows, images, weight, bias in zip(held_out, of_folds, solution.weight, solution.bias, strict=True):
        logits = torch.addmm(bias, images[rows], weight.T)
        log_losses[rows] = functional.cross_entropy(logits, targets[rows], reduction="none")
        predicted[rows] = logits.argmax(dim=1)
    return Judged(l2, predicted, log_losses, float((predicted == targets).double().mean()))
