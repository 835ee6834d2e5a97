"""Routes of the catalogue of backbones."""

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from app import errors
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone
from app.backbones.schemas import BackboneRead, WeightsRead
from app.deps import PartsDep
from app.problems import responses

router = APIRouter(prefix="/v1/backbones", tags=["backbones"])


class BackboneListing(BaseModel):
    """The whole catalogue."""

    data: list[BackboneRead]
    has_more: bool = False


@router.get("")
def list_backbones(parts: PartsDep) -> BackboneListing:
    """Every network that can be fine-tuned, smallest first."""
    entries = sorted(catalogue.BACKBONES.values(), key=lambda entry: entry.parameters)
    return BackboneListing(data=[_read(entry, parts.settings.weights_dir) for entry in entries])


@router.get("/{name}", responses=responses(404, 422))
def read_backbone(
    name: Annotated[str, Path(max_length=100, examples=["mobilenet_v2"])], parts: PartsDep
) -> BackboneRead:
    """One network of the catalogue."""
    try:
        entry = catalogue.find(name)
    except errors.UnknownName as error:
        raise errors.NotFound(error.message, code=error.code, detail=error.detail) from error
    return _read(entry, parts.settings.weights_dir)


def _read(entry: Backbone, weights_dir: FilePath | None) -> BackboneRead:
    published = entry.weights
    read = None
    if published is not None:
        place = weights.at_hand(entry, weights_dir=weights_dir, cache_dir=weights.default_cache_dir())
        facts = {
            name: getattr(published, name) for name in ("name", "file_name", "classes", "top1", "top5", "preprocessing")
        }
        read = WeightsRead.model_validate({**facts, "at_hand": place}, from_attributes=True)
    facts = {name: getattr(entry, name) for name in BackboneRead.model_fields if name != "weights"}
    return BackboneRead.model_validate({**facts, "weights": read})
