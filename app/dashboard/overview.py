"""What the start page tells, read in a few queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.experiments import service as experiments
from app.jobs import queues, summaries
from app.jobs import service as jobs
from app.jobs.schemas import ENDED
from app.jobs.summaries import Summary
from app.models import aliases
from app.models import service as models
from app.models.tables import Model, ModelVersion

_SHOWN = 20


@dataclass(frozen=True)
class ModelLine:
    """A model by its newest version."""

    name: str
    number: int
    accuracy: float | None
    backbone: str
    strategy: str
    aliases: Sequence[str]
    """As `production @2`."""
    created_at: datetime
    """Of that version."""
    page: str


@dataclass(frozen=True)
class DatasetLine:
    """A data set by its newest version, whose `number` is None before the first import."""

    id: str
    name: str
    number: int | None
    images: int
    labels: int
    created_at: datetime


@dataclass(frozen=True)
class ExperimentLine:
    id: str
    backbone: str
    dataset: str
    version: int


@dataclass(frozen=True)
class Overview:
    """At most twenty of each: of jobs those first that have not ended, of models those with the newest versions."""

    workers: int
    """That were heard of lately."""
    unserved: Sequence[str]
    """Queues with jobs that wait and without a worker that takes them."""
    jobs: Sequence[Summary]
    models: Sequence[ModelLine]
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
        unserved=[queue for queue in queues.waited_in(session) if queue not in served],
        jobs=[summaries.of(session, row) for row in queues.not_ended_first(session, limit=_SHOWN)],
        models=[_model(session, *row) for row in models.newest_versions(session, limit=_SHOWN)],
        experiments=[
            ExperimentLine(row.id, row.backbone, datasets.called(session, row.dataset_id), row.dataset_version)
            for row in experiments.newest_first(session, limit=_SHOWN, after=None)[:_SHOWN]
        ],
        datasets=_datasets(session),
    )


def _model(session: Session, model: Model, newest: ModelVersion) -> ModelLine:
    return ModelLine(
        name=model.name,
        number=newest.number,
        accuracy=newest.evaluation.get("accuracy"),
        backbone=newest.backbone,
        strategy=newest.strategy,
        aliases=[f"{alias.name} @{alias.version}" for alias in aliases.of_models(session, [model.id])],
        created_at=newest.created_at,
        page=summaries.evaluation(model.name, newest.number),
    )


def _datasets(session: Session) -> list[DatasetLine]:
    found = []
    for row in datasets.newest_first(session, limit=_SHOWN, after=None)[:_SHOWN]:
        newest = None if row.latest_version is None else datasets.version_of(session, row.id, row.latest_version)
        images, labels = (newest.images, len(newest.labels)) if newest is not None else (0, 0)
        found.append(DatasetLine(row.id, row.name, row.latest_version, images, labels, row.created_at))
    return found
