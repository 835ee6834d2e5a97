"""Deleting data sets, model versions, and models with all of theirs, where nobody needs them."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import errors
from app.datasets import service as datasets
from app.jobs.schemas import ENDED
from app.jobs.tables import Job
from app.models import aliases
from app.models import service as models
from app.models.tables import Model, ModelVersion

_LISTED = 5
"""What needs a thing, in the message; all of it is in the document."""


def delete_dataset(session: Session, reference: str, *, revision: int | None, now: datetime) -> None:
    """Delete a data set. Raises `NotFound`, `PreconditionFailed` unless it is at `revision` (None: any), and `Conflict`
    while a job reads it."""
    dataset = datasets.find(session, reference)
    datasets.delete(session, dataset.id, revision=revision, now=now)
    reading = readers(session, [dataset.id]).get(dataset.id)
    if reading:
        jobs = session.scalars(select(Job).where(Job.id.in_(reading)).order_by(Job.id))
        raise _needed(
            "dataset_in_use",
            {f"job {job.id}": _work(job, f"dataset {dataset.name}") for job in jobs},
            "wait until it has ended, or cancel it",
        )


def readers(session: Session, dataset_ids: Sequence[str]) -> Mapping[str, set[str]]:
    """Ids of the jobs that have not ended and may read images of these data sets, by data set: those on it, and
    trainings from a model version that was made from it."""
    on_it = select(Job.dataset_id, Job.id).where(Job.dataset_id.in_(dataset_ids), Job.state.not_in(ENDED))
    from_it = (
        select(ModelVersion.dataset_id, Job.id)
        .join(Job, Job.plan["base", "version_id"].as_string() == ModelVersion.id)
        .where(ModelVersion.dataset_id.in_(dataset_ids), Job.state.not_in(ENDED))
    )
    found: dict[str, set[str]] = {}
    for dataset_id, job_id in (*session.execute(on_it), *session.execute(from_it)):
        found.setdefault(dataset_id, set()).add(job_id)
    return found


def delete_version(session: Session, name: str, number: int, *, now: datetime) -> None:
    """Delete one version; the model goes with its last one. Raises `NotFound`, and `Conflict` while an alias points to
    it or a job works with it."""
    model = models.hold(session, name)
    _delete(session, model, [models.find_version(session, name, number)], now=now)


def delete_model(session: Session, name: str, *, revision: int | None, now: datetime) -> None:
    """Delete a model with all its versions, or nothing. Raises `NotFound`, `PreconditionFailed` unless the last number
    that it has given is `revision` (None: any), and `Conflict` while it has an alias or a job works with one of its
    versions."""
    model = models.hold(session, name)
    if revision is not None and revision != model.last_number:
        raise errors.PreconditionFailed(
            f"model {name!r} has versions that were not there then; read it again for its present ETag and repeat"
        )
    _delete(session, model, models.all_versions(session, model), now=now)


def _delete(session: Session, model: Model, versions: Sequence[ModelVersion], *, now: datetime) -> None:
    numbers = {version.number for version in versions}
    pointing = [one for one in aliases.of_models(session, [model.id]) if one.version in numbers]
    if pointing:
        raise _needed(
            "model_version_has_alias",
            {f"{model.name}:{one.name}": f"points to {model.name}@{one.version}" for one in pointing},
            "move or remove the alias first",
        )
    working = [(job, used[0]) for job in _unfinished(session) if (used := _used(job, model, versions))]
    if working:
        raise _needed(
            "model_version_in_use",
            {f"job {job.id}": _work(job, f"{model.name}@{used.number}") for job, used in working},
            "wait until it has ended, or cancel it",
        )
    for version in versions:
        models.remove(session, model, version, now=now)


def _work(job: Job, thing: str) -> str:
    """What the job does with `thing`. An optimisation follows each training, so few know of theirs."""
    if job.kind != "optimise":
        return f"works with {thing}"
    version = f"{job.model_name}@{job.spec['model_version']}"
    images = "" if thing == version else f" on images of {thing}"
    return f"compares the forms of {version}{images}, as after each training, which takes some minutes"


def _needed(code: str, reasons: dict[str, str], way_out: str) -> errors.Conflict:
    told = [f"{who} {why}" for who, why in reasons.items()]
    more = f" and {len(told) - _LISTED} more" if len(told) > _LISTED else ""
    who: list[JsonValue] = [*reasons]
    return errors.Conflict(f"{', '.join(told[:_LISTED])}{more}; {way_out}", code=code, detail={"needed_by": who})


def _unfinished(session: Session) -> Sequence[Job]:
    query = select(Job).where(Job.kind.in_(("train", "optimise", "rank")), Job.state.not_in(ENDED))
    return session.scalars(query.order_by(Job.id)).all()


def _used(job: Job, model: Model, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
    """Those of `versions`, which are of `model`, that the job reads, or may read where it names the model alone."""
    named = {job.spec.get("version_id"), ((job.plan or {}).get("base") or {}).get("version_id")}
    candidates = [each for each in job.spec.get("candidates") or () if each["model"] == model.name]
    ranked = {each["version"] for each in candidates}
    return [one for one in versions if one.id in named or one.number in ranked or None in ranked]
