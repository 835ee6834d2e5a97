"""What a client may do with jobs: submit, look, pause, resume, finish, cancel."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import bases, errors, planning, policy, profile
from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion, Import
from app.db import new_id
from app.facts import VersionFacts
from app.jobs import candidates, events, searches
from app.jobs.events import Line
from app.jobs.schemas import ENDED, JobCreate, OptimisationCreate, RankingCreate
from app.jobs.tables import LONG_AGO, Job, Worker
from app.models.tables import ModelVersion
from app.plan import Plan
from app.profiles import service as profiles
from app.profiles.tables import StoredProfile
from app.recipe import Recipe

CPU_QUEUE = "cpu"
GPU_QUEUE = "gpu"

_TRIES = 3
"""To join a job that others may submit, or that may end, at the same moment."""


@dataclass(frozen=True)
class Archive:
    """An archive that lies complete in the storage, under the id of its import."""

    import_id: str
    file_name: str | None
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Resolved:
    """A recipe with all that it names."""

    recipe: Recipe
    version: DatasetVersion
    backbone: Backbone
    plan: Plan | None
    """None where it is decided by measurements that nobody has made yet."""
    profile: StoredProfile | None = None
    """What was measured, where the plan goes by it or tells of it."""


def submit(
    session: Session,
    wanted: JobCreate | RankingCreate,
    *,
    max_activation_bytes: int,
    max_attempts: int,
    now: datetime,
) -> Job:
    """Queue what a client asks for; a training may keep so many bytes of what frozen layers make of images. Raises
    `NotFound`, `UnknownName`, `Invalid` or `Conflict` where it could not even begin."""
    if isinstance(wanted, JobCreate):
        room = max_activation_bytes
        return submit_training(session, wanted, max_activation_bytes=room, max_attempts=max_attempts, now=now)
    version = datasets.asked_version(session, wanted.dataset, wanted.version)
    return submit_ranking(session, version, wanted, max_attempts=max_attempts, now=now)


def submit_training(
    session: Session, wanted: JobCreate, *, max_activation_bytes: int, max_attempts: int, now: datetime
) -> Job:
    """Queue a fine-tune. Raises as `submit`, for what no data set would make right before it looks for one."""
    recipe, plan = wanted.recipe, None
    planning.check(recipe)
    if recipe.base is not None:
        bases.check(session, recipe, planning.named_backbone(recipe))
    version = datasets.asked_version(session, wanted.dataset, wanted.version)
    if not recipe.picks_backbone:
        resolved = resolve_recipe(session, version, recipe, max_activation_bytes=max_activation_bytes)
        recipe, plan = resolved.recipe, None if decides_itself(recipe, version) else resolved.plan
    job = _queued("train", GPU_QUEUE, version.dataset_id, spec=asdict(recipe), max_attempts=max_attempts, now=now)
    job.dataset_version = version.number
    job.model_name = wanted.model
    job.plan = None if plan is None else asdict(plan)
    _insert(session, job)
    return job


def resolve_recipe(session: Session, version: DatasetVersion, recipe: Recipe, *, max_activation_bytes: int) -> Resolved:
    """What a training with `recipe`, which names its backbone, on `version` would do. Raises as `submit_training`."""
    backbone = planning.named_backbone(recipe)
    facts = version_facts(version, max_activation_bytes=max_activation_bytes)
    if recipe.base is not None:
        found = bases.find(session, recipe, backbone, version)
        return Resolved(found.recipe, version, backbone, found.plan(version, facts))
    row = profiles.of_recipe(session, version, recipe, backbone)
    known = None if row is None else profiles.figures(row)
    made = planning.plan(recipe, facts, backbone, known)
    if made is None and not decides_itself(recipe, version):
        made = policy.unmeasured(recipe, facts, _why_unmeasured(version), backbone.facts)
    searches.check(recipe, facts, backbone, made, known)
    return Resolved(recipe, version, backbone, made, row)


def decides_itself(recipe: Recipe, version: DatasetVersion) -> bool:
    """Whether a training on `version` makes its plan itself, by what it measures or by a profile of its own weights."""
    if recipe.picks_backbone:
        return True
    is_open = recipe.base is None and planning.is_open(recipe, catalogue.find(recipe.backbone))
    return is_open and not _why_unmeasured(version)


def submit_analysis(
    session: Session, version: DatasetVersion, backbone: Backbone, *, choice: str, max_attempts: int, now: datetime
) -> Job:
    """Queue the measuring of `version` with the weights `choice` of `backbone`; or the job that is at it already, maybe
    for another version with the same content. Raises `Invalid` or `UnknownName` for the weights, and `Invalid` where
    there are too few images."""
    check_measurable(version)
    subject = f"profile {version.content_hash} {backbone.name} {backbone.find_weights(choice).name}"
    spec = {"backbone": backbone.name, "weights": choice}
    job = _queued("analyse", GPU_QUEUE, version.dataset_id, spec=spec, max_attempts=max_attempts, now=now)
    job.dataset_version = version.number
    job.subject = subject
    return _joined(session, job, now=now)


def submit_ranking(
    session: Session, version: DatasetVersion, wanted: RankingCreate, *, max_attempts: int, now: datetime
) -> Job:
    """Queue a comparison of networks on `version`; of all backbones at hand, join the job that is at it already.
    Raises `Invalid` where there are too few images, and as `candidates.settled`; whether the weights of a backbone are
    at hand is known to the worker."""
    check_measurable(version)
    if wanted.candidates is not None:
        wanted = wanted.model_copy(update={"candidates": candidates.settled(session, wanted.candidates)})
    spec = wanted.model_dump(mode="json", include={"candidates", "seed"})
    job = _queued("rank", GPU_QUEUE, version.dataset_id, spec=spec, max_attempts=max_attempts, now=now)
    job.dataset_version = version.number
    if wanted.candidates is not None:
        _insert(session, job)
        return job
    job.subject = f"ranking {version.content_hash} {wanted.seed}"
    return _joined(session, job, now=now)


def submit_optimisation(
    session: Session,
    model: str,
    version: ModelVersion,
    wanted: OptimisationCreate,
    *,
    max_attempts: int,
    now: datetime,
) -> Job:
    """Queue the comparison of all forms of a version of `model`, or join the job that is at just that already."""
    asked = wanted.model_dump(mode="json")
    spec = {"version_id": version.id, "model_version": version.number, "wanted": asked}
    queue = GPU_QUEUE if wanted.device == "gpu" else CPU_QUEUE
    job = _queued("optimise", queue, version.dataset_id, spec=spec, max_attempts=max_attempts, now=now)
    job.rung_at = None  # where a training queues it, nobody else tells a worker
    job.dataset_version = version.dataset_version
    job.model_name = model
    job.subject = f"optimisation {version.id} {json.dumps(asked, sort_keys=True)}"
    return _joined(session, job, now=now)


def _joined(session: Session, job: Job, *, now: datetime) -> Job:
    """The job that is after the same subject already, or else `job`, inserted. Raises `Conflict` while that one is to
    be paused."""
    going_on = select(Job).where(Job.subject == job.subject, Job.state.not_in(("cancelling", *ENDED)))
    for _ in range(_TRIES):
        found = session.scalar(going_on)
        if found is not None:
            # Whoever asks wants to have it, also where somebody else has stopped it.
            return resume(session, found.id, now=now) if found.state in ("pausing", "paused") else found
        try:
            with session.begin_nested():
                _insert(session, job)
        except IntegrityError:
            continue  # another request asked for it at the same moment
        return job
    raise errors.Conflict("others ask for the same measurement at this moment; try again", code="asked_at_once")


def submit_import(
    session: Session, reference: str, archive: Archive, *, max_attempts: int, now: datetime
) -> tuple[Import, Job]:
    """Queue the ingest of an archive. Raises `Conflict` while another import into the dataset goes on."""
    dataset = datasets.find(session, reference)
    spec: dict[str, Any] = {
        "import_id": archive.import_id,
        "validation_fraction": dataset.validation_fraction,
        "seed": dataset.seed,
    }
    job = _queued("ingest", CPU_QUEUE, dataset.id, spec=spec, max_attempts=max_attempts, now=now)
    try:
        _insert(session, job)
    except IntegrityError as error:
        raise _import_in_progress(dataset.id) from error
    row = Import(
        id=archive.import_id,
        dataset_id=dataset.id,
        job_id=job.id,
        file_name=archive.file_name,
        size_bytes=archive.size_bytes,
        sha256=archive.sha256,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row, job


def check_no_import(session: Session, reference: str) -> None:
    """Raise `Conflict` while an import into the dataset goes on, so that no upload is received in vain."""
    dataset_id = datasets.find(session, reference).id
    active = select(Job.id).where(Job.dataset_id == dataset_id, Job.kind == "ingest", Job.state.not_in(ENDED))
    if session.scalar(active) is not None:
        raise _import_in_progress(dataset_id)


def find(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise errors.NotFound(f"no job {job_id}", code="job_not_found")
    return job


def newest_first(
    session: Session, *, state: str | None, dataset: str | None, limit: int, after: str | None
) -> Sequence[Job]:
    query = select(Job).order_by(Job.id.desc()).limit(limit + 1)
    if state is not None:
        query = query.where(Job.state == state)
    if dataset is not None:
        query = query.where(Job.dataset_id == datasets.find(session, dataset).id)
    if after is not None:
        query = query.where(Job.id < after)
    return session.scalars(query).all()


def cancel(session: Session, job_id: str, *, now: datetime) -> Job:
    """Cancel at once what waits; ask the worker to stop what runs. Raises `Conflict` for a job that has ended."""
    return go(session, job_id, _cancelling({}, now=now), fine=("cancelling", "cancelled"), now=now)


def call_off(session: Session, job_id: str, *, why: str, now: datetime) -> Job:
    """Cancel a job that nobody has use for any more, and say `why` in its history; one that has ended stays so."""
    return go(session, job_id, _cancelling({"message": why}, now=now), fine=("cancelling", *ENDED), now=now)


def _cancelling(told: Mapping[str, Any], *, now: datetime) -> Mapping[str, "Step"]:
    cancelled = Step("cancelled", Line("cancelled", told), {"finished_at": now})
    asked = Step("cancelling", Line("cancel_requested", told))
    return {"queued": cancelled, "paused": cancelled, "running": asked, "pausing": asked, "finishing": asked}


def pause(session: Session, job_id: str, *, now: datetime) -> Job:
    """Pause at once what waits; ask the worker to stop what runs, which keeps what it has done. Raises `Conflict` for a
    job that has ended or is to be cancelled."""
    steps = {
        "queued": Step("paused", Line("paused", {})),
        "running": Step("pausing", Line("pause_requested", {})),
    }
    return go(session, job_id, steps, fine=("pausing", "paused"), now=now)


def finish(session: Session, job_id: str, *, now: datetime) -> Job:
    """Have a search end soon, with the best that it has found: at once what runs, the next time it is taken what waits.
    Raises `Conflict` for a job that is no search, has ended, or is to be paused or cancelled."""
    if not find(session, job_id).spec.get("search"):
        raise errors.Conflict(
            f"job {job_id} is no search; to finish is to end a search early, with the best that it has found",
            code="no_search",
        )
    line = Line("finish_requested", {})
    # What waits looks like what a lost worker has left: it is taken as such, or cancelled.
    waiting = Step("finishing", line, {"rung_at": now, "lease_expires_at": LONG_AGO})
    steps = {"queued": waiting, "paused": waiting, "running": Step("finishing", line)}
    return go(session, job_id, steps, fine=("finishing",), now=now)


def resume(session: Session, job_id: str, *, now: datetime) -> Job:
    """Put a paused job back into its queue. Raises `Conflict` for one that has ended or is not paused yet."""
    steps = {"paused": Step("queued", Line("resume_requested", {}), {"rung_at": now})}
    return go(session, job_id, steps, fine=("queued", "running"), now=now)


def workers(session: Session) -> Sequence[Worker]:
    """Every worker heard of lately."""
    return session.scalars(select(Worker).order_by(Worker.started_at)).all()


def _why_unmeasured(version: DatasetVersion) -> str:
    """Why `version` cannot be measured; empty where it can."""
    try:
        check_measurable(version)
    except errors.Invalid as error:
        return error.message
    return ""


def check_measurable(version: DatasetVersion) -> None:
    """Raise `Invalid` where `version` has too few images for a profile or a ranking."""
    profile.check_measurable(_train_images(version))


def _train_images(version: DatasetVersion) -> list[int]:
    return [counts["train"] for counts in version.counts.values()]


def version_facts(version: DatasetVersion, *, max_activation_bytes: int) -> VersionFacts:
    """What a plan needs to know of `version`, of which so many bytes of activations may be kept."""
    train = _train_images(version)
    return VersionFacts(
        classes=len(version.labels),
        train_images=sum(train),
        validation_images=version.images - sum(train),
        smallest_class=min(train),
        max_activation_bytes=max_activation_bytes,
    )


def _queued(kind: str, queue: str, dataset_id: str, *, spec: dict[str, Any], max_attempts: int, now: datetime) -> Job:
    return Job(
        id=new_id("job"),
        kind=kind,
        queue=queue,
        state="queued",
        dataset_id=dataset_id,
        spec=spec,
        attempt=0,
        max_attempts=max_attempts,
        last_event=1,
        rung_at=now,
        created_at=now,
    )


def _insert(session: Session, job: Job) -> None:
    session.add(job)
    session.flush()
    line = Line("queued", {"kind": job.kind, "queue": job.queue})
    events.write(session, job.id, [line], last=1, attempt=0, now=job.created_at)


@dataclass(frozen=True)
class Step:
    """A change of state, and the line that tells of it."""

    state: str
    line: Line
    values: Mapping[str, Any] = field(default_factory=dict)


def go(session: Session, job_id: str, steps: Mapping[str, Step], *, fine: Sequence[str], now: datetime) -> Job:
    """Take the step that leads on from the job's state, none in a state of `fine`; in any other raise `Conflict`."""
    find(session, job_id)
    if not any(_transition(session, job_id, source, step, now=now) for source, step in steps.items()):
        state = session.scalar(select(Job.state).where(Job.id == job_id))
        if state not in fine:
            code = "job_has_ended" if state in ENDED else "job_in_other_state"
            ended = "was cancelled already" if state == "cancelled" else f"has {state} already"
            told = ended if state in ENDED else f"is {state}; wait until that is done"
            raise errors.Conflict(f"job {job_id} {told}", code=code, detail={"state": state})
    session.expire_all()
    return find(session, job_id)


def _transition(session: Session, job_id: str, source: str, step: Step, *, now: datetime) -> bool:
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.state == source)
        .values(**step.values, state=step.state, last_event=Job.last_event + 1)
        .returning(Job.last_event, Job.attempt)
    )
    row = session.execute(statement, execution_options={"synchronize_session": False}).first()
    if row is None:
        return False
    last, attempt = row
    events.write(session, job_id, [step.line], last=last, attempt=attempt, now=now)
    return True


def _import_in_progress(dataset_id: str) -> errors.Conflict:
    return errors.Conflict(
        f"an import into dataset {dataset_id} is going on; wait for its job to end, or cancel it",
        code="import_in_progress",
    )
