"""Routes of imports: an archive of labelled images is received, looked at, and handed to an ingest job."""

from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app import arrivals, bodies, errors, forms, idempotency, storage
from app.bodies import Received
from app.datasets import archive
from app.datasets import service as datasets
from app.datasets.entries import Limits
from app.datasets.routes import DatasetId
from app.datasets.schemas import RefusedRead
from app.db import after_commit, new_id
from app.deps import DatabaseDep, ImportPageDep, Limit, Listing, Parts, PartsDep, listing
from app.jobs import service
from app.jobs.schemas import ImportAccepted, ImportRead, JobRead
from app.problems import responses
from app.settings import Settings

router = APIRouter(prefix="/v1/datasets/{dataset_id}/imports", tags=["datasets"])

ImportId = Annotated[str, Path(max_length=100, description="Id of the import, as the answer to the upload gives it.")]

_MEDIA_TYPES = ("application/zip", "application/x-tar", "application/gzip", "application/octet-stream")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
}


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    responses=responses(404, 409, 413, 415, 422, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A zip or tar (.tar, .tar.gz, .tar.bz2, .tar.xz) with a folder of images per class.",
            "content": {**dict.fromkeys(_MEDIA_TYPES, _BINARY), "multipart/form-data": _FORM},
        }
    },
)
async def create_import(
    dataset_id: DatasetId,
    request: Request,
    parts: PartsDep,
    response: Response,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)] = None,
) -> ImportAccepted:
    """Upload photos: an archive with a folder per class. The job that is answered checks every image and makes
    the next version of the data set."""
    scope = f"POST {request.url.path}"
    known = await run_in_threadpool(_check_before, parts, dataset_id, scope, key)
    import_id = new_id("imp")
    path = parts.storage.upload(import_id)
    try:
        async with arrivals.of(request).unless_stopped():
            file_name, received = await _receive(request, path, max_bytes=parts.settings.max_archive_bytes)
        await run_in_threadpool(_look_at, path, known, parts.settings)
        wanted = service.Archive(import_id, file_name, received.size_bytes, received.sha256)
        once = idempotency.Request(scope, key, received.sha256)
        accepted = await run_in_threadpool(_submit, parts, dataset_id, wanted, once)
    finally:
        storage.discard(path)
    response.headers["Location"] = f"/v1/jobs/{accepted.job.id}"
    return accepted


@router.get("", responses=responses(404, 422))
def list_imports(dataset_id: DatasetId, database: DatabaseDep, page: ImportPageDep) -> Listing[ImportRead]:
    """The imports into a data set, newest first."""
    with database.read() as session:
        rows = datasets.imports_newest_first(session, dataset_id, limit=page.limit, after=page.after)
        return listing([ImportRead.model_validate(row) for row in rows], page.limit)


@router.get("/{import_id}", responses=responses(404, 422))
def read_import(dataset_id: DatasetId, import_id: ImportId, database: DatabaseDep) -> ImportRead:
    """One import: how many of its files became items."""
    with database.read() as session:
        return ImportRead.model_validate(datasets.find_import(session, dataset_id, import_id))


@router.get("/{import_id}/refused", responses=responses(404, 422))
def list_refused(
    dataset_id: DatasetId,
    import_id: ImportId,
    database: DatabaseDep,
    limit: Limit = 50,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Position of the last item before.")] = 0,
) -> Listing[RefusedRead]:
    """The files of an import that did not become items, with the reason for each."""
    with database.read() as session:
        datasets.find_import(session, dataset_id, import_id)
        rows = datasets.refused_items(session, import_id, limit=limit, after=after)
        return listing([RefusedRead.model_validate(row) for row in rows], limit)


async def _receive(request: Request, path: FilePath, *, max_bytes: int) -> tuple[str | None, Received]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _receive_form(request, path, max_bytes=max_bytes)
    if media_type not in ("", "application/x-zip-compressed", "application/x-gzip", *_MEDIA_TYPES):
        raise errors.UnsupportedMedia(
            f"{media_type} is not taken here; send the archive as {', '.join(_MEDIA_TYPES)}, "
            "or as the field 'file' of a form"
        )
    return None, await bodies.save(bodies.chunks(request, max_bytes=max_bytes), path)


async def _receive_form(request: Request, path: FilePath, *, max_bytes: int) -> tuple[str | None, Received]:
    saved = None
    async with aclosing(forms.files(request, "file", max_bytes=max_bytes)) as files:
        async for file in files:
            if saved is not None:
                raise errors.Invalid("the form has more than one file; send one archive a request", code="many_files")
            name = unquote(file.name).replace("\0", "")[:255] or None
            saved = name, await bodies.save(file.content, path)
    assert saved is not None  # a form without a file is refused
    return saved


def _check_before(parts: Parts, dataset_id: str, scope: str, key: str | None) -> tuple[str, ...]:
    with parts.database.read() as session:
        try:
            service.check_no_import(session, dataset_id)
        except errors.Conflict:
            # The import that goes on may be this very one. Looked for first, it is not seen without its key.
            if not idempotency.is_known(session, scope, key):
                raise
        return datasets.known_labels(session, dataset_id)


def _look_at(path: FilePath, known: tuple[str, ...], settings: Settings) -> None:
    """Refuse at once what can be seen without reading every image."""
    limits = Limits(2 * settings.max_archive_bytes, settings.max_image_bytes, settings.max_archive_entries)
    opened = archive.open_archive(path, limits)
    if opened.has_index:
        archive.check_classes(archive.lay_out(opened.entries(), limits), known=known)


def _submit(parts: Parts, dataset_id: str, wanted: service.Archive, request: idempotency.Request) -> ImportAccepted:
    with parts.database.write() as session:
        now = parts.database.now(session)
        existing = idempotency.take(session, request, now=now)
        if existing is not None:
            found = datasets.find_import(session, dataset_id, existing)
            return _accepted(found, service.find(session, found.job_id))
        row, job = service.submit_import(session, dataset_id, wanted, max_attempts=parts.settings.max_attempts, now=now)
        idempotency.remember(session, request, row.id)
        # Before the commit: a job that can be claimed must find its archive. One that was not committed goes unused.
        storage.move(parts.storage.upload(wanted.import_id), parts.storage.archive(wanted.import_id))
        queue, job_id = job.queue, job.id
        after_commit(session, lambda: parts.doorbell.ring(queue, job_id))
        return _accepted(row, job)


def _accepted(row: object, job: object) -> ImportAccepted:
    read = ImportRead.model_validate(row)
    return ImportAccepted(**read.model_dump(), job=JobRead.model_validate(job))
