"""How well scores put one kind of images before another: areas under ROC curves, the curves, and risk by coverage."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.evaluation import RejectionCurve, Roc, RocCurve

_CURVES = 6
"""Labels with a curve: a picture of more is a tangle."""
_POINTS = 100
_GRID = np.linspace(0, 1, _POINTS + 1)


def auroc(high: NDArray[np.float64], low: NDArray[np.float64]) -> float | None:
    """The chance that one of the scores `high (N,)` is above one of `low (M,)`, ties by half; None where one has
    none."""
    if not len(high) or not len(low):
        return None
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left") + np.searchsorted(ordered, high, side="right")
    return float(below.sum() / (2 * len(high) * len(low)))


def roc(probabilities: NDArray[np.float64], targets: NDArray[np.int64], labels: Sequence[str]) -> Roc | None:
    """Each label against all others, by `probabilities (N, K)`; None where all images have the same."""
    aucs = [auroc(column[targets == place], column[targets != place]) for place, column in enumerate(probabilities.T)]
    known = sorted((area, place) for place, area in enumerate(aucs) if area is not None)
    if not known:
        return None
    mean = np.mean([_at_grid(probabilities[:, place], targets == place) for _, place in known], axis=0)
    # Of two labels, each has the other's curve mirrored.
    shown = [place for _, place in known[: 1 if len(labels) == 2 else _CURVES]]
    curves = [RocCurve(None, tuple(_GRID.tolist()), _rounded(mean))] if len(labels) > 2 else []
    curves += [_curve(labels[place], probabilities[:, place], targets == place) for place in shown]
    return Roc(float(np.mean([area for area, _ in known])), tuple(aucs), tuple(curves))


def rejection(score: str, values: NDArray[np.float64], right: NDArray[np.bool_]) -> RejectionCurve:
    """Refusing first the images with the lowest `values (N,)`, of which those that are `right (N,)` are labelled so."""
    order = np.argsort(-values, kind="stable")
    count = np.arange(1, len(order) + 1)
    risk = np.cumsum(~right[order]) / count
    places = np.unique(np.linspace(0, len(order) - 1, _POINTS).round().astype(int))
    return RejectionCurve(
        score=score,
        area=float(risk.mean()),
        coverage=_rounded(count[places] / len(order)),
        risk=_rounded(risk[places]),
    )


def _steps(scores: NDArray[np.float64], belongs: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positives, from none to all, one point for each different score."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found = np.concatenate([[0], np.cumsum(belongs[order])[ends] / belongs.sum()])
    wrong = np.concatenate([[0], np.cumsum(~belongs[order])[ends] / (~belongs).sum()])
    return wrong, found


def _at_grid(scores: NDArray[np.float64], belongs: NDArray[np.bool_]) -> NDArray[np.float64]:
    wrong, found = _steps(scores, belongs)
    values: NDArray[np.float64] = np.interp(_GRID, wrong, found)
    return values


def _curve(label: str, scores: NDArray[np.float64], belongs: NDArray[np.bool_]) -> RocCurve:
    wrong, found = _steps(scores, belongs)
    # Between two steps to the same side there is nothing to see.
    corner = np.ones(len(wrong), bool)
    corner[1:-1] = np.diff(wrong)[:-1] * np.diff(found)[1:] != np.diff(found)[:-1] * np.diff(wrong)[1:]
    wrong, found = wrong[corner], found[corner]
    kept = np.unique(np.linspace(0, len(wrong) - 1, 2 * _POINTS).round().astype(int))
    return RocCurve(label, _rounded(wrong[kept]), _rounded(found[kept]))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """As precise as a picture needs it."""
    return tuple(values.round(5).tolist())
