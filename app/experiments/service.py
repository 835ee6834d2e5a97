"""Starting control runs, and reading what they came to."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import descent, errors, intervals
from app.datasets import service as datasets
from app.db import new_id
from app.experiments import curves, verdict
from app.experiments.schemas import ArmRead, ExperimentCreate, ExperimentRead, ExperimentSummary
from app.experiments.tables import Experiment
from app.experiments.verdict import ARMS, Arm, Cut, Point, Run
from app.intervals import Score
from app.jobs import events
from app.jobs import service as jobs
from app.jobs.schemas import ENDED, JobCreate, JobError
from app.jobs.tables import Job, JobEvent
from app.models import service as models
from app.models.tables import ModelVersion
from app.recipe import Recipe

_EVENTS_A_PAGE = 1000
_CUT = 0.5
"""Share of the usual epochs below which a run counts as stopped early."""
_RECIPE = TypeAdapter(Recipe)


@dataclass(frozen=True)
class Found:
    """An arm with all that is known of it."""

    read: ArmRead
    run: Run


@dataclass(frozen=True)
class _End:
    """How an arm stands, as far as its history is not needed for it."""

    state: str
    model: str
    run: Run
    """Without its curve."""


def create(
    session: Session, wanted: ExperimentCreate, *, max_activation_bytes: int, max_attempts: int, now: datetime
) -> tuple[Experiment, list[Job]]:
    """Queue all runs, or none. Raises as `jobs.submit_training` does."""
    version = datasets.asked_version(session, wanted.dataset, wanted.version)
    queued: dict[Arm, Job] = {}
    for arm in wanted.arms:
        asked = JobCreate(
            dataset=version.dataset_id,
            version=version.number,
            model=f"{wanted.model}{_suffix(arm)}",
            recipe=wanted.recipe(arm),
        )
        with _recipe_called(wanted, arm):
            queued[arm] = jobs.submit_training(
                session, asked, max_activation_bytes=max_activation_bytes, max_attempts=max_attempts, now=now
            )
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


def _suffix(arm: str) -> str:
    """Of the name of an arm's model."""
    return f"-{arm.replace('_', '-')}"


def _asked_model(arm: str, model: str) -> str:
    """The name that the models of all arms have in common."""
    return model.removesuffix(_suffix(arm))


def find(session: Session, experiment_id: str) -> Experiment:
    row = session.get(Experiment, experiment_id)
    if row is None:
        raise errors.NotFound(f"no experiment {experiment_id}", code="experiment_not_found")
    return row


def is_arm(session: Session, dataset_id: str, job_id: str) -> bool:
    """Whether this training of the dataset is one of control runs."""
    return any(job_id in row.arms.values() for row in _of_dataset(session, dataset_id))


def _of_dataset(session: Session, dataset_id: str) -> Sequence[Experiment]:
    return session.scalars(select(Experiment).where(Experiment.dataset_id == dataset_id)).all()


def call_off(session: Session, ended: Collection[str], *, now: datetime) -> None:
    """Cancel the runs that wait or go on of experiments which need another that is among the jobs `ended`, and has
    failed."""
    failed = select(Job.id, Job.dataset_id).where(Job.id.in_(ended), Job.kind == "train", Job.state == "failed")
    for job_id, dataset_id in session.execute(failed).all():
        for row in _of_dataset(session, dataset_id):
            for arm in verdict.needed(row.arms):
                if row.arms[arm] == job_id:
                    _call_off_others(session, row, arm, now=now)


def _call_off_others(session: Session, row: Experiment, failed: Arm, *, now: datetime) -> None:
    why = f"{verdict.NAMES[failed]} failed (job {row.arms[failed]}), without which there is no verdict"
    for arm, job_id in row.arms.items():
        if arm != failed:
            jobs.call_off(session, job_id, why=why, now=now)


def newest_first(session: Session, *, limit: int, after: str | None) -> Sequence[Experiment]:
    query = select(Experiment).order_by(Experiment.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Experiment.id < after)
    return session.scalars(query).all()


def summaries(session: Session, rows: Sequence[Experiment]) -> list[ExperimentSummary]:
    """What a list has of each. Histories are read of those alone whose final scores leave the finding open."""
    ends = _ends(session, [job_id for row in rows for job_id in row.arms.values()])
    runs = {row.id: {arm: ends[row.arms[arm]].run for arm in ARMS if arm in row.arms} for row in rows}
    ended = {row.id for row in rows if all(ends[job_id].state in ENDED for job_id in row.arms.values())}
    findings = {id_: verdict.settled(runs[id_]) for id_ in ended}
    unsettled = [row for row in rows if row.id in ended and findings[row.id] is None]
    found = _curves(session, [job_id for row in unsettled for job_id in row.arms.values()])
    for row in unsettled:
        drawn = {arm: replace(run, curve=found.get(row.arms[arm], ())) for arm, run in runs[row.id].items()}
        findings[row.id] = verdict.judge(drawn).finding
    return [
        ExperimentSummary(
            id=row.id,
            dataset_id=row.dataset_id,
            dataset_version=row.dataset_version,
            model=_asked_model(*next((arm, ends[job_id].model) for arm, job_id in row.arms.items())),
            backbone=row.backbone,
            created_at=row.created_at,
            has_ended=row.id in ended,
            finding=findings.get(row.id),
        )
        for row in rows
    ]


def _ends(session: Session, job_ids: Collection[str]) -> dict[str, _End]:
    """How each of the jobs stands; of what they have made only what is compared, as evaluations are long."""
    evaluation = ModelVersion.evaluation
    made = session.execute(
        select(
            ModelVersion.job_id,
            evaluation["images"].as_integer(),
            evaluation["accuracy"].as_float(),
            evaluation["right"].as_string(),
        ).where(ModelVersion.job_id.in_(job_ids))
    )
    runs = {job_id: Run((), _score(images, accuracy), right, job_id=job_id) for job_id, images, accuracy, right in made}
    found = session.execute(select(Job.id, Job.state, Job.model_name).where(Job.id.in_(job_ids)))
    return {
        job_id: _End(state, str(model), runs.get(job_id, Run((), None, job_id=job_id, state=state)))
        for job_id, state, model in found
    }


def _curves(session: Session, job_ids: Collection[str]) -> dict[str, tuple[Point, ...]]:
    lines = events.of_jobs(session, job_ids) if job_ids else ()
    return {job_id: curves.of(of_job)[0] for job_id, of_job in groupby(lines, key=lambda line: line.job_id)}


def read(session: Session, row: Experiment) -> ExperimentRead:
    """The experiment with its curves, and with the verdict once all runs have ended."""
    found: dict[Arm, Found] = {arm: _arm(session, arm, row.arms[arm]) for arm in ARMS if arm in row.arms}
    has_ended = all(arm.read.state in ENDED for arm in found.values())
    return ExperimentRead(
        id=row.id,
        dataset_id=row.dataset_id,
        dataset_name=datasets.name_of(session, row.dataset_id),
        dataset_version=row.dataset_version,
        model=_asked_model(*next((arm, one.read.model) for arm, one in found.items())),
        backbone=row.backbone,
        created_at=row.created_at,
        has_ended=has_ended,
        arms={arm: one.read for arm, one in found.items()},
        verdict=verdict.judge({arm: one.run for arm, one in found.items()}) if has_ended else None,
    )


def _arm(session: Session, arm: Arm, job_id: str) -> Found:
    job = jobs.find(session, job_id)
    made = models.of_job(session, job_id)
    score = None if made is None else _score(made.evaluation["images"], made.evaluation["accuracy"])
    curve, seconds = curves.of(_history(session, job))
    accuracy = None if score is None else score.accuracy
    is_chosen = None if made is None else made.evaluation.get("also_chosen_by")
    read = ArmRead(
        job_id=job.id,
        state=job.state,
        error=None if job.error is None else JobError.model_validate(job.error),
        model=str(job.model_name),
        model_version=None if made is None or made.deleted_at is not None else made.number,
        strategy=(job.plan or job.spec)["strategy"] if made is None else made.strategy,
        epochs=_epochs(job),
        accuracy=accuracy,
        interval=None if score is None else intervals.of_share(score),
        images=None if score is None else score.images,
        also_chosen_by=is_chosen,
        seconds=seconds,
        curve=list(curve),
    )
    right = None if made is None else made.evaluation.get("right")
    return Found(read, Run(curve, score, right, is_chosen, job.id, job.state, _cut(session, job)))


def _cut(session: Session, job: Job) -> Cut | None:
    """Whether the recipe of a run gave it far fewer epochs than its plan would have had."""
    recipe = _RECIPE.validate_python(job.spec)
    if recipe.epochs is None:
        return None
    version = datasets.version_of(session, job.dataset_id, int(job.dataset_version or 0))
    usual = descent.usual_epochs(recipe, jobs.version_facts(version, max_activation_bytes=0))
    return Cut(recipe.epochs, usual) if recipe.epochs < _CUT * usual else None


def _epochs(job: Job) -> int | None:
    descent = (job.plan or {}).get("descent")
    return None if descent is None else int(descent["epochs"])


def _score(images: int, accuracy: float) -> Score:
    return Score(round(accuracy * images), images)


def _history(session: Session, job: Job) -> Iterable[JobEvent]:
    seq = 0
    while True:
        page = events.after(session, job.id, seq, limit=_EVENTS_A_PAGE)
        yield from page
        if len(page) < _EVENTS_A_PAGE:
            return
        seq = page[-1].seq
