"""Routes of aliases: where the movable names of a model point, and how they are moved."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy.orm import Session

from app import errors
from app.bodies import JsonRoute
from app.deps import DatabaseDep, Limit, Listing, PutConditionDep, RevisionDep, etag, listing
from app.models import aliases
from app.models.routes import DirectoryDep, Name
from app.models.schemas import AliasMoveRead, AliasName, AliasPut, AliasRead
from app.models.tables import Alias
from app.problems import responses

router = APIRouter(prefix="/v1/models/{name}/aliases", tags=["models"], route_class=JsonRoute)

AliasPath = Annotated[AliasName, Path()]
_CREATED: dict[int | str, dict[str, Any]] = {201: {"model": AliasRead, "description": "Created"}}


@router.get("", responses=responses(404, 422))
def list_aliases(
    name: Name,
    database: DatabaseDep,
    limit: Limit = 50,
    after: Annotated[str | None, Query(max_length=100, description="Name of the last alias before.")] = None,
) -> Listing[AliasRead]:
    """The aliases of a model, by name."""
    with database.read() as session:
        rows = aliases.by_name(session, name, limit=limit, after=after)
        return listing([AliasRead.model_validate(row) for row in rows], limit)


@router.get("/{alias}", responses=responses(404, 422))
def read_alias(name: Name, alias: AliasPath, database: DatabaseDep, response: Response) -> AliasRead:
    """One alias, with the `ETag` that a change of it must name."""
    with database.read() as session:
        return _read(aliases.find(session, name, alias), response)


@router.put("/{alias}", responses={**_CREATED, **responses(404, 409, 412, 422, 428)})
def put_alias(
    name: Name,
    alias: AliasPath,
    wanted: AliasPut,
    database: DatabaseDep,
    directory: DirectoryDep,
    condition: PutConditionDep,
    response: Response,
) -> AliasRead:
    """Let an alias point to a version. One that is there is moved with `If-Match`; requests that are under way keep the
    version that they began with, for as long as that is in memory."""
    with database.write() as session:
        now = database.now(session)
        if condition.is_change:
            found = aliases.move(session, name, alias, wanted, revision=condition.revision, now=now)
        else:
            found = _created(session, name, alias, wanted, must_be_new=condition.must_be_new, now=now)
            response.status_code = HTTPStatus.CREATED
            response.headers["Location"] = f"/v1/models/{name}/aliases/{alias}"
    directory.refresh()
    return _read(found, response)


@router.delete("/{alias}", status_code=HTTPStatus.NO_CONTENT, responses=responses(404, 412, 422, 428))
def delete_alias(
    name: Name, alias: AliasPath, database: DatabaseDep, directory: DirectoryDep, revision: RevisionDep
) -> None:
    """Remove an alias; the version stays."""
    with database.write() as session:
        aliases.remove(session, name, alias, revision=revision, now=database.now(session))
    directory.refresh()


@router.get("/{alias}/history", responses=responses(404, 422))
def list_alias_moves(
    name: Name,
    alias: AliasPath,
    database: DatabaseDep,
    limit: Limit = 50,
    after: Annotated[int | None, Query(ge=1, lt=2**31, description="Revision of the last move before.")] = None,
) -> Listing[AliasMoveRead]:
    """Where an alias pointed and since when, newest first."""
    with database.read() as session:
        rows = aliases.history(session, name, alias, limit=limit, after=after)
        return listing([AliasMoveRead.model_validate(row) for row in rows], limit)


@router.post("/{alias}/rollback", responses=responses(404, 409, 412, 422, 428))
def roll_alias_back(
    name: Name,
    alias: AliasPath,
    database: DatabaseDep,
    directory: DirectoryDep,
    revision: RevisionDep,
    response: Response,
) -> AliasRead:
    """Let an alias point to the version before; done again, to the one before that."""
    with database.write() as session:
        found = aliases.roll_back(session, name, alias, revision=revision, now=database.now(session))
    directory.refresh()
    return _read(found, response)


def _created(session: Session, name: str, alias: str, wanted: AliasPut, *, must_be_new: bool, now: datetime) -> Alias:
    try:
        return aliases.create(session, name, alias, wanted, now=now)
    except errors.PreconditionFailed as error:
        if must_be_new:
            raise
        raise errors.PreconditionRequired(error.message) from error


def _read(alias: Alias, response: Response) -> AliasRead:
    response.headers["ETag"] = etag(alias.revision)
    return AliasRead.model_validate(alias)
