"""How model versions are run: what was measured of their forms, what somebody has pinned, and what follows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import delete, exists, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from app import errors, optimisation
from app.db import new_id
from app.models import service
from app.models.tables import ModelVersion, Optimisation
from app.optimisation import NO_PINS, UNOPTIMISED, DeviceKind, Pins, Report, Serving
from app.settings import Settings

_REPORT = TypeAdapter(Report)
_AGE = (Optimisation.created_at, Optimisation.id)
"""By the database's clock, which all share; ids are made when an attempt begins, by the clock of its worker."""
_IDS_A_STATEMENT = 10_000
"""Databases take no more than some thirty thousand values."""


@dataclass(frozen=True)
class NewOptimisation:
    """An optimisation whose files lie under its id and that is to be registered."""

    optimisation_id: str
    version_id: str
    job_id: str
    report: Report


@dataclass(frozen=True)
class Process:
    """A process that runs classifiers."""

    device: DeviceKind = "cpu"
    pins: Pins = NO_PINS
    """What it pins for all versions, before what those have pinned themselves."""


PLAIN_PROCESS = Process()
_Case = tuple[str, Pins]
"""The id of an optimisation, and what is pinned for its version."""


class Choices:
    """How `process` is to run every version. What an optimisation has measured never changes, so its report is read
    once, and again only where something else is pinned."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._known: dict[_Case, Serving] = {}

    def of_all(self, session: Session) -> Mapping[str, Serving]:
        """How each version that there is now is to be run, by its id."""
        found = select(Optimisation.version_id, Optimisation.id).where(Optimisation.device == self._process.device)
        optimised = dict(session.execute(found.order_by(*_AGE)).all())  # the last of a version is its newest
        present = select(ModelVersion.id, ModelVersion.runtime, ModelVersion.precision)
        versions = session.execute(present.where(ModelVersion.deleted_at.is_(None))).all()
        cases = {
            version_id: (optimised[version_id], self._process.pins.over(Pins(runtime, precision)))
            for version_id, runtime, precision in versions
            if version_id in optimised
        }
        self._known = self._chosen(session, set(cases.values()))
        served = {version_id: self._known[case] for version_id, case in cases.items()}
        return {version_id: served.get(version_id, UNOPTIMISED) for version_id, _, _ in versions}

    def _chosen(self, session: Session, cases: set[_Case]) -> dict[_Case, Serving]:
        chosen = {case: self._known[case] for case in cases & self._known.keys()}
        pins = dict(cases - chosen.keys())
        for optimisation_id, report in _reports(session, list(pins)):
            forms = optimisation.choose(report, pins[optimisation_id])
            chosen[optimisation_id, pins[optimisation_id]] = Serving(optimisation_id, forms)
        return chosen


def new_optimisation_id() -> str:
    return new_id("opt")


def record(session: Session, made: NewOptimisation, *, now: datetime) -> None:
    """Keep what a job has found; for the kind of device it counts from now on."""
    row = Optimisation(
        id=made.optimisation_id,
        version_id=made.version_id,
        job_id=made.job_id,
        device=made.report.machine.device,
        report=asdict(made.report),
        created_at=now,
    )
    session.add(row)
    session.flush()
    service.touch(session)


def forget_unserved(session: Session, *, before: datetime) -> list[str]:
    """Strike off optimisations in whose place others have come `before` that time, for the same version and kind of
    device, and those of versions that were deleted before it; their ids. Whoever serves one of them has read it, and
    follows to the newer one."""
    newer = aliased(Optimisation)
    is_superseded = exists().where(
        newer.version_id == Optimisation.version_id,
        newer.device == Optimisation.device,
        tuple_(newer.created_at, newer.id) > tuple_(*_AGE),
        newer.created_at < before,
    )
    is_of_deleted = exists().where(ModelVersion.id == Optimisation.version_id, ModelVersion.deleted_at < before)
    statement = delete(Optimisation).where(or_(is_superseded, is_of_deleted)).returning(Optimisation.id)
    return list(session.scalars(statement, execution_options={"synchronize_session": False}))


def newest(session: Session, version_id: str) -> dict[DeviceKind, Optimisation]:
    """What counts for each kind of device."""
    query = select(Optimisation).where(Optimisation.version_id == version_id).order_by(*_AGE)
    return {"cuda" if row.device == "cuda" else "cpu": row for row in session.scalars(query)}


def report_of(row: Optimisation) -> Report:
    """What was measured."""
    return _REPORT.validate_python(row.report)


def pins_of(version: ModelVersion) -> Pins:
    return Pins(version.runtime, version.precision)


def process_pins(settings: Settings) -> Pins:
    """What the settings of this process pin for all versions. Raises `UnknownName`."""
    pins = Pins(settings.runtime, settings.precision)
    optimisation.check_names(pins)
    return pins


def of_version(session: Session, version: ModelVersion, process: Process) -> Serving:
    """How `version` is to be run by `process`."""
    row = newest(session, version.id).get(process.device)
    return _serving(row, process.pins.over(pins_of(version)))


def hold(session: Session, version_id: str) -> None:
    """Until the transaction ends, nobody else pins a form of the version or has an optimisation of it count: what is
    decided of the one goes by the other, and by the version as it is now."""
    query = select(ModelVersion).where(ModelVersion.id == version_id).with_for_update(key_share=True)
    session.scalar(query, execution_options={"populate_existing": True})


def forms_to_keep(session: Session, version_id: str, process: Pins) -> tuple[str, ...]:
    """Names of the forms without which a new report would take away what there is: those that are pinned, by the
    version or by a `process`, and that which is served on each kind of device."""
    pins = process.over(pins_of(session.get_one(ModelVersion, version_id)))
    served = [optimisation.choose(report_of(row), pins)[0] for row in newest(session, version_id).values()]
    return (*served, *(() if pins.is_open else pins.names))


def first_form(session: Session, version_id: str, report: Report, process: Pins) -> str:
    """Name of the form that is run first where `report` counts and a `process` pins that."""
    pins = process.over(pins_of(session.get_one(ModelVersion, version_id)))
    return optimisation.choose(report, pins)[0]


def taken_away(session: Session, version_id: str, report: Report, process: Pins) -> str | None:
    """Name of the form that is run first now, on such a device, where the new `report` does not know it."""
    row = newest(session, version_id).get(report.machine.device)
    if row is None:
        return None
    first = first_form(session, version_id, report_of(row), process)
    return None if any(form.name == first for form in report.forms) else first


def pin(session: Session, name: str, number: int, pins: Pins, *, revision: int | None) -> ModelVersion:
    """Decide what a version is run by. Raises `UnknownName`, `Invalid` where that was not built, and
    `PreconditionFailed` unless the pins are at `revision` (None: any)."""
    version = service.find_version(session, name, number)
    hold(session, version.id)
    optimisation.check(pins, [report_of(row) for row in newest(session, version.id).values()])
    statement = update(ModelVersion).where(ModelVersion.id == version.id)
    if revision is not None:
        statement = statement.where(ModelVersion.pins_revision == revision)
    changed = session.scalar(
        statement.values(
            runtime=pins.runtime, precision=pins.precision, pins_revision=ModelVersion.pins_revision + 1
        ).returning(ModelVersion.id),
        execution_options={"synchronize_session": False},
    )
    if changed is None:
        raise errors.PreconditionFailed(f"the runtimes of version {number} of model {name!r} are at another revision")
    service.touch(session)
    session.expire_all()
    return service.find_version(session, name, number)


def _reports(session: Session, ids: Sequence[str]) -> Iterator[tuple[str, Report]]:
    for start in range(0, len(ids), _IDS_A_STATEMENT):
        some = Optimisation.id.in_(ids[start : start + _IDS_A_STATEMENT])
        for optimisation_id, report in session.execute(select(Optimisation.id, Optimisation.report).where(some)):
            yield optimisation_id, _REPORT.validate_python(report)


def _serving(row: Optimisation | None, pins: Pins) -> Serving:
    forms = optimisation.choose(None if row is None else report_of(row), pins)
    return Serving(None if row is None else row.id, forms)
