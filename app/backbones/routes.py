"""Routes of the catalogue of backbones."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from app import errors
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone
from app.backbones.schemas import BackboneRead, BackboneSummary, SortKey
from app.deps import PartsDep
from app.problems import responses
from app.settings import Settings

router = APIRouter(prefix="/v1/backbones", tags=["backbones"])

BackboneName = Annotated[
    str,
    Path(max_length=100, description="Of the catalogue, or `timm:<name>`.", examples=["mobilenet_v2"]),
]


class BackboneListing(BaseModel):
    """All of the catalogue that was asked for."""

    data: list[BackboneSummary]
    has_more: bool = False


@router.get("", responses=responses(422))
def list_backbones(
    parts: PartsDep,
    family: Annotated[str | None, Query(max_length=100, examples=["ResNet"])] = None,
    max_params: Annotated[int | None, Query(ge=0, description="Most parameters.")] = None,
    max_gmac: Annotated[float | None, Query(ge=0, description="Most multiply-adds, in thousand millions.")] = None,
    has_weights: Annotated[bool | None, Query(description="With published weights, or without.")] = None,
    sort: Annotated[SortKey, Query(description="A figure, with `-` in front for the largest first.")] = "parameters",
) -> BackboneListing:
    """The networks of the catalogue that can be fine-tuned, smallest first unless `sort` says otherwise."""
    found = catalogue.select(family=family, max_params=max_params, max_gmac=max_gmac, has_weights=has_weights)
    return BackboneListing(
        data=[BackboneSummary.model_validate(_facts(entry, parts.settings)) for entry in catalogue.sort(found, by=sort)]
    )


@router.get("/{name}", responses=responses(404, 422))
def read_backbone(name: BackboneName, parts: PartsDep) -> BackboneRead:
    """One network of the catalogue, or any other network of timm as `timm:<name>`, with its stages."""
    return BackboneRead.model_validate(_facts(find(name), parts.settings))


def find(name: str) -> Backbone:
    """The backbone that an address names. Raises `NotFound`."""
    try:
        return catalogue.find(name)
    except errors.UnknownName as error:
        raise errors.NotFound(error.message, code=error.code, detail=error.detail) from error


def _facts(entry: Backbone, settings: Settings) -> dict[str, Any]:
    known = {name: getattr(entry, name) for name in BackboneRead.model_fields if name != "weights"}
    published = [{**vars(one), "at_hand": _at_hand(entry, one, settings)} for one in entry.weights]
    return {**known, "weights": published}


def _at_hand(entry: Backbone, published: catalogue.Weights, settings: Settings) -> str | None:
    return weights.at_hand(
        entry,
        published,
        weights_dir=settings.weights_dir,
        cache_dir=weights.default_cache_dir(),
        hub_cache_dir=weights.default_hub_cache_dir(),
    )
