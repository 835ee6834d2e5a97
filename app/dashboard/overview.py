"""What the start page tells, read in a few queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.experiments import service as experiments
from app.jobs import imported, queues, summaries
from app.jobs import service as jobs
from app.jobs.schemas import ENDED
from app.jobs.summaries import Summary
from app.models import aliases
from app.models import service as models
from app.models.tables import Model, ModelVersion
from app.rankings import service as rankings
from app.rankings.tables import StoredRanking

_SHOWN = 20
_EARLIER = 5
_QUEUES = {
    "cpu": "cpu (imports, and optimisations for CPUs)",
    "gpu": "gpu (trainings and all else that computes with networks, on a CPU where there is no GPU)",
}


@dataclass(frozen=True)
class VersionLink:
    """What leads to the page of a version of a model."""

    text: str
    page: str


@dataclass(frozen=True)
class ModelLine:
    """A model by its newest version."""

    newest: VersionLink
    earlier: Sequence[VersionLink]
    """At most five, the last ones first."""
    accuracy: float | None
    backbone: str
    strategy: str
    aliases: Sequence[VersionLink]
    """As `production @2`."""
    created_at: datetime
    """Of the newest version."""


@dataclass(frozen=True)
class DatasetLine:
    """A data set by its newest version, whose `number` is None before the first import."""

    id: str
    name: str
    number: int | None
    images: int
    labels: int
    created_at: datetime
    last_import: str
    """How it stands or why it failed, where there is no version; empty without any import."""


@dataclass(frozen=True)
class ExperimentLine:
    id: str
    backbone: str
    dataset: str
    version: int


@dataclass(frozen=True)
class RankingLine:
    id: str
    dataset: str
    version: int
    networks: int
    best: str
    created_at: datetime


@dataclass(frozen=True)
class Overview:
    """At most twenty of each: of jobs those first that have not ended, of models those with the newest versions."""

    workers: int
    """That were heard of lately."""
    unserved: Sequence[str]
    """Queues with jobs that wait and without a worker that takes them, and what they have."""
    jobs: Sequence[Summary]
    leaves_out_imports: bool
    """Those that found nothing new, from the jobs."""
    models: Sequence[ModelLine]
    rankings: Sequence[RankingLine]
    experiments: Sequence[ExperimentLine]
    datasets: Sequence[DatasetLine]

    @property
    def is_busy(self) -> bool:
        """Whether it will look otherwise soon."""
        return any(each.job.state not in ENDED and each.job.state != "paused" for each in self.jobs)


def read(session: Session, *, heard_within: timedelta, now: datetime) -> Overview:
    """`heard_within`: for how long a silent worker counts as alive."""
    present = [worker for worker in jobs.workers(session) if worker.seen_at > now - heard_within]
    served = {queue for worker in present for queue in worker.queues}
    return Overview(
        workers=len(present),
        unserved=[_QUEUES.get(queue, queue) for queue in queues.waited_in(session) if queue not in served],
        jobs=[summaries.of(session, row) for row in queues.not_ended_first(session, limit=_SHOWN)],
        leaves_out_imports=queues.were_there_already(session),
        models=[_model(session, *row) for row in models.newest_versions(session, limit=_SHOWN)],
        rankings=[_ranking(session, row) for row in rankings.newest_first(session, limit=_SHOWN, after=None)[:_SHOWN]],
        experiments=[
            ExperimentLine(row.id, row.backbone, datasets.called(session, row.dataset_id), row.dataset_version)
            for row in experiments.newest_first(session, limit=_SHOWN, after=None)[:_SHOWN]
        ],
        datasets=_datasets(session),
    )


def _model(session: Session, model: Model, newest: ModelVersion) -> ModelLine:
    earlier = models.versions_newest_first(session, model.name, limit=_EARLIER, after=newest.number)[:_EARLIER]
    return ModelLine(
        newest=_link(model.name, newest.number, f"{model.name}@{newest.number}"),
        earlier=[_link(model.name, each.number, f"@{each.number}") for each in earlier],
        accuracy=newest.evaluation.get("accuracy"),
        backbone=newest.backbone,
        strategy=newest.strategy,
        aliases=[
            _link(model.name, alias.version, f"{alias.name} @{alias.version}")
            for alias in aliases.of_models(session, [model.id])
        ],
        created_at=newest.created_at,
    )


def _link(model: str, number: int, text: str) -> VersionLink:
    return VersionLink(text, summaries.evaluation(model, number))


def _ranking(session: Session, row: StoredRanking) -> RankingLine:
    found = rankings.summary(row)
    dataset = datasets.called(session, found.dataset_id)
    return RankingLine(found.id, dataset, found.dataset_version, found.networks, found.best, found.created_at)


def _datasets(session: Session) -> list[DatasetLine]:
    found = []
    for row in datasets.newest_first(session, limit=_SHOWN, after=None)[:_SHOWN]:
        newest = None if row.latest_version is None else datasets.version_of(session, row.id, row.latest_version)
        images, labels = (newest.images, len(newest.labels)) if newest is not None else (0, 0)
        told = "" if newest is not None else _last_import(session, row.id)
        found.append(DatasetLine(row.id, row.name, row.latest_version, images, labels, row.created_at, told))
    return found


def _last_import(session: Session, dataset_id: str) -> str:
    return next((line.told for line in imported.newest_first(session, dataset_id, limit=1)), "")
