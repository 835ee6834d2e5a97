"""The whole evaluation of a finished classifier, from what it said of the held-out images."""

from dataclasses import dataclass, replace

from app.evaluation import Evaluation
from worker.training import calibrate, conformal, mistakes, separation, unknown
from worker.training.data import Splits
from worker.training.events import Emit, Progress
from worker.training.rivals import Trained

_PARTS = 4


@dataclass(frozen=True)
class Report:
    """An evaluation with nothing left out; `thumbnails[i]` is the JPEG of its mistake i."""

    evaluation: Evaluation
    thumbnails: tuple[bytes, ...]


def report(trained: Trained, splits: Splits, *, also_chosen_by: bool, max_pixels: int, emit: Emit) -> Report:
    """Everything that `Evaluation` has, of `trained` on the validation images of `splits`; probabilities as they will
    be served, at the temperature that suits these images."""
    probabilities, images, labels = trained.probabilities, splits.validation, splits.labels
    targets, seed = images.targets, trained.plan.seed
    # Of very many images and labels each part takes a while, and is a sign of life.
    reliability = calibrate.reliability(probabilities, targets, seed=seed)
    emit(Progress("report", 1, _PARTS))
    sets = conformal.evaluate(probabilities, targets, temperature=reliability.temperature, seed=seed)
    emit(Progress("report", 2, _PARTS))
    # As large as `probabilities`: made once others of nearly that size are gone.
    served = calibrate.tempered(probabilities, reliability.temperature)
    roc = separation.roc(served, targets, labels)
    emit(Progress("report", 3, _PARTS))
    refusal = unknown.evaluate(trained.similarities, served, targets, labels, seed=seed)
    emit(Progress("report", 4, _PARTS))
    worst = mistakes.worst(served, targets)
    evaluation = replace(
        trained.evaluation,
        also_chosen_by=also_chosen_by,
        roc=roc,
        reliability=reliability,
        unknown=refusal,
        conformal=sets,
        mistakes=mistakes.described(worst, served, images, labels),
        old_labels=trained.old_labels or None,
    )
    files = images.read(worst.tolist()) if len(worst) else []
    return Report(evaluation, tuple(mistakes.thumbnail(file, max_pixels=max_pixels) for file in files))
