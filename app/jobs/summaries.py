"""Jobs for people: in words what each does, how far it is, and where what it made can be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.datasets.service import Refusal
from app.datasets.tables import Import
from app.jobs.schemas import ENDED, WAITING, JobRead
from app.jobs.tables import Job
from app.models import service as models
from app.wording import counted

_KINDS = {
    "ingest": "import",
    "train": "training",
    "analyse": "measuring",
    "rank": "ranking",
    "optimise": "optimisation",
}
_PHASES = {
    "list": "reading the archive",
    "check": "checking images",
    "write": "writing images",
    "features": "computing features",
    "activations": "computing the frozen stages",
    "axes": "reading the features",
    "probe": "choosing the penalty",
    "fit": "fitting the classifier",
    "measure": "measuring the features",
    "rank": "ranking",
    "train": "training",
    "validate": "validating",
    "reference": "looking at the labels",
    "evaluate": "evaluating",
    "old labels": "comparing with the base",
    "decode validation": "decoding the held-out images",
    "decode calibration": "decoding training images",
    "calibrate int8": "looking for ranges",
    "judge int8": "judging int8",
    "look at layers": "looking at what layers are given",
    "round int8": "rounding the weights",
}
_REFUSED_SHOWN = 20
_IN_PARTS = ("measure", "rank")
"""Phases whose numbers are parts of what they go through."""


@dataclass(frozen=True)
class Made:
    """What a job has made, and its page by the address below the root of the service; none where it is deleted."""

    text: str
    path: str | None


@dataclass(frozen=True)
class Summary:
    """A job in a line."""

    job: JobRead
    kind: str
    about: str
    progress: str
    """What it is at; empty for one that is not at work."""
    made: Made | None
    """What came of it, of kinds that have a page for that."""


@dataclass(frozen=True)
class Refused:
    """Files that an import refused."""

    files: Sequence[Refusal]
    """At most twenty of them."""
    total: int
    path: str | None
    """Of the list of all, below the root of the service; None where the data set is deleted."""


def of(session: Session, row: Job) -> Summary:
    job = JobRead.model_validate(row)
    about = _about(job, datasets.called(session, job.dataset_id))
    return Summary(job, _KINDS[job.kind], about, _progress(job), _made(session, job))


def refused(session: Session, row: Job) -> Refused | None:
    """What the job refused; None where that is nothing, or its kind has nothing to refuse."""
    made = session.get(Import, row.spec["import_id"]) if row.kind == "ingest" else None
    if made is None or not made.refused:
        return None
    is_there = datasets.name_of(session, row.dataset_id) is not None
    path = f"v1/datasets/{row.dataset_id}/imports/{made.id}/refused" if is_there else None
    return Refused(datasets.telling_refusals(session, made.id, limit=_REFUSED_SHOWN), made.refused, path)


def evaluation(model: str, number: int) -> str:
    """The path of the page of a model version."""
    return f"v1/models/{quote(model)}/versions/{number}/evaluation"


def _about(job: JobRead, dataset: str) -> str:
    version = "" if job.dataset_version is None else f", version {job.dataset_version}"
    if job.kind == "optimise":
        return f"{job.model_name}@{job.spec['model_version']}"
    if job.kind == "analyse":
        return f"{dataset}{version}, with {job.spec['backbone']}"
    return f"{dataset}{version}" if job.model_name is None else f"{job.model_name}, on {dataset}{version}"


def _progress(job: JobRead) -> str:
    if job.progress is None or job.state in (*WAITING, *ENDED):
        return ""
    phase, done, total = job.progress.phase, job.progress.done, job.progress.total
    said = _PHASES.get(phase, phase)
    if not total:
        return said
    return f"{said}, {100 * done // total} %" if phase in _IN_PARTS else f"{said}, {done:,} of {total:,}"


def _made(session: Session, job: JobRead) -> Made | None:
    found = job.result or {}
    if job.kind == "ingest" and "dataset_version" in found:
        left_out = f", {counted(found['refused'], 'file')} refused" if found.get("refused") else ""
        text = f"{counted(found['accepted'], 'image')} became version {found['dataset_version']}{left_out}"
        path = f"v1/datasets/{job.dataset_id}"
        return _said(text, path, is_there=datasets.name_of(session, job.dataset_id) is not None)
    if job.kind == "train" and "model_version" in found:
        text = f"{found['model']}@{found['model_version']}, {100 * found['accuracy']:.1f} % right"
        return _of_model(session, text, found["model"], found["model_version"])
    if job.kind == "optimise" and "served" in found and job.model_name is not None:
        return _of_model(session, f"{found['served']} was chosen", job.model_name, job.spec["model_version"])
    if job.kind == "rank" and "ranking" in found:
        return Made(f"{found['best']} is best", f"v1/rankings/{found['ranking']}")
    return None


def _of_model(session: Session, text: str, model: str, number: int) -> Made:
    return _said(text, evaluation(model, number), is_there=models.is_there(session, model, number))


def _said(text: str, path: str, *, is_there: bool) -> Made:
    return Made(text, path) if is_there else Made(f"{text} (deleted)", None)
