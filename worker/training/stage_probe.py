"""The linear classifier on the stage that suits best, or on the features of all stages that matter most."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.backbones.taps import Outlet
from app.plan import MAX_COMPARED
from app.profile import HEAD
from worker.training import probe, regression
from worker.training.events import (
    Emit,
    Event,
    FeaturesSelected,
    Progress,
    ShareTried,
    StageChosen,
    StageTried,
)
from worker.training.features import Features
from worker.training.probe import Folds, Linear
from worker.training.table import Columns, Rows

_FEWEST = 16
"""Features that are taken at least, where there are so many."""


@dataclass(frozen=True)
class Grid:
    """What is tried, and how it is judged."""

    l2: tuple[float, ...]
    folds: int
    shares: tuple[float, ...]
    """Of the features of all stages, all of them included."""


@dataclass(frozen=True)
class Fitted:
    """A linear classifier and where in the network its features come from."""

    linear: Linear
    outlet: Outlet
    columns: NDArray[np.int64] | None
    """Which features of the outlet's taps are taken `(F,)`."""


def outlet_of(depth: str) -> Outlet:
    """Where the features of `depth`, a stage or `HEAD`, come out."""
    return Outlet() if depth == HEAD else Outlet(stage=depth)


def fit_best(
    found: Features,
    targets: NDArray[np.int64],
    *,
    classes: int,
    grid: Grid,
    seed: int,
    emit: Emit,
    groups: NDArray[np.int64] | None = None,
) -> Fitted:
    """The classifier of the one depth whose features have the least cross-validated log-loss; near copies, told by
    `groups (N,)`, are in one fold."""
    tried: list[StageTried] = []
    folds = probe.divide(targets, folds=grid.folds, seed=seed, groups=groups)
    for place, depth in enumerate(found.columns):
        values = found.at(depth).train
        compared = probe.compare(
            values,
            targets,
            folds,
            classes=classes,
            l2_grid=grid.l2,
            emit=_part_of(emit, place, len(found.columns)),
        )
        best = compared.best
        tried.append(StageTried(depth, values.shape[1], best.l2, best.log_loss, best.accuracy))
    chosen = min(tried, key=lambda one: one.log_loss)
    emit(StageChosen(chosen.stage, tuple(tried)))
    l2 = _for_all(chosen.l2, grid, chosen_with=len(folds.positions), images=len(targets))
    linear = probe.search(
        found.at(chosen.stage).train, targets, classes=classes, l2_grid=[l2], folds=0, seed=seed, emit=emit
    )
    return Fitted(linear, outlet_of(chosen.stage), columns=None)


def fit_selected(
    found: Features,
    targets: NDArray[np.int64],
    *,
    classes: int,
    grid: Grid,
    seed: int,
    emit: Emit,
    groups: NDArray[np.int64] | None = None,
) -> Fitted:
    """The classifier of the features of all depths to which a classifier of all features gives the largest weights,
    as many of them as have the least cross-validated log-loss ("Head2Toe", Evci et al. 2022); near copies, told by
    `groups (N,)`, are in one fold."""
    # Each depth in its own unit, or those with small numbers would not count.
    unit = np.ones(found.train.shape[1], np.float32)
    for columns in found.columns.values():
        unit[columns] = regression.typical_spread(Columns(found.train, columns))
    values = _InUnits(found.train, unit, slice(None))
    selection = _Selection(values, targets, groups, classes, grid, seed, emit)
    taken = selection.compared() if len(grid.shares) > 1 else _Taken(values.shape[1], grid.l2[0], ())
    ranked = _ranking(values, probe.path(values, targets, classes=classes, l2_grid=[taken.l2], emit=emit)[0])
    chosen = np.sort(ranked[: taken.features])
    (linear,) = probe.path(_InUnits(found.train, unit, chosen), targets, classes=classes, l2_grid=[taken.l2], emit=emit)
    linear = Linear(linear.weight / unit[chosen], linear.bias, taken.l2, ())
    counts = {depth: int(((chosen >= c.start) & (chosen < c.stop)).sum()) for depth, c in found.columns.items()}
    taps = {depth: count for depth, count in counts.items() if count}
    emit(FeaturesSelected(len(chosen), taps, taken.tried))
    return Fitted(linear, Outlet(taps=tuple(taps)), _within(found, taps, chosen))


@dataclass(frozen=True)
class _InUnits:
    """Some columns of a table, each in its unit; `unit (D,)` is that of all columns."""

    rows: Rows
    unit: NDArray[np.float32]
    columns: NDArray[np.int64] | slice

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), len(self.unit[self.columns])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.rows[key][:, self.columns] / self.unit[self.columns]
        return found


@dataclass(frozen=True)
class _Taken:
    features: int
    l2: float
    tried: tuple[ShareTried, ...]


@dataclass(frozen=True)
class _Selection:
    values: Rows
    targets: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    classes: int
    grid: Grid
    seed: int
    emit: Emit

    def compared(self) -> _Taken:
        """How many features do best, and with which penalty.

        The selection is made anew in each fold: made once, with the images that judge it, few features would look
        better than they are.
        """
        grid, count = self.grid, self.values.shape[1]
        sizes = sorted({max(min(_FEWEST, count), round(share * count)) for share in grid.shares})
        sample = probe.stratified_sample(self.targets, size=MAX_COMPARED, at_least=grid.folds, seed=self.seed)
        values, targets = self.values[sample], self.targets[sample]
        groups = None if self.groups is None else self.groups[sample]
        fold_of = probe.assign_folds(targets, folds=grid.folds, seed=self.seed, groups=groups)
        folds = Folds(np.arange(len(targets)), fold_of)
        whole = probe.compare(
            values, targets, folds, classes=self.classes, l2_grid=grid.l2, emit=_part_of(self.emit, 0, len(sizes))
        )
        rankings = [_ranking(values[fold_of != fold], linear) for fold, linear in enumerate(whole.folds)]
        best = {count: whole.best}
        for place, size in enumerate(sizes[:-1], start=1):
            best[size] = probe.compare_chosen(
                values,
                targets,
                fold_of,
                [ranking[:size] for ranking in rankings],
                classes=self.classes,
                l2_grid=grid.l2,
                emit=_part_of(self.emit, place, len(sizes)),
            )
        tried = tuple(ShareTried(size, best[size].l2, best[size].log_loss, best[size].accuracy) for size in sizes)
        chosen = min(tried, key=lambda one: one.log_loss)
        l2 = _for_all(chosen.l2, grid, chosen_with=len(targets), images=len(self.targets))
        return _Taken(chosen.features, l2, tried)


def _for_all(l2: float, grid: Grid, *, chosen_with: int, images: int) -> float:
    """The penalty for all images; one that was not chosen is meant for them as it is."""
    return probe.for_all(l2, chosen_with=chosen_with, images=images) if len(grid.l2) > 1 else l2


def _ranking(values: Rows, linear: Linear) -> NDArray[np.int64]:
    """The features of `values (N, D)`, first those that move the logits most: by the norm of their weights over the
    classes, for features of the same spread."""
    relevance = np.linalg.norm(linear.weight, axis=0) * regression.spread(values)
    return np.argsort(-relevance, kind="stable")


def _within(found: Features, taps: dict[str, int], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """`chosen`, places among the features of all depths, as places among those of `taps`."""
    kept = np.concatenate([np.arange(found.columns[tap].start, found.columns[tap].stop) for tap in taps])
    return np.searchsorted(kept, chosen)


def _part_of(emit: Emit, place: int, parts: int) -> Emit:
    """An `emit` for one of several parts of the same phase."""

    def told(event: Event) -> None:
        if isinstance(event, Progress):
            event = Progress(event.phase, place * event.total + event.done, parts * event.total)
        emit(event)

    return told
