"""The registry in memory: which of its changes are followed, and who is told of them."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session

from app import errors
from app.db import Database, utc_now
from app.models import aliases, serving
from app.models import service as models
from app.models.directory import Directory, Snapshot, load
from app.models.schemas import AliasPut
from app.models.serving import PLAIN_PROCESS, Choices, NewOptimisation
from app.optimisation import UNOPTIMISED, Pins, Serving
from tests.app.registries import add_version, dataset_id, directory, point
from tests.app.scheduling import until
from tests.app.test_optimisation import REPORT

__all__ = ["add_version", "dataset_id", "directory"]  # fixtures


def test_changes_are_followed_without_being_asked_for(database: Database, add_version: Callable[[], str]) -> None:
    directory = Directory(database, poll_seconds=0.02)
    directory.start()
    made = add_version()
    until(lambda: "insects" in directory.snapshot.served)
    assert directory.snapshot.served["insects"].version_id == made
    directory.close()


def test_nobody_finds_what_listeners_were_not_told_of(directory: Directory, add_version: Callable[[], str]) -> None:
    found: list[bool] = []
    directory.subscribe(lambda _: found.append("insects" in directory.snapshot.served))
    add_version()
    directory.refresh()
    assert found == [False, False]
    assert "insects" in directory.snapshot.served


def test_listeners_are_told_of_each_snapshot_in_order_and_one_that_fails_hinders_none(
    database: Database, directory: Directory, add_version: Callable[[], str]
) -> None:
    told: list[Snapshot] = []

    def fail(_: Snapshot) -> None:
        if told:
            raise RuntimeError("listener")

    directory.subscribe(fail)
    directory.subscribe(told.append)
    first, second = add_version(), add_version()
    point(database, "production", 1, keep_loaded=True)
    directory.refresh()
    directory.refresh()
    point(database, "canary", 2)
    point(database, "spare", 1, keep_loaded=True)
    directory.refresh()

    assert [len(snapshot.pointers) for snapshot in told] == [0, 1, 3]
    assert told == sorted(told, key=lambda snapshot: snapshot.revision)
    assert [one.version_id for one in told[-1].kept_loaded] == [first]
    assert {one.alias: one.version.version_id for one in told[-1].pointers} == {
        "production": first, "spare": first, "canary": second,
    }  # fmt: skip


def test_an_alias_that_moves_on_from_what_is_deleted_is_never_missed(
    database: Database, add_version: Callable[[], str]
) -> None:
    for _ in range(2):
        add_version()
    point(database, "production", 1)

    class Meanwhile(Choices):
        """How versions are run; the first time that it is asked, the alias moves on and its version is deleted."""

        done = False

        def of_all(self, session: Session) -> Mapping[str, Serving]:
            if not self.done:
                self.done = True
                point(database, "production", 2)
                with database.write() as other:
                    model = models.hold(other, "insects")
                    models.remove(other, model, models.find_version(other, "insects", 1), now=utc_now())
            return super().of_all(session)

    choices = Meanwhile(PLAIN_PROCESS)
    with database.read() as session:
        found = load(session, choices)
    assert choices.done
    (pointer,) = found.pointers
    assert found.served["insects:production"] == pointer.version == found.served[f"insects@{pointer.version.number}"]


def test_a_change_that_is_rolled_back_is_not_counted(database: Database, add_version: Callable[[], str]) -> None:
    add_version()
    with database.read() as session:
        before = models.revision(session)

    def fail() -> None:
        with database.write() as session:
            models.touch(session)
            models.find(session, "wasps")

    with pytest.raises(errors.NotFound):
        fail()
    with database.write() as session:
        models.touch(session)
        models.touch(session)
    with database.read() as session:
        assert models.revision(session) == before + 1


def test_whoever_sees_a_count_sees_every_change_that_it_counts(
    database: Database, add_version: Callable[[], str]
) -> None:
    add_version()
    with database.read() as session:
        start = models.revision(session)
    many, stop, missed = 40, threading.Event(), []

    def make(number: int) -> None:
        with database.write() as session:
            aliases.create(session, "insects", f"a{number}", AliasPut(version=1), now=utc_now())

    def watch() -> None:
        while not stop.is_set():
            with database.read() as session:
                counted = models.revision(session) - start
                there = len(aliases.by_name(session, "insects", limit=200, after=None))
                if there < counted:
                    missed.append((counted, there))

    with ThreadPoolExecutor(9) as pool:
        watcher = pool.submit(watch)
        list(pool.map(make, range(many)))
        stop.set()
        watcher.result()
    assert not missed
    with database.read() as session:
        assert models.revision(session) == start + many


def test_an_optimisation_and_a_pin_are_known_as_other_ways_to_run_the_version(
    database: Database, directory: Directory, add_version: Callable[[], str]
) -> None:
    version_id = add_version()
    directory.refresh()
    assert directory.resolve("insects").serving == UNOPTIMISED
    with database.write() as session:
        job_id = models.find_version(session, "insects", 1).job_id
        serving.record(session, NewOptimisation("opt_1", version_id, job_id, REPORT), now=utc_now())
    directory.refresh()
    before = directory.resolve("insects")
    assert before.serving == Serving("opt_1", REPORT.order)
    with database.write() as session:
        serving.pin(session, "insects", 1, Pins("openvino", "int8"), revision=None)
    directory.refresh()
    assert directory.resolve("insects@1").serving == Serving("opt_1", ("openvino-int8", "torch-fp32"))
    assert directory.resolve("insects") != before
