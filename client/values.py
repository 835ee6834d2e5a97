"""What the service answers, as values. Fields that a newer service adds are passed over."""

from datetime import datetime
from typing import Any

import msgspec

from client.profiles import Probe, Profile


class Dataset(msgspec.Struct, frozen=True):
    """A named collection of labelled images; `latest_version` is null before the first import."""

    id: str
    name: str
    latest_version: int | None
    created_at: datetime


class ClassCounts(msgspec.Struct, frozen=True):
    """Images of one label."""

    train: int
    validation: int


class DatasetVersion(msgspec.Struct, frozen=True):
    """An immutable state of a data set."""

    number: int
    labels: list[str]
    counts: dict[str, ClassCounts]
    images: int


class Progress(msgspec.Struct, frozen=True):
    """How far the present phase of a job is."""

    phase: str
    done: int
    total: int


class JobError(msgspec.Struct, frozen=True):
    """Why a job failed."""

    code: str
    message: str
    detail: dict[str, Any]


class Treatment(msgspec.Struct, frozen=True):
    """What happens to a stage, or to the head; without a learning rate a stage stays as it is, and a head is fitted to
    the features at once."""

    stage: str
    values: str
    learning_rate: float | None


class Expected(msgspec.Struct, frozen=True):
    """Where the accuracy will probably lie, 0-1."""

    low: float
    high: float


class Estimate(msgspec.Struct, frozen=True):
    """What a training will probably take."""

    seconds: float
    memory_bytes: int | None


class Plan(msgspec.Struct, frozen=True):
    """The part of a training's plan that a person reads."""

    backbone: str
    strategy: str
    treatments: list[Treatment]
    expected: Expected | None
    estimate: Estimate | None
    reasons: list[str]


class Job(msgspec.Struct, frozen=True):
    """One run: an import, an analysis, a ranking, a training or an optimisation."""

    id: str
    kind: str
    state: str
    dataset_id: str
    model_name: str | None
    plan: Plan | None
    attempt: int
    max_attempts: int
    progress: Progress | None
    result: dict[str, Any] | None
    error: JobError | None
    created_at: datetime
    finished_at: datetime | None
    queue: str = ""

    @property
    def has_ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


class Event(msgspec.Struct, frozen=True):
    """One line of a job's history."""

    seq: int
    at: datetime
    attempt: int
    type: str
    data: dict[str, Any]


class Import(msgspec.Struct, frozen=True):
    """An archive that was received, with the job that reads it."""

    id: str
    dataset_id: str
    job: Job


class RefusedFile(msgspec.Struct, frozen=True):
    """A file of an archive that did not become an item, and why."""

    position: int
    path: str
    code: str
    message: str


class Weights(msgspec.Struct, frozen=True):
    """Published weights; `at_hand` says where a copy lies on the service's machine."""

    name: str
    top1: float | None
    at_hand: str | None


class Backbone(msgspec.Struct, frozen=True):
    """A network of the catalogue."""

    name: str
    year: int
    parameters: int
    gmac: float
    input_size: int
    weights: list[Weights]
    """Those that a training takes unless told otherwise come first; empty for a network trained from scratch."""


class Planned(msgspec.Struct, frozen=True):
    """What a training would do; `profile` is null where the version was not measured yet."""

    dataset_id: str
    dataset_version: int
    plan: Plan
    profile: Profile | None


class Latency(msgspec.Struct, frozen=True):
    """Of one image by itself."""

    seconds: float


class Cost(msgspec.Struct, frozen=True):
    """What one prediction takes; `macs` is null where the multiply-adds are not known."""

    parameters: int
    size_bytes: int
    macs: int | None
    latency: Latency


class Candidate(msgspec.Struct, frozen=True):
    """A network that was ranked."""

    name: str
    weights: str
    log_me: float
    h_score: float
    neighbours: float
    probe: Probe
    cost: Cost
    has_seen: bool


class Place(msgspec.Struct, frozen=True):
    """Where it stands, and where each score alone would put it."""

    name: str
    combined: int
    by_score: dict[str, float]


class RankingSetting(msgspec.Struct, frozen=True):
    """What was ranked on."""

    classes: int
    measured_labels: int | None = None


class RankingFigures(msgspec.Struct, frozen=True):
    """The networks in order, with what to know before going by it."""

    setting: RankingSetting
    measured: list[Candidate]
    places: list[Place]
    remarks: list[str]


class Ranking(msgspec.Struct, frozen=True):
    """A ranking that is kept."""

    id: str
    dataset_id: str
    dataset_version: int
    figures: RankingFigures


class Alias(msgspec.Struct, frozen=True):
    """A movable name of a model version; whoever changes it may say on which `revision` that is based."""

    name: str
    version: int
    keep_loaded: bool
    revision: int
    updated_at: datetime


class AliasMove(msgspec.Struct, frozen=True):
    """Where an alias points from a revision on; `version` is null after its removal."""

    revision: int
    action: str
    version: int | None
    created_at: datetime


class Model(msgspec.Struct, frozen=True):
    """A named classifier."""

    id: str
    name: str
    latest_version: int
    revision: int
    aliases: list[Alias]
    created_at: datetime


class OldLabels(msgspec.Struct, frozen=True):
    """What the labels of a base have lost in a model version, in points; accuracies 0-1."""

    images_of: str
    images: int
    base_accuracy: float
    accuracy: float
    accuracy_among_old: float
    lost: float
    forgotten: float
    warning: str | None = None


class ModelVersion(msgspec.Struct, frozen=True):
    """One immutable result of a training."""

    number: int
    job_id: str
    dataset_id: str
    dataset_version: int
    backbone: str
    strategy: str
    labels: list[str]
    evaluation: dict[str, Any]

    @property
    def old_labels(self) -> list[OldLabels]:
        """What the labels of the base have lost, where it was trained from one."""
        return msgspec.convert(self.evaluation.get("old_labels") or [], list[OldLabels])


class Arm(msgspec.Struct, frozen=True):
    """One run of an experiment; accuracy 0-1."""

    job_id: str
    state: str
    error: JobError | None
    model: str
    accuracy: float | None
    interval: dict[str, float] | None
    seconds: float


class Verdict(msgspec.Struct, frozen=True):
    """Whether pre-training raised the final score or only got there faster."""

    finding: str
    speed_up: float | None
    reasons: list[str]


class Experiment(msgspec.Struct, frozen=True):
    """Runs of one version to be compared; the verdict is there once all have ended."""

    id: str
    arms: dict[str, Arm]
    verdict: Verdict | None


class LabelProbability(msgspec.Struct, frozen=True):
    label: str
    probability: float


class Prediction(msgspec.Struct, frozen=True):
    """The labels of one image, the most probable first, and whether it is like nothing that was learned: then it has
    less `similarity` with the nearest label, up to 1, than most photos of the labels have."""

    labels: list[LabelProbability]
    unknown: bool | None = None
    similarity: float | None = None


class Predictions(msgspec.Struct, frozen=True):
    """The answer for several images, in their order."""

    model: str
    version: int
    predictions: list[Prediction]


class Worker(msgspec.Struct, frozen=True):
    id: str
    queues: list[str]


class Ready(msgspec.Struct, frozen=True):
    """The service answers; these workers are alive."""

    workers: list[Worker]
