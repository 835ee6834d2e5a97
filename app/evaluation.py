"""How good a model version is, measured on the held-out images. Values only, shared by the API, the artifact and the
training; figures that a version was stored without are None."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from app import intervals
from app.described import described
from app.intervals import Interval, Score
from app.wording import percent

COMPARED_EACH = 32
"""Training images of a label that others are compared with to tell what is unknown: the mean direction of more is
hardly another, and a pass takes time."""

LOST_AT_MOST, LOST_AT_MOST_WITH_REPLAY = 2.0, 0.5
"""Points that labels of a base may lose before the record warns of it, and where the base's own images of them were
trained on besides."""


@described
@dataclass(frozen=True)
class ClassFigures:
    """One label: its images, and precision, recall and F1 as 0-1; each is 0 where its denominator is."""

    label: str
    images: int
    precision: float
    recall: float
    f1: float


@described
@dataclass(frozen=True)
class TopAccuracy:
    """Share of images, 0-1, whose label is among the `k` most probable."""

    k: int
    accuracy: float


@described
@dataclass(frozen=True)
class RocCurve:
    """The share of images that are wrongly taken for a label against that of its own that are found, both 0-1."""

    label: str | None
    """None for the mean over all labels."""
    false_positives: tuple[float, ...]
    true_positives: tuple[float, ...]


@described
@dataclass(frozen=True)
class Roc:
    """How well probabilities put the images of a label before all others."""

    macro_auc: float
    """The mean of `aucs`."""
    aucs: tuple[float | None, ...]
    """Area under the curve of each label, 0-1; None where all images or none have it."""
    curves: tuple[RocCurve, ...]
    """The mean, and the labels with the least area."""


@described
@dataclass(frozen=True)
class Bin:
    """Images whose most probable label has a probability within these bounds: from `low` to below `high`, or 1 in
    single precision where both are that."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean of that probability; 0 where there are no images."""
    accuracy: float


@described
@dataclass(frozen=True)
class Trust:
    """How far probabilities can be taken at their word."""

    log_loss: float
    """Mean, in nats."""
    calibration_error: float
    """Mean distance of confidence and accuracy over the bins, weighted by images (expected calibration error)."""
    bins: tuple[Bin, ...]


@described
@dataclass(frozen=True)
class Reliability:
    """Probabilities as they are, and with logits divided by a temperature (Guo et al. 2017)."""

    temperature: float
    """1 where no other does better on images that it was not fitted to."""
    folds: int
    before: Trust
    after: Trust
    """Each image at a temperature that was fitted without its fold."""


@described
@dataclass(frozen=True)
class RejectionCurve:
    """What is gained by refusing the images that a score is lowest for."""

    score: str
    area: float
    """Mean share of mistakes over all shares of images kept (area under the risk-coverage curve)."""
    coverage: tuple[float, ...]
    """Share of images that are kept."""
    risk: tuple[float, ...]
    """Share of mistakes among them."""


@described
@dataclass(frozen=True)
class LeftOut:
    """A label that the classifier is not told of, its images taken for foreign ones."""

    label: str
    auroc: float
    """Chance that an image of the other labels is more similar to one of those than an image of this."""
    refused: float
    """Share of its images, at the threshold that accepts the wanted share of the others."""


@described
@dataclass(frozen=True)
class Unknown:
    """When an image is refused as like nothing that was learned: its features' cosine with the mean of the nearest
    label's is below `threshold`."""

    threshold: float
    wanted: float
    """Share of the held-out images that is accepted, 0-1."""
    accepted: float
    """Share of the held-out images, each judged by a threshold that was chosen without its fold."""
    accepted_accuracy: float | None
    refused_accuracy: float | None
    """None where none is refused."""
    mistakes_refused: float | None
    """Share of all mistakes; None where there are none."""
    mistakes_auroc: float | None
    """Chance that an image that is labelled right is more similar than one that is not."""
    left_out: tuple[LeftOut, ...]
    """With three labels or more."""
    curves: tuple[RejectionCurve, ...]


@described
@dataclass(frozen=True)
class Conformal:
    """Sets of labels that hold the true one with a chance of 1 - alpha: all with a probability, at the temperature, of
    `threshold` at least (Sadinle et al. 2019)."""

    alpha: float
    threshold: float
    splits: int
    """Of the held-out images, at random: the threshold is chosen on one part, the figures are of the other."""
    coverage: float
    """Mean share of sets that hold the true label."""
    coverage_range: Interval
    """The least and the most over the splits."""
    mean_size: float
    empty: float
    """Share of sets without a label."""
    single: float
    """Share of sets with one label."""
    judged_share: float = 0.5
    """Of the images in each split the share that the figures are of."""


@described
@dataclass(frozen=True)
class Mistake:
    """An image that is taken for another label; its thumbnail is the picture of the same number."""

    sha256: str
    label: str
    predicted: str
    probability: float
    """Of what it is taken for, 0-1."""
    label_probability: float
    path: str | None = None
    """Of the image file in the archive that it came with; None where that was not kept."""


@described
@dataclass(frozen=True)
class OldLabel:
    """A label that the base knew, with its images and the shares of them, 0-1, that base and new classifier get right;
    the figures as in `OldLabels`."""

    label: str
    images: int
    base_accuracy: float
    accuracy: float
    accuracy_among_old: float


@described
@dataclass(frozen=True)
class OldLabels:
    """What the labels that a base knew have lost, on validation images that neither was trained on; accuracies 0-1,
    losses in points, below zero for a gain."""

    images_of: str
    """Whose validation split: `base` for that of the version which the base was made from, or `version`."""
    images: int
    base_accuracy: float
    """Of the base, among the labels that are kept."""
    accuracy: float
    """Of the new classifier, among all of its labels."""
    accuracy_among_old: float
    """Of the new classifier, among the labels that are kept: whether it still tells these apart as the base did."""
    lost: float
    """From `base_accuracy` to `accuracy`: what was forgotten, and what is taken for a label that is new."""
    forgotten: float
    """From `base_accuracy` to `accuracy_among_old`."""
    labels: tuple[OldLabel, ...]
    interval: Interval | None = None
    """Of `lost`, 95 %, in points (Tango's, as both judge the same images)."""
    limit: float | None = None
    """Points that may be lost before there is a `warning`."""
    warning: str | None = None
    """Where more is lost, what that is made of and what can be done; None where it is not."""


@described
@dataclass(frozen=True)
class Evaluation:
    """Figures over the held-out images; plain values throughout."""

    images: int
    """Of the split."""
    accuracy: float
    """Share of them, 0-1, that are labelled right."""
    top5_accuracy: float | None
    """None where there are no more than five labels."""
    log_loss: float
    """Mean, in nats."""
    classes: tuple[ClassFigures, ...]
    """Of each label, in the order of the version."""
    confusion: tuple[tuple[int, ...], ...]
    """`confusion[i][j]`: images of label i taken for label j."""
    accuracy_interval: Interval | None = None
    """Wilson's, 95 %."""
    top: tuple[TopAccuracy, ...] | None = None
    also_chosen_by: bool | None = None
    """Whether the same images also decided which of several classifiers was kept, which flatters it a little."""
    roc: Roc | None = None
    reliability: Reliability | None = None
    unknown: Unknown | None = None
    conformal: tuple[Conformal, ...] | None = None
    mistakes: tuple[Mistake, ...] | None = None
    """The worst ones, the surest first."""
    old_labels: tuple[OldLabels, ...] | None = None
    """Of a model that was trained from another one: what the labels that this knew have lost."""
    right: str | None = None
    """Which images it is right for, so that others can be compared on the same ones: a bit each, the first image's
    first, filled up with zeros, as hex digits."""


_BRIEF = (
    "images",
    "accuracy",
    "accuracy_interval",
    "top5_accuracy",
    "log_loss",
    "classes",
    "confusion",
    "also_chosen_by",
    "old_labels",
    "right",
)


def plain(found: Evaluation) -> dict[str, Any]:
    """All figures as plain values."""
    # A matrix of thousands of labels has millions of values, which are plain already: to copy each takes seconds.
    return {**asdict(replace(found, confusion=())), "confusion": found.confusion}


def brief(found: Evaluation) -> Mapping[str, Any]:
    """The main figures as plain values."""
    whole = plain(found)
    return {name: whole[name] for name in _BRIEF}


def doubt(found: Evaluation) -> str | None:
    """Why the accuracy does not show that anything was learned, None where it does: the interval of the accuracy holds,
    or is below, what an answer that is always the same would get right."""
    images = sum(figures.images for figures in found.classes)
    if not images:
        return None
    frequent = max(found.classes, key=lambda figures: figures.images)
    guessed = frequent.images / images
    right = sum(row[place] for place, row in enumerate(found.confusion))
    interval = intervals.of_share(Score(right, images))
    if interval.low > guessed:
        return None
    return (
        f"It is not shown to do better than guessing: who always says {frequent.label!r} is right for "
        f"{percent(guessed)} of the validation images, and its own accuracy of {percent(right / images)} is between "
        f"{percent(interval.low)} and {percent(interval.high)} (95 %). More images would tell, and may help."
    )
