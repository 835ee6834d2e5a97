"""What a training tells while it runs. All that comes back out of `emit` is an exception: `Enough`, or cancelling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from app.evaluation import OldLabels


class Event(Protocol):
    """Any frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Emit = Callable[[Event], None]


class Enough(Exception):
    """Comes out of `emit` where steps are trained: they are to end here, and what there is then counts."""


@dataclass(frozen=True)
class Progress:
    """How far a phase has come, in steps of its own."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class FeaturesReady:
    """The features of all images are there after `seconds`: computed, or read from the cache."""

    images: int
    seconds: float
    cached: bool
    """Whether none of them had to be computed."""
    reused: int
    """Images whose features earlier jobs had computed, or earlier attempts of this one."""
    pass_seconds: float
    """What the pass took by which they were computed, here or when earlier jobs did that."""


@dataclass(frozen=True)
class FeaturesNotKept:
    """The features of all images are held in memory and not kept for later trainings, for this reason."""

    reason: str


@dataclass(frozen=True)
class PenaltyTried:
    """A penalty and what cross-validation gave for it: mean log-loss in nats and accuracy 0-1."""

    l2: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class ProbeFitted:
    """The linear classifier is fitted to all images with penalty `l2`; `tried`, with some or all, can be empty."""

    l2: float
    tried: tuple[PenaltyTried, ...]


@dataclass(frozen=True)
class StageTried:
    """The features of one stage, and what cross-validation gave for the best penalty: mean log-loss in nats and
    accuracy 0-1."""

    stage: str
    features: int
    l2: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class StageChosen:
    """The classifier sees the features of `stage`, which did best of those that were `tried`, in order."""

    stage: str
    tried: tuple[StageTried, ...]


@dataclass(frozen=True)
class ShareTried:
    """So many of the features of all stages, and what cross-validation gave for the best penalty."""

    features: int
    l2: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class FeaturesSelected:
    """The classifier sees `features` of all features of all stages; `tried` is empty where all were to be taken."""

    features: int
    stages: dict[str, int]
    """How many of each stage that any are taken of."""
    tried: tuple[ShareTried, ...]


@dataclass(frozen=True)
class StartEvaluated:
    """The network on the validation images before the first step, with the linear classifier as its head."""

    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class FullPrecision:
    """Computed in fp32 although bf16 was asked for, for this reason."""

    reason: str


@dataclass(frozen=True)
class EpochFinished:
    """One pass over the training images, epochs counted from 1; losses in nats, accuracy 0-1."""

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    tempered_loss: float
    """The validation loss at the temperature that suits the network best."""
    learning_rate: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class CheckpointSaved:
    """A later attempt can go on after this epoch."""

    epoch: int


@dataclass(frozen=True)
class CheckpointNotKept:
    """There was no keeping the state of the training, for this reason; a later attempt goes on from an earlier one."""

    reason: str


@dataclass(frozen=True)
class Resumed:
    """The training goes on after this epoch and so many steps of the next, which an earlier attempt has done."""

    epoch: int
    step: int


@dataclass(frozen=True)
class BatchSplit:
    """A batch does not fit the device's memory: so many images are computed at once, for the same steps."""

    images: int


@dataclass(frozen=True)
class BatchShared:
    """So many devices share the images of each batch."""

    devices: int


@dataclass(frozen=True)
class NotKept:
    """The frozen layers are computed anew in every epoch, for this reason."""

    reason: str


@dataclass(frozen=True)
class ViewsLimited:
    """There is room for what the frozen layers make of so many `views` of an image, of `wanted` ones. A single view is
    what serving sees, so that the training images are not changed at all."""

    views: int
    wanted: int


@dataclass(frozen=True)
class ImagesNotKept:
    """The training images are decoded anew in every epoch, though a GPU waits for them, for this reason."""

    reason: str


@dataclass(frozen=True)
class StoppedEarly:
    """No epoch since `best_epoch` was better, for as many as the recipe has patience."""

    epoch: int
    best_epoch: int


@dataclass(frozen=True)
class EpochKept:
    """With patience, and with no epoch left to train: what is kept are the values after this epoch, which did best; 0
    for those before the first step."""

    epoch: int


@dataclass(frozen=True)
class CutShort:
    """The training was to end with what it had, after so many of its epochs, and perhaps in the midst of one."""

    epoch: int
    epochs: int


@dataclass(frozen=True)
class StartKept:
    """The network before the first step explains the labels of the validation images better than after the last one,
    and is what is kept; log-losses in nats, each at its best temperature."""

    start_loss: float
    end_loss: float


@dataclass(frozen=True)
class WeightsMixed:
    """What is kept lies between the network before the first step and the one after the last one, at this `share` of
    the way, as it explains the labels of the validation images best; log-losses in nats, each at its best
    temperature."""

    share: float
    start_loss: float
    end_loss: float
    loss: float


@dataclass(frozen=True)
class TrainingDiverged:
    """The loss is no number any more or has run away, and the training ends. What is kept are the values after
    `kept_epoch`, 0 for those before the first step, or what lies between the two; None where there are none to keep."""

    epoch: int
    kept_epoch: int | None
    is_mixed: bool = False
    """Whether it lies between the values before the first step and those after `kept_epoch`; `WeightsMixed` says
    where."""


@dataclass(frozen=True)
class RivalJudged:
    """Two classifiers were made, and the one that explains the labels of the validation images better is kept;
    log-losses in nats, each at its best temperature, accuracies 0-1."""

    strategy: str
    accuracy: float
    loss: float
    rival: str
    rival_accuracy: float
    rival_loss: float
    kept: str


@dataclass(frozen=True)
class Planned:
    """What strategy `auto` has decided on; `plan` as the job has it from now on."""

    plan: dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """The finished classifier on the validation images; log-loss in nats, accuracy 0-1."""

    images: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True)
class BaseHasSeen:
    """The base was trained on so many `images` among `all_images` that the new classifier is validated on."""

    images: int
    all_images: int


@dataclass(frozen=True)
class OldLabelsRaised:
    """Old labels, of which the training had few images, are taken to be so many `times` more frequent: images a label
    of those in the training, of new labels, and of those that the base has learnt from besides."""

    images: float
    new: float
    learned: float
    times: float


@dataclass(frozen=True)
class OldLabelsJudged(OldLabels):
    """What the labels that a base knew have lost is told."""


@dataclass(frozen=True)
class TooMuchLost:
    """The labels that a base knew have lost more points than the `limit`, and what can be done."""

    images_of: str
    lost: float
    limit: float
    message: str


@dataclass(frozen=True)
class Profiled:
    """The version is measured: the cross-validated accuracy 0-1 of a linear classifier at the network's head and at its
    best depth, and the best of those of the same network with random values."""

    images: int
    accuracy: float
    best_depth: str
    best_accuracy: float
    random_accuracy: float


@dataclass(frozen=True)
class CandidateMeasured:
    """A network that is to be ranked is measured: cross-validated accuracy of a linear classifier on its features 0-1,
    its scores, the seconds of one image through it, and those that all of this took."""

    name: str
    accuracy: float
    log_me: float
    h_score: float
    neighbours: float
    latency: float
    seconds: float
    cached: bool


@dataclass(frozen=True)
class CandidateRefused:
    """A network is not ranked, for this reason."""

    name: str
    code: str
    message: str


@dataclass(frozen=True)
class Ranked:
    """All networks are measured; their order, the most promising first, and what to know of it."""

    order: tuple[str, ...]
    remarks: tuple[str, ...]
