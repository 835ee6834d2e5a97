"""What can be done with models: register a version, look them up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import errors
from app.db import before_commit, new_id
from app.models import references
from app.models.tables import Alias, Model, ModelVersion, Registry
from app.optimisation import UNOPTIMISED, Serving


@dataclass(frozen=True)
class NewModelVersion:
    """A classifier whose artifact lies under `version_id` and that is to be registered."""

    version_id: str
    model_name: str
    job_id: str
    dataset_id: str
    dataset_version: int
    backbone: str
    strategy: str
    labels: tuple[str, ...]
    evaluation: Mapping[str, Any]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """A model version as serving knows it."""

    version_id: str
    model_name: str
    number: int
    serving: Serving = UNOPTIMISED
    """Another one is another thing to be loaded: an optimisation or a pin is put in place as a new version is."""


@dataclass(frozen=True)
class Origin:
    """Where the values that a training began with come from."""

    bases: tuple[str, ...]
    """`name@version` of the version that was its base, of that one's base, and so on."""
    is_known: bool
    """Whether it is known what the first of all these trainings began with; `weights` are None where it is not."""
    weights: Mapping[str, Any] | None
    """The published weights that it began with, as its provenance has them; None for random values."""


def new_version_id() -> str:
    return new_id("mv")


def register(session: Session, wanted: NewModelVersion, *, now: datetime) -> int:
    """Make the classifier the newest version of its model, which is created if need be. Returns its number."""
    _ensure_model(session, wanted.model_name, now=now)
    statement = (
        update(Model)
        .where(Model.name == wanted.model_name)
        .values(latest_version=Model.last_number + 1, last_number=Model.last_number + 1)
        .returning(Model.id, Model.latest_version)
    )
    model_id, number = session.execute(statement, execution_options={"synchronize_session": False}).one()
    session.add(
        ModelVersion(
            id=wanted.version_id,
            model_id=model_id,
            number=number,
            job_id=wanted.job_id,
            dataset_id=wanted.dataset_id,
            dataset_version=wanted.dataset_version,
            backbone=wanted.backbone,
            strategy=wanted.strategy,
            labels=list(wanted.labels),
            evaluation=dict(wanted.evaluation),
            provenance=dict(wanted.provenance),
            created_at=now,
        )
    )
    session.flush()
    touch(session)
    return int(number)


def touch(session: Session) -> None:
    """Say that this transaction changes what serving must know: it is counted as the last thing before the commit, so
    that whoever sees the new count sees the change."""
    before_commit(session, _count_change)


def revision(session: Session) -> int:
    """How often what serving must know has been changed. Read first what depends on it afterwards: then it is at least
    as new."""
    return session.scalars(select(Registry.revision)).one()


def find(session: Session, name: str) -> Model:
    model = session.scalar(select(Model).where(Model.name == name, Model.latest_version > 0))
    if model is None:
        raise references.no_model(name, _newest_names(session))
    return model


def hold(session: Session, name: str) -> Model:
    """As `find`; until the transaction ends, nobody else changes what its names address."""
    query = select(Model).where(Model.name == name, Model.latest_version > 0)
    held = session.scalar(query.with_for_update(key_share=True), execution_options={"populate_existing": True})
    if held is None:
        raise references.no_model(name, _newest_names(session))
    return held


def newest_first(session: Session, *, limit: int, after: str | None) -> Sequence[Model]:
    query = select(Model).where(Model.latest_version > 0).order_by(Model.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Model.id < after)
    return session.scalars(query).all()


def newest_versions(session: Session, *, limit: int) -> Sequence[tuple[Model, ModelVersion]]:
    """Models, each with its newest version, those first whose version is newest."""
    is_newest = (ModelVersion.model_id == Model.id) & (ModelVersion.number == Model.latest_version)
    query = select(Model, ModelVersion).join(ModelVersion, is_newest)
    rows = session.execute(query.order_by(ModelVersion.created_at.desc(), ModelVersion.id.desc()).limit(limit))
    return [(model, version) for model, version in rows]


def find_version(session: Session, name: str, number: int | None) -> ModelVersion:
    """Version `number` of a model, or its newest for None."""
    model = find(session, name)
    wanted = model.latest_version if number is None else number
    version = session.scalar(_present(model).where(ModelVersion.number == wanted))
    if version is None:
        raise references.no_version(name, wanted, newest=model.latest_version)
    return version


def is_there(session: Session, name: str, number: int) -> bool:
    """Whether a model has this version, which was not deleted."""
    query = select(ModelVersion.id).join(Model, Model.id == ModelVersion.model_id)
    present = query.where(Model.name == name, ModelVersion.number == number, ModelVersion.deleted_at.is_(None))
    return session.scalar(present) is not None


def by_id(session: Session, version_id: str, reference: str) -> ModelVersion:
    """The version that was `reference` when it was asked for. Raises `NotFound` where it was deleted since."""
    version = session.get(ModelVersion, version_id)
    if version is None or version.deleted_at is not None:
        raise errors.NotFound(f"{reference} was deleted", code="model_version_deleted")
    return version


def origin(session: Session, version: ModelVersion) -> Origin:
    """Back to the published weights, whichever of the versions on the way were deleted since."""
    bases: list[str] = []
    first: ModelVersion | None = version
    while first is not None and (start := first.provenance.get("base")) is not None:
        bases.append(start["base"])
        first = session.get(ModelVersion, start["version_id"])
    backbone = None if first is None else first.provenance.get("backbone")
    # The key is missing where nothing was kept of it.
    is_known = backbone is not None and "weights" in backbone
    return Origin(tuple(bases), is_known, backbone["weights"] if backbone is not None and is_known else None)


def remove(session: Session, model: Model, version: ModelVersion, *, now: datetime) -> None:
    """Take a version of a model that is held out of the registry; its files go once nobody can be on the way with
    them."""
    version.deleted_at = now
    session.flush()
    left = _present(model).order_by(ModelVersion.number.desc()).limit(1)
    newest = session.scalar(left)
    model.latest_version = 0 if newest is None else newest.number
    touch(session)


def of_job(session: Session, job_id: str) -> ModelVersion | None:
    """What a training job has made, be it deleted since; None where it has made nothing."""
    return session.scalar(select(ModelVersion).where(ModelVersion.job_id == job_id))


def all_versions(session: Session, model: Model) -> Sequence[ModelVersion]:
    """The versions of a model, in their order."""
    return session.scalars(_present(model).order_by(ModelVersion.number)).all()


def versions_newest_first(session: Session, name: str, *, limit: int, after: int | None) -> Sequence[ModelVersion]:
    query = _present(find(session, name))
    if after is not None:
        query = query.where(ModelVersion.number < after)
    return session.scalars(query.order_by(ModelVersion.number.desc()).limit(limit + 1)).all()


def served(session: Session, reference: str) -> Served:
    """What `name`, `name@version` or `name:alias` addresses. Raises `NotFound` with the nearest that are there."""
    name, version = referenced(session, reference)
    return Served(version.id, name, version.number)


def referenced(session: Session, reference: str) -> tuple[str, ModelVersion]:
    """The model's name and the version that `name`, `name@version` or `name:alias` addresses. Raises as `served`."""
    wanted = references.parse(reference)
    number = wanted.number if wanted.alias is None else _aliased(session, wanted.name, wanted.alias)
    return wanted.name, find_version(session, wanted.name, number)


def no_alias(session: Session, model: Model, alias: str, known: Iterable[str]) -> errors.NotFound:
    """The model has the aliases `known`, and not that one."""
    meant = references.as_version(model.name, alias)
    number = None if meant is None else int(alias)
    is_there = number is not None and session.scalar(_present(model).where(ModelVersion.number == number)) is not None
    return references.no_alias(model.name, alias, known, meant=meant if is_there else None)


def _present(model: Model) -> Select[ModelVersion]:
    return select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.deleted_at.is_(None))


def _aliased(session: Session, name: str, alias: str) -> int:
    model = find(session, name)
    present = select(Alias).where(Alias.model_id == model.id, Alias.deleted_at.is_(None))
    found = session.scalar(present.where(Alias.name == alias))
    if found is None:
        known = [one.name for one in session.scalars(present)]
        raise no_alias(session, model, alias, known)
    return found.version


def _newest_names(session: Session) -> Sequence[str]:
    query = select(Model.name).where(Model.latest_version > 0).order_by(Model.id.desc()).limit(references.COMPARED)
    return session.scalars(query).all()


def _count_change(session: Session) -> None:
    session.execute(update(Registry).values(revision=Registry.revision + 1))


def _ensure_model(session: Session, name: str, *, now: datetime) -> None:
    if session.scalar(select(Model.id).where(Model.name == name)) is not None:
        return
    try:
        with session.begin_nested():
            session.add(Model(id=new_id("mdl"), name=name, latest_version=0, last_number=0, created_at=now))
    except IntegrityError:
        return  # another job made it at the same moment
