"""Jobs for people: in words what each does, how far it is, and where what it made can be seen."""

from dataclasses import dataclass
from urllib.parse import quote

from app.jobs.schemas import ENDED, WAITING, JobRead
from app.wording import counted

_KINDS = {
    "ingest": "import",
    "train": "training",
    "analyse": "measuring",
    "rank": "ranking",
    "optimise": "optimisation",
}
_PHASES = {
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


@dataclass(frozen=True)
class Link:
    """A page, by its address below the root of the service."""

    text: str
    path: str


@dataclass(frozen=True)
class Summary:
    """A job in a line."""

    job: JobRead
    kind: str
    about: str
    progress: str
    """What it is at; empty for one that is not at work."""
    made: Link | None
    """What came of it, where there is a page for that."""


def of(job: JobRead, dataset: str) -> Summary:
    """`dataset` is what its data set is called."""
    return Summary(job, _KINDS[job.kind], _about(job, dataset), _progress(job), _made(job))


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
    said = _PHASES.get(job.progress.phase, job.progress.phase)
    return f"{said}, {job.progress.done:,} of {job.progress.total:,}" if job.progress.total else said


def _made(job: JobRead) -> Link | None:
    found = job.result or {}
    if job.kind == "ingest" and "dataset_version" in found:
        number = found["dataset_version"]
        accepted = counted(found["accepted"], "image")
        return Link(f"{accepted} became version {number}", f"v1/datasets/{job.dataset_id}/versions/{number}")
    if job.kind == "train" and "model_version" in found:
        model, number = found["model"], found["model_version"]
        return Link(f"{model}@{number}, {100 * found['accuracy']:.1f} % right", evaluation(model, number))
    if job.kind == "optimise" and "served" in found and job.model_name is not None:
        return Link(f"{found['served']} was chosen", evaluation(job.model_name, job.spec["model_version"]))
    if job.kind == "rank" and "ranking" in found:
        return Link(f"{found['best']} is best", f"v1/rankings/{found['ranking']}")
    return None
