"""Routes for taking a model version elsewhere: its files, one by one."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse

from app.deps import PartsDep
from app.models import downloads, service, serving
from app.models.downloads import Stored
from app.models.routes import Name, Number
from app.models.schemas import FileListing, FileRead
from app.problems import responses

router = APIRouter(prefix="/v1/models/{name}/versions/{number}/files", tags=["models"])

_BINARY = "application/octet-stream"
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("", responses=responses(404, 422, 503))
def list_files(name: Name, number: Number, parts: PartsDep) -> FileListing:
    """What a version consists of, to be downloaded: the artifact that it was trained to and, once it is optimised, the
    whole classifier as ONNX."""
    found = _files(name, number, parts).values()
    return FileListing(
        data=[
            FileRead(name=stored.name, size_bytes=stored.path.stat().st_size, sha256=stored.sha256, about=stored.about)
            for stored in found
            if stored.path.is_file()
        ]
    )


@router.get("/{file}", response_class=Response, responses={**_CONTENT, **responses(404, 422, 503)})
def download_file(
    name: Name,
    number: Number,
    file: Annotated[str, Path(max_length=200, description="Name of a file of the list.", examples=["labels.json"])],
    parts: PartsDep,
) -> Response:
    """One of its files. Its sha256 is the `ETag`; a part of it can be asked for by `Range`."""
    found = downloads.find(_files(name, number, parts), file)
    return FileResponse(
        found.path,
        media_type="application/json" if found.path.suffix == ".json" else _BINARY,
        filename=found.name,
        headers={"ETag": f'"{found.sha256}"'},
    )


def _files(name: str, number: int, parts: PartsDep) -> "dict[str, Stored]":
    with parts.database.read() as session:
        version = service.find_version(session, name, number)
        newest = serving.newest(session, version.id)
    folders = [parts.storage.optimisation(newest[device].id) for device in sorted(newest)]
    return dict(downloads.of(parts.storage.model_version(version.id), folders))
