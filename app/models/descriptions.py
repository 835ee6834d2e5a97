"""What the pictures of an evaluation show, in words."""

from collections.abc import Callable
from dataclasses import dataclass

from app.evaluation import Evaluation
from app.models.templating import percent
from app.wording import counted

_PAIRS = 10


@dataclass(frozen=True)
class Pair:
    """Images of one label that are taken for another one."""

    label: str
    predicted: str
    count: int


def pairs(found: Evaluation) -> list[Pair]:
    """The labels that are mistaken most often."""
    labels = [figures.label for figures in found.classes]
    wrong = [
        Pair(labels[row], labels[column], count)
        for row, counts in enumerate(found.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(wrong, key=lambda pair: -pair.count)[:_PAIRS]


def describe(name: str, found: Evaluation) -> str:
    """The picture of this name, which there is something to draw of."""
    return _WORDS[name](found)


def _confusion(found: Evaluation) -> str:
    wrong = "; ".join(f"{pair.label} taken for {pair.predicted}: {pair.count}" for pair in pairs(found))
    said = f"Most often mistaken are {wrong}." if wrong else "None is given a wrong label."
    return f"Confusion matrix of {counted(len(found.classes), 'label')}. {percent(found.accuracy)} are right. {said}"


def _reliability(found: Evaluation) -> str:
    assert found.reliability is not None
    before, after = (trust.calibration_error for trust in (found.reliability.before, found.reliability.after))
    if found.reliability.temperature == 1:
        return f"Reliability diagram. Calibration error {percent(before)}; no temperature does better."
    return (
        f"Reliability diagram. Calibration error {percent(before)} before the temperature, {percent(after)} at "
        f"temperature {found.reliability.temperature:.3f}."
    )


def _roc(found: Evaluation) -> str:
    assert found.roc is not None
    areas = {figures.label: auc for figures, auc in zip(found.classes, found.roc.aucs, strict=True)}
    drawn = [label for curve in found.roc.curves if (label := curve.label) is not None]
    each = "".join(f" {label}: {areas[label]:.4f}." for label in drawn)
    return f"ROC curves. Mean area under the curves of all labels {found.roc.macro_auc:.4f}.{each}"


def _rejection(found: Evaluation) -> str:
    assert found.unknown is not None
    each = "".join(f" By {curve.score} {percent(curve.area)}." for curve in found.unknown.curves)
    return (
        f"Mistakes among the images that are kept. Without any refusal {percent(1 - found.accuracy)} are mistakes. The "
        f"mean over all shares of images kept:{each}"
    )


_WORDS: dict[str, Callable[[Evaluation], str]] = {
    "confusion": _confusion,
    "reliability": _reliability,
    "roc": _roc,
    "rejection": _rejection,
}
