"""The candidates of a ranking before it is queued: what they name, and whether any of them can be measured."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app import errors
from app.backbones import catalogue
from app.jobs.schemas import Candidate
from app.models import service as models


def settled(session: Session, wanted: Sequence[Candidate]) -> list[Candidate]:
    """`wanted`, with the number of the version in place of an alias, which may point elsewhere by the time the job
    begins.

    Raises `UnknownName` for backbones and their weights, and `NotFound` for a version or an alias of a model. What is
    named by its name alone may be missing, unless nothing is left then: then what is wrong with the first one is
    raised.
    """
    for place, candidate in enumerate(wanted):
        with errors.blaming(f"candidates.{place}"):
            _check_names(candidate)
    pinned = [_pinned(session, candidate, place) for place, candidate in enumerate(wanted)]
    hindrances = [_hindrance(session, candidate) for candidate in pinned]
    if hindrances[0] is not None and all(hindrances):
        raise hindrances[0].at(f"candidates.0.{'backbone' if pinned[0].model is None else 'model'}")
    return pinned


def _check_names(candidate: Candidate) -> None:
    if candidate.backbone is not None:
        backbone = catalogue.find(candidate.backbone)
        if backbone.weights:
            backbone.find_weights(candidate.choice)


def _pinned(session: Session, candidate: Candidate, place: int) -> Candidate:
    if not candidate.is_qualified:
        return candidate
    with errors.blaming(f"candidates.{place}.model"):
        name, version = models.referenced(session, str(candidate.model))
    return candidate.model_copy(update={"model": name, "version": version.number})


def _hindrance(session: Session, candidate: Candidate) -> errors.GraftError | None:
    """Why it cannot be measured, as far as that is known without a worker."""
    try:
        if candidate.model is None:
            catalogue.find(str(candidate.backbone)).find_weights(candidate.choice)
        else:
            models.find_version(session, candidate.model, candidate.version)
    except (errors.Invalid, errors.NotFound) as error:
        return error
    return None
