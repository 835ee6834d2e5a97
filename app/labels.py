"""Routes that put the labels of data sets beside those that backbones were trained on."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from app import errors
from app.backbones import labels as known
from app.backbones.labels import Matches
from app.backbones.routes import BackboneName, find
from app.datasets import service as datasets
from app.deps import DatabaseDep
from app.problems import responses

router = APIRouter(prefix="/v1/backbones", tags=["backbones"])

LabelName = Annotated[str, Field(max_length=500)]


class MatchRead(BaseModel):
    """A label of the data set, and what the weights know of it."""

    label: str
    kind: Literal["same", "moved", "new"] = Field(
        description="Known at the same index, known at another one, or never seen by the weights."
    )
    index: int = Field(description="Its index in the data set.")
    known_as: str | None
    known_indices: list[int] = Field(description="Its indices in the weights; several where two labels share a name.")


class KnownLabels(BaseModel):
    """The labels that weights were trained on; with `matches` where labels were given to match by name."""

    backbone: str
    weights: str
    labels: list[str] = Field(description="In the order of the outputs; synonyms are separated by commas.")
    matches: list[MatchRead] | None
    missing: int | None = Field(description="How many labels of the weights are not among those given.")


@router.get("/{name}/weights/{weights}/labels", responses=responses(404, 409, 422))
def read_labels(
    name: BackboneName,
    weights: Annotated[str, Path(max_length=100, examples=["IMAGENET1K_V1"])],
    database: DatabaseDep,
    match: Annotated[
        str | None, Query(max_length=100, description="A data set whose newest version's labels are to be matched.")
    ] = None,
    label: Annotated[list[LabelName] | None, Query(max_length=1000, description="A label to be matched.")] = None,
) -> KnownLabels:
    """The labels that weights were trained on, and on request how others match them: by name, never by position."""
    backbone = find(name)
    try:
        chosen = backbone.find_weights(weights)
    except errors.Invalid as error:
        raise errors.NotFound(error.message, code=error.code, detail=error.detail) from error
    published = known.labels(chosen)
    wanted = list(label or [])
    if match is not None:
        with database.read() as session:
            wanted += datasets.find_version(session, match, None).labels
    found = known.match(wanted, published) if wanted else None
    return KnownLabels(
        backbone=backbone.name,
        weights=chosen.name,
        labels=list(published),
        matches=None if found is None else _matches(found),
        missing=None if found is None else len(found.missing),
    )


def _matches(found: Matches) -> list[MatchRead]:
    return [MatchRead.model_validate({**vars(one), "kind": one.kind}) for one in found.matches]
