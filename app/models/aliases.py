"""What can be done with aliases, the movable names of versions: put, remove, roll back, and their history."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Update, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import errors
from app.models import service
from app.models.schemas import AliasPut
from app.models.tables import Alias, AliasMove, Model, ModelVersion

MAX_ALIASES = 100
"""Of one model."""


def find(session: Session, name: str, alias: str) -> Alias:
    """An alias of model `name`. Raises `NotFound` with the nearest."""
    model = service.find(session, name)
    found = session.get(Alias, (model.id, alias))
    if found is None or found.deleted_at is not None:
        known = [one.name for one in of_models(session, [model.id])]
        raise service.no_alias(session, model, alias, known)
    return found


def of_models(session: Session, model_ids: Sequence[str]) -> Sequence[Alias]:
    """The aliases of models, by name."""
    query = select(Alias).where(Alias.model_id.in_(model_ids), Alias.deleted_at.is_(None))
    return session.scalars(query.order_by(Alias.name)).all()


def by_name(session: Session, name: str, *, limit: int, after: str | None) -> Sequence[Alias]:
    query = select(Alias).where(Alias.model_id == service.find(session, name).id, Alias.deleted_at.is_(None))
    if after is not None:
        query = query.where(Alias.name > after)
    return session.scalars(query.order_by(Alias.name).limit(limit + 1)).all()


def history(session: Session, name: str, alias: str, *, limit: int, after: int | None) -> Sequence[AliasMove]:
    """Where it pointed, newest first, also before it was removed and put again."""
    found = find(session, name, alias)
    query = select(AliasMove).where(AliasMove.model_id == found.model_id, AliasMove.alias == alias)
    if after is not None:
        query = query.where(AliasMove.revision < after)
    return session.scalars(query.order_by(AliasMove.revision.desc()).limit(limit + 1)).all()


def create(session: Session, name: str, alias: str, wanted: AliasPut, *, now: datetime) -> Alias:
    """Make the alias. Raises `PreconditionFailed` where there is one, `NotFound` for the model or its version, and
    `Conflict` where the model has too many."""
    model = service.hold(session, name)
    service.find_version(session, name, wanted.version)
    _check_room(session, model, alias)
    made = _again(session, model, alias, now=now) or _inserted(session, model, alias, wanted, now=now)
    made.version, made.keep_loaded, made.created_at = wanted.version, bool(wanted.keep_loaded), now
    _record(session, made, "moved", back_to=None, now=now)
    return made


def move(session: Session, name: str, alias: str, wanted: AliasPut, *, revision: int | None, now: datetime) -> Alias:
    """Let the alias point to another version. Raises `PreconditionFailed` unless it is there and at `revision` (None:
    any), and `NotFound` for the model or its version."""
    model = service.hold(session, name)
    service.find_version(session, name, wanted.version)
    found = _taken(session, model, alias, revision, now=now)
    if wanted.keep_loaded is not None:
        found.keep_loaded = wanted.keep_loaded
    if wanted.version != found.version:
        before = _last_move(session, found)
        found.version = wanted.version
        _record(session, found, "moved", back_to=before.revision, now=now)
    service.touch(session)
    return found


def roll_back(session: Session, name: str, alias: str, *, revision: int | None, now: datetime) -> Alias:
    """Let the alias point to where it did before; done again, to where it did before that. Deleted versions are passed
    over. Raises `NotFound`, `PreconditionFailed` unless it is at `revision` (None: any), and `Conflict` where there is
    nothing before."""
    find(session, name, alias)
    found = _taken(session, service.hold(session, name), alias, revision, now=now)
    target = _before(session, found)
    if target is None:
        raise errors.Conflict(
            f"there is nothing to roll back to before version {found.version} of {name}:{alias}",
            code="nothing_to_roll_back_to",
        )
    assert target.version is not None  # of what was removed, nothing goes back
    found.version = target.version
    _record(session, found, "rolled_back", back_to=target.back_to, now=now)
    return found


def remove(session: Session, name: str, alias: str, *, revision: int | None, now: datetime) -> None:
    """Remove the alias; its history is there again if it is put again. Raises as `roll_back` does."""
    find(session, name, alias)
    found = _taken(session, service.find(session, name), alias, revision, now=now)
    found.deleted_at = now
    _record(session, found, "removed", back_to=None, now=now)


def _taken(session: Session, model: Model, alias: str, revision: int | None, *, now: datetime) -> Alias:
    """The alias, at its next revision, which nobody else can change until the transaction ends."""
    statement = update(Alias).where(Alias.model_id == model.id, Alias.name == alias, Alias.deleted_at.is_(None))
    if revision is not None:
        statement = statement.where(Alias.revision == revision)
    found = _changed(session, statement.values(revision=Alias.revision + 1, updated_at=now))
    if found is None:
        raise errors.PreconditionFailed(
            f"{model.name}:{alias} is not there, or has changed since; read it again for its present ETag and repeat"
        )
    return found


def _again(session: Session, model: Model, alias: str, *, now: datetime) -> Alias | None:
    """The alias that was removed, brought back; None where there never was one."""
    statement = update(Alias).where(Alias.model_id == model.id, Alias.name == alias, Alias.deleted_at.is_not(None))
    return _changed(session, statement.values(revision=Alias.revision + 1, updated_at=now, deleted_at=None))


def _changed(session: Session, statement: Update) -> Alias | None:
    options = {"synchronize_session": False, "populate_existing": True}
    return session.scalars(statement.returning(Alias), execution_options=options).first()


def _inserted(session: Session, model: Model, alias: str, wanted: AliasPut, *, now: datetime) -> Alias:
    made = Alias(
        model_id=model.id,
        name=alias,
        version=wanted.version,
        keep_loaded=False,
        revision=1,
        created_at=now,
        updated_at=now,
    )
    try:
        with session.begin_nested():
            session.add(made)
    except IntegrityError as error:
        raise errors.PreconditionFailed(
            f"{model.name}:{alias} is there already; send If-Match with its ETag to change it"
        ) from error
    return made


def _check_room(session: Session, model: Model, alias: str) -> None:
    others = select(func.count()).where(Alias.model_id == model.id, Alias.name != alias, Alias.deleted_at.is_(None))
    if session.scalars(others).one() >= MAX_ALIASES:
        raise errors.Conflict(
            f"model {model.name!r} has {MAX_ALIASES} aliases, as many as it may have; remove one first",
            code="too_many_aliases",
        )


def _last_move(session: Session, alias: Alias) -> AliasMove:
    query = select(AliasMove).where(AliasMove.model_id == alias.model_id, AliasMove.alias == alias.name)
    return session.scalars(query.order_by(AliasMove.revision.desc()).limit(1)).one()


def _before(session: Session, alias: Alias) -> AliasMove | None:
    """The move that a rollback goes back to: the last one before to a version that is another one, and still there."""
    back_to = _last_move(session, alias).back_to
    while back_to is not None:
        move = session.get_one(AliasMove, (alias.model_id, alias.name, back_to))
        if move.version != alias.version and _is_there(session, alias.model_id, move.version):
            return move
        back_to = move.back_to
    return None


def _is_there(session: Session, model_id: str, number: int | None) -> bool:
    present = select(ModelVersion.id).where(ModelVersion.model_id == model_id, ModelVersion.deleted_at.is_(None))
    return session.scalar(present.where(ModelVersion.number == number)) is not None


def _record(session: Session, alias: Alias, action: str, *, back_to: int | None, now: datetime) -> None:
    session.add(
        AliasMove(
            model_id=alias.model_id,
            alias=alias.name,
            revision=alias.revision,
            action=action,
            version=None if action == "removed" else alias.version,
            back_to=back_to,
            created_at=now,
        )
    )
    service.touch(session)
