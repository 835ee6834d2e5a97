"""How all versions are run is known without reading again what was measured of them."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import event

from app.datasets import service as datasets
from app.datasets.schemas import DatasetCreate
from app.db import Database, utc_now
from app.models import service as models
from app.models import serving
from app.models.serving import Choices, NewOptimisation, Process
from app.optimisation import UNOPTIMISED, Pins, Serving
from tests import factories
from tests.app.test_optimisation import REPORT

PINNED = ("openvino-int8", "torch-fp32")


@pytest.fixture
def versions(database: Database) -> list[str]:
    """Ids of three versions of `insects`, of which the first two are optimised, as `opt_1` and `opt_2`."""
    with database.write() as session:
        dataset_id = datasets.create(session, DatasetCreate(name="photos"), now=utc_now()).id
    made = [models.new_version_id() for _ in range(3)]
    for version_id in made:
        factories.register_version(database, version_id, dataset_id, labels=("ants", "bees"))
    for number in (1, 2):
        optimise(database, number, f"opt_{number}")
    return made


def optimise(database: Database, number: int, optimisation_id: str) -> None:
    with database.write() as session:
        version = models.find_version(session, "insects", number)
        made = NewOptimisation(optimisation_id, version.id, version.job_id, REPORT)
        serving.record(session, made, now=utc_now())


def pin(database: Database, number: int, pins: Pins) -> None:
    with database.write() as session:
        serving.pin(session, "insects", number, pins, revision=None)


class Reader:
    """Looks at all versions, and keeps which reports were asked for at the last look, and in how many statements."""

    def __init__(self, database: Database, process: Process) -> None:
        self._database = database
        self._choices = Choices(process)
        self.reports: list[str] = []
        self.statements = 0
        event.listen(database.engine, "before_cursor_execute", self._note)

    def look(self) -> Mapping[str, Serving]:
        self.reports, self.statements = [], 0
        with self._database.read() as session:
            return self._choices.of_all(session)

    def _note(self, _connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if not statement.startswith("SELECT"):
            return
        self.statements += 1
        if "report" in statement:
            self.reports += sorted(parameters.values() if isinstance(parameters, dict) else parameters)


def test_a_report_is_read_once_for_all_looks(database: Database, versions: list[str]) -> None:
    reader = Reader(database, Process())
    first, second, third = versions
    known = {first: Serving("opt_1", REPORT.order), second: Serving("opt_2", REPORT.order), third: UNOPTIMISED}
    assert reader.look() == known
    assert (reader.reports, reader.statements) == (["opt_1", "opt_2"], 3)
    assert reader.look() == known
    assert (reader.reports, reader.statements) == ([], 2)


def test_of_what_is_new_or_pinned_otherwise_the_report_is_read_and_no_other(
    database: Database, versions: list[str]
) -> None:
    reader = Reader(database, Process())
    first, second, third = versions
    reader.look()
    pin(database, 1, Pins("openvino", "int8"))
    assert reader.look()[first] == Serving("opt_1", PINNED)
    assert reader.reports == ["opt_1"]
    optimise(database, 2, "opt_3")
    optimise(database, 3, "opt_4")
    assert reader.look() == {
        first: Serving("opt_1", PINNED),
        second: Serving("opt_3", REPORT.order),
        third: Serving("opt_4", REPORT.order),
    }
    assert reader.reports == ["opt_3", "opt_4"]


def test_what_a_process_pins_is_chosen_once_for_all_versions(database: Database, versions: list[str]) -> None:
    reader = Reader(database, Process(pins=Pins("openvino", "int8")))
    assert reader.look()[versions[1]].forms == PINNED
    assert reader.look()[versions[1]].forms == PINNED
    assert reader.reports == []
    elsewhere = Reader(database, Process("cuda"))
    assert set(elsewhere.look().values()) == {UNOPTIMISED}
