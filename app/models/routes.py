"""Routes of the model registry."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session

from app.deps import DatabaseDep, Limit, Listing, ModelPageDep, etag, listing
from app.models import aliases, references, service
from app.models.directory import Directory
from app.models.schemas import AliasRead, ModelRead, ModelVersionRead
from app.models.tables import Model
from app.problems import responses

router = APIRouter(prefix="/v1/models", tags=["models"])

Name = Annotated[str, Path(max_length=100, examples=["patterns"])]
ModelReference = Annotated[
    str,
    Path(
        max_length=references.MAX_LENGTH, description="`name`, `name@version` or `name:alias`.", examples=["patterns"]
    ),
]
Number = Annotated[int, Path(ge=1, lt=2**31, examples=[1])]


async def _directory(request: Request) -> Directory:
    found: Directory = request.app.state.directory
    return found


DirectoryDep = Annotated[Directory, Depends(_directory)]
"""What serving knows of the registry, for routes that change it: `refresh` it before the answer."""


@router.get("", responses=responses(422))
def list_models(database: DatabaseDep, page: ModelPageDep) -> Listing[ModelRead]:
    """All models, newest first."""
    with database.read() as session:
        rows = service.newest_first(session, limit=page.limit, after=page.after)
        return listing(_read(session, rows), page.limit)


@router.get("/{name}", responses=responses(404, 422))
def read_model(name: Name, database: DatabaseDep, response: Response) -> ModelRead:
    """One model, with the `ETag` that its deletion must name."""
    with database.read() as session:
        found = _read(session, [service.find(session, name)])[0]
    response.headers["ETag"] = etag(found.revision)
    return found


@router.get("/{name}/versions", responses=responses(404, 422))
def list_model_versions(
    name: Name,
    database: DatabaseDep,
    limit: Limit = 50,
    after: Annotated[int | None, Query(ge=1, lt=2**31, description="Number of the last version before.")] = None,
) -> Listing[ModelVersionRead]:
    """The versions of a model, newest first."""
    with database.read() as session:
        rows = service.versions_newest_first(session, name, limit=limit, after=after)
        return listing([ModelVersionRead.model_validate(row) for row in rows], limit)


@router.get("/{name}/versions/{number}", responses=responses(404, 422))
def read_model_version(name: Name, number: Number, database: DatabaseDep) -> ModelVersionRead:
    """One version: its labels, how well it did on the validation split, and what it was made from."""
    with database.read() as session:
        return ModelVersionRead.model_validate(service.find_version(session, name, number))


def _read(session: Session, models: Sequence[Model]) -> list[ModelRead]:
    found: dict[str, list[AliasRead]] = {model.id: [] for model in models}
    for alias in aliases.of_models(session, list(found)):
        found[alias.model_id].append(AliasRead.model_validate(alias))
    return [
        ModelRead(
            id=model.id,
            name=model.name,
            latest_version=model.latest_version,
            revision=model.last_number,
            aliases=found[model.id],
            created_at=model.created_at,
        )
        for model in models
    ]
