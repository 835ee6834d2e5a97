"""The whole evaluation of a finished classifier, from what it said of the held-out images."""

from dataclasses import dataclass, replace

from app.evaluation import Evaluation
from worker.training import calibrate, conformal, mistakes, separation, unknown
from worker.training.data import Splits
from worker.training.rivals import Trained


@dataclass(frozen=True)
class Report:
    """An evaluation with nothing left out; `thumbnails[i]` is the JPEG of its mistake i."""

    evaluation: Evaluation
    thumbnails: tuple[bytes, ...]


def report(trained: Trained, splits: Splits, *, also_chosen_by: bool, max_pixels: int) -> Report:
    """Everything that `Evaluation` has, of `trained` on the validation images of `splits`."""
    probabilities, images, labels = trained.probabilities, splits.validation, splits.labels
    targets, seed = images.targets, trained.plan.seed
    reliability = calibrate.reliability(probabilities, targets, seed=seed)
    worst = mistakes.worst(probabilities, targets)
    evaluation = replace(
        trained.evaluation,
        also_chosen_by=also_chosen_by,
        roc=separation.roc(probabilities, targets, labels),
        reliability=reliability,
        unknown=unknown.evaluate(trained.similarities, probabilities, targets, labels, seed=seed),
        conformal=conformal.evaluate(probabilities, targets, temperature=reliability.temperature, seed=seed),
        mistakes=mistakes.described(worst, probabilities, images, labels),
        old_labels=trained.old_labels or None,
    )
    files = images.read(worst.tolist()) if len(worst) else []
    return Report(evaluation, tuple(mistakes.thumbnail(file, max_pixels=max_pixels) for file in files))
