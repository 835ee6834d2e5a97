"""A finished classifier, and which of two to keep."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.backbones.classifier import Classifier
from app.backbones.preprocess import Preprocessing
from app.evaluation import Evaluation
from app.plan import Plan
from app.wording import percent
from worker.training import evaluate
from worker.training.events import Emit, OldLabelsJudged, RivalJudged


@dataclass(frozen=True)
class Trained:
    """A finished classifier, on the CPU, with its figures on the validation images."""

    classifier: Classifier
    evaluation: Evaluation
    probabilities: NDArray[np.float64]
    """For each validation image `(N, K)`."""
    similarities: NDArray[np.float64]
    """Of each validation image with each label `(N, K)`: cosines of its features with `means`."""
    means: NDArray[np.float32]
    """Mean direction of the features of each label `(K, D)`."""
    plan: Plan
    """What was carried out for it."""
    old_labels: tuple[OldLabelsJudged, ...] = ()
    """Where it was trained from a base, what the labels of this have lost."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What images go through before the classifier sees them."""
        return self.classifier.preprocessing


def better(trained: Trained, rival: Trained, overall: Plan, targets: NDArray[np.int64], emit: Emit) -> Trained:
    """The one that explains the labels of the validation images better; the rival, which is simpler, where they do as
    well. That stands in the plan as a whole, `overall`, as it was before either was carried out: what came of the other
    one is said of a network that is not kept."""
    ours, theirs = (evaluate.tempered_log_loss(one.probabilities, targets) for one in (trained, rival))
    wins = theirs <= ours
    kept = rival if wins else trained
    emit(
        RivalJudged(
            strategy=trained.plan.strategy,
            accuracy=trained.evaluation.accuracy,
            loss=ours,
            rival=rival.plan.strategy,
            rival_accuracy=rival.evaluation.accuracy,
            rival_loss=theirs,
            kept=kept.plan.strategy,
        )
    )
    if not wins:
        return trained
    said = (
        f"A simpler classifier was fitted besides, by strategy '{rival.plan.strategy}', and is kept: its log-loss on "
        f"the validation images is {theirs:.3f} nats, that of strategy '{trained.plan.strategy}' {ours:.3f}, each at "
        f"its best temperature; they are right for {percent(rival.evaluation.accuracy)} and "
        f"{percent(trained.evaluation.accuracy)}."
    )
    return instead(rival, overall, said)


def instead(rival: Trained, overall: Plan, said: str) -> Trained:
    """`rival` as what has come of the plan as a whole."""
    plan = replace(
        rival.plan,
        quadrant=overall.quadrant,
        expected=overall.expected,
        estimate=overall.estimate,
        reasons=(*overall.reasons, said, *rival.plan.reasons),
    )
    return replace(rival, plan=plan)
