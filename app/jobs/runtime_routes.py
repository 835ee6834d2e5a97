"""Routes for the forms that a model version can be run in: what was measured, what is served, what is pinned."""

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from app import optimisation
from app.bodies import JsonRoute
from app.deps import PartsDep, RevisionDep, etag
from app.jobs import queues
from app.jobs.tables import Job
from app.models import service, serving
from app.models.routes import DirectoryDep, Name, Number
from app.models.schemas import OptimisationRead, PinsPut, PinsRead, RuntimesRead, ServedRead
from app.models.tables import ModelVersion
from app.optimisation import Pins
from app.problems import responses

router = APIRouter(prefix="/v1/models/{name}/versions/{number}/runtimes", tags=["models"], route_class=JsonRoute)


@router.get("", responses=responses(404, 422))
def read_runtimes(name: Name, number: Number, parts: PartsDep, response: Response) -> RuntimesRead:
    """All forms that a version was measured in, with the accuracy and the speed of each, and which is served and
    why."""
    process = serving.process_pins(parts.settings)
    with parts.database.read() as session:
        found = _read(session, name, service.find_version(session, name, number), process)
    response.headers["ETag"] = etag(found.revision)
    return found


@router.put("", responses=responses(404, 412, 422, 428))
def pin_runtimes(
    name: Name,
    number: Number,
    wanted: PinsPut,
    parts: PartsDep,
    directory: DirectoryDep,
    revision: RevisionDep,
    response: Response,
) -> RuntimesRead:
    """Decide what a version is run by, also if that is slow or outside the tolerance, or leave it to what was measured:
    `auto`."""
    process = serving.process_pins(parts.settings)
    with parts.database.write() as session:
        pins = Pins(wanted.runtime, wanted.precision)
        version = serving.pin(session, name, number, pins, revision=revision)
        found = _read(session, name, version, process)
    directory.refresh()
    response.headers["ETag"] = etag(found.revision)
    return found


def _read(session: Session, name: str, version: ModelVersion, process: Pins) -> RuntimesRead:
    pins = process.over(serving.pins_of(version))
    rows = serving.newest(session, version.id)
    reports = {device: serving.report_of(row) for device, row in rows.items()}
    served = [
        ServedRead(
            device=device,
            optimisation=rows[device].id,
            forms=list(optimisation.choose(report, pins)),
            why=optimisation.explain(report, pins),
        )
        for device, report in reports.items()
    ]
    job = None if rows else queues.optimisation_of(session, version)
    plain = ServedRead(
        device=None,
        optimisation=None,
        forms=list(optimisation.choose(None, pins)),
        why=optimisation.explain(None, pins) if job is None else _waiting(job),
    )
    return RuntimesRead(
        model=name,
        version=version.number,
        pins=PinsRead(runtime=version.runtime, precision=version.precision),
        revision=version.pins_revision,
        served=served or [plain],
        optimisations=[
            OptimisationRead(id=row.id, job_id=row.job_id, created_at=row.created_at, report=reports[device])
            for device, row in rows.items()
        ],
    )


def _waiting(job: Job) -> str:
    return (
        f"It is run as it was trained until it is optimised: job {job.id}, which gives way to jobs of other kinds, is "
        f"{job.state}."
    )
