"""Starting control runs, and reading what they came to."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import errors, intervals
from app.datasets import service as datasets
from app.db import new_id
from app.experiments import curves, verdict
from app.experiments.schemas import ArmRead, ExperimentCreate, ExperimentRead
from app.experiments.tables import Experiment
from app.experiments.verdict import ARMS, Arm, Run
from app.intervals import Score
from app.jobs import events
from app.jobs import service as jobs
from app.jobs.schemas import ENDED, JobCreate, JobError
from app.jobs.tables import Job, JobEvent
from app.models import service as models
from app.models.tables import ModelVersion

_EVENTS_A_PAGE = 1000


@dataclass(frozen=True)
class Found:
    """An arm with all that is known of it."""

    read: ArmRead
    run: Run


def create(
    session: Session, wanted: ExperimentCreate, *, max_attempts: int, now: datetime
) -> tuple[Experiment, list[Job]]:
    """Queue all runs, or none. Raises as `jobs.submit_training` does."""
    version = datasets.asked_version(session, wanted.dataset, wanted.version)
    queued: dict[Arm, Job] = {}
    for arm in wanted.arms:
        asked = JobCreate(
            dataset=version.dataset_id,
            version=version.number,
            model=f"{wanted.model}-{arm.replace('_', '-')}",
            recipe=wanted.recipe(arm),
        )
        with _recipe_called(wanted, arm):
            queued[arm] = jobs.submit_training(session, asked, max_attempts=max_attempts, now=now)
    row = Experiment(
        id=new_id("exp"),
        dataset_id=version.dataset_id,
        dataset_version=version.number,
        backbone=wanted.backbone,
        arms={arm: job.id for arm, job in queued.items()},
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row, list(queued.values())


def _recipe_called(wanted: ExperimentCreate, arm: Arm) -> AbstractContextManager[None]:
    """What is wrong with an arm's recipe is wrong with the field that has it; of one that was left out, its backbone
    alone comes from a field."""
    if getattr(wanted, arm) is not None:
        return errors.renaming("recipe", to=arm)
    return errors.renaming("recipe.backbone", to="backbone")


def find(session: Session, experiment_id: str) -> Experiment:
    row = session.get(Experiment, experiment_id)
    if row is None:
        raise errors.NotFound(f"no experiment {experiment_id}", code="experiment_not_found")
    return row


def is_arm(session: Session, dataset_id: str, job_id: str) -> bool:
    """Whether this training of the dataset is one of control runs."""
    rows = session.scalars(select(Experiment).where(Experiment.dataset_id == dataset_id))
    return any(job_id in row.arms.values() for row in rows)


def newest_first(session: Session, *, limit: int, after: str | None) -> Sequence[Experiment]:
    query = select(Experiment).order_by(Experiment.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Experiment.id < after)
    return session.scalars(query).all()


def read(session: Session, row: Experiment) -> ExperimentRead:
    """The experiment with its curves, and with the verdict once all runs have ended."""
    found: dict[Arm, Found] = {arm: _arm(session, arm, row.arms[arm]) for arm in ARMS if arm in row.arms}
    has_ended = all(arm.read.state in ENDED for arm in found.values())
    return ExperimentRead(
        id=row.id,
        dataset_id=row.dataset_id,
        dataset_version=row.dataset_version,
        backbone=row.backbone,
        created_at=row.created_at,
        has_ended=has_ended,
        arms={arm: one.read for arm, one in found.items()},
        verdict=verdict.judge({arm: one.run for arm, one in found.items()}) if has_ended else None,
    )


def _arm(session: Session, arm: Arm, job_id: str) -> Found:
    job = jobs.find(session, job_id)
    made = models.of_job(session, job_id)
    score = None if made is None else _score(made)
    curve, seconds = curves.of(_history(session, job))
    accuracy = None if score is None else score.accuracy
    read = ArmRead(
        job_id=job.id,
        state=job.state,
        error=None if job.error is None else JobError.model_validate(job.error),
        model=str(job.model_name),
        model_version=None if made is None or made.deleted_at is not None else made.number,
        strategy=None if made is None else made.strategy,
        accuracy=accuracy,
        interval=None if score is None else intervals.of_share(score),
        images=None if score is None else score.images,
        seconds=seconds,
        curve=list(curve),
    )
    return Found(read, Run(curve, score, None if made is None else made.evaluation.get("right")))


def _score(made: ModelVersion) -> Score:
    images, accuracy = int(made.evaluation["images"]), float(made.evaluation["accuracy"])
    return Score(round(accuracy * images), images)


def _history(session: Session, job: Job) -> Iterable[JobEvent]:
    seq = 0
    while True:
        page = events.after(session, job.id, seq, limit=_EVENTS_A_PAGE)
        yield from page
        if len(page) < _EVENTS_A_PAGE:
            return
        seq = page[-1].seq
