"""How frequent the labels are that a classifier is trained from a base for.

A classifier calls a label as often as it saw it, so that a version with a few images of the old labels and many of new
ones would make the old ones rare, however many the base has learnt from. The bias of a label is the logarithm of how
frequent it is, up to what all have in common ("Adjusting the outputs of a classifier to new a priori probabilities",
Saerens et al. 2002, equation 4; with biases, "Long-tail learning via logit adjustment", Menon et al. 2021): by that
the old labels are raised, all alike, so that what tells them from one another stays.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from app.backbones.classifier import Classifier
from app.warmstart import WarmStart
from worker.training import warm
from worker.training.data import Splits
from worker.training.events import Emit, OldLabelsRaised
from worker.training.warm import Base

_LEAST = 1.1
"""How many times more frequent old labels must be for that to be worth a word."""


def learned(splits: Splits, base: Base | None, start: WarmStart | None) -> dict[str, int]:
    """How many images of each label a classifier has learnt from that was trained on `splits`, those included that its
    base has. Of images that may be the same no more than one is counted."""
    counts = _counts(splits)
    if base is not None and start is not None:
        if base.splits is not None:
            more = warm.replayable(splits, base, start).targets
            counts = counts + np.bincount(more, minlength=len(splits.labels))
        for one in start.kept:
            place = splits.labels.index(one.new)
            counts[place] = max(counts[place], base.learned.get(one.old, 0))
    return dict(zip(splits.labels, counts.tolist(), strict=True))


def raise_old(classifier: Classifier, splits: Splits, base: Base, start: WarmStart, emit: Emit) -> None:
    """Make the old labels of `classifier`, which was trained on `splits`, as frequent beside the new ones as those that
    the base has learnt from, if it has more, and at most as frequent as the new ones."""
    if start.label_prior != "learned" or not start.fresh:
        return
    old = np.array([splits.labels.index(one.new) for one in start.kept])
    known = np.array(list(learned(splits, base, start).values()))[old].mean()
    counts = _counts(splits)
    seen, fresh = float(counts[old].mean()), float(np.delete(counts, old).mean())
    times = min(float(known), fresh) / seen if seen else 1.0
    if times < _LEAST:
        return
    with torch.no_grad():
        classifier.head.bias[torch.from_numpy(old)] += math.log(times)
    emit(OldLabelsRaised(images=seen, new=fresh, learned=float(known), times=times))


def _counts(splits: Splits) -> NDArray[np.int64]:
    return np.bincount(splits.train.targets, minlength=len(splits.labels))
