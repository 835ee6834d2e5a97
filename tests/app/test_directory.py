"""The registry in memory: it answers what the database would, and outlives its absence."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert

from app import errors
from app.db import Database, utc_now
from app.jobs.tables import Job
from app.models import service as models
from app.models.directory import Directory, load
from app.models.serving import PLAIN_PROCESS, Choices
from app.models.tables import Model, ModelVersion
from tests.app.registries import NEVER, Watched, add_version, break_off, dataset_id, directory, point

__all__ = ["add_version", "dataset_id", "directory"]  # fixtures


def test_it_answers_as_the_database_would_and_does_not_ask_it(
    database: Database, directory: Directory, add_version: Callable[[], str]
) -> None:
    for _ in range(3):
        add_version()
    point(database, "production", 2)
    assert directory.refresh()
    asked = Watched(database)

    for reference in ("insects", "insects@1", "insects@2", "insects@3", "insects:production"):
        found = directory.resolve(reference)
        assert asyncio.run(directory.find(reference)) is found
        assert asked.count == 0
        with database.read() as session:
            assert models.served(session, reference) == found
        asked.count = 0


@pytest.mark.parametrize(
    "reference", ["insect", "insects@9", "insects:prod", "insects:1", "insects@0", "insects@01", "a@b@c", "", ":"]
)
def test_what_is_not_there_is_said_as_the_database_would_say_it(
    database: Database, directory: Directory, add_version: Callable[[], str], reference: str
) -> None:
    add_version()
    point(database, "production", 1)
    with pytest.raises(errors.NotFound) as found:
        directory.resolve(reference)
    with pytest.raises(errors.NotFound) as expected, database.read() as session:
        models.served(session, reference)
    assert vars(found.value) == vars(expected.value)


def test_a_version_that_another_process_made_is_found_although_nobody_looked_since(
    directory: Directory, add_version: Callable[[], str]
) -> None:
    made = add_version()
    assert asyncio.run(directory.find("insects@1")).version_id == made
    newer = add_version()
    assert directory.resolve("insects@2").version_id == newer
    assert directory.resolve("insects").version_id == newer


def test_after_a_refresh_nothing_older_is_ever_answered(
    database: Database, directory: Directory, add_version: Callable[[], str]
) -> None:
    for _ in range(3):
        add_version()
    point(database, "production", 1)
    floor, stop, wrong = [0], threading.Event(), []

    def read() -> None:
        while not stop.wait(0.001):
            least = floor[0]
            revision = directory.snapshot.revision
            if revision < least:
                wrong.append((least, revision))

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        others = pool.submit(lambda: [directory.refresh() for _ in range(20)])
        for turn in range(10):
            point(database, "production", turn % 3 + 1)
            assert directory.refresh()
            assert directory.resolve("insects:production").number == turn % 3 + 1
            floor[0] = directory.snapshot.revision
        others.result()
        stop.set()
        for reader in readers:
            reader.result()
    assert not wrong


def test_rubbish_names_cost_the_database_little_and_one_look_is_for_all(
    database: Database, directory: Directory, add_version: Callable[[], str]
) -> None:
    add_version()
    directory.refresh()
    asked, started = Watched(database), time.monotonic()

    async def hammer() -> list[object]:
        names = (f"rubbish-{turn}-{number}" for turn in range(3) for number in range(300))
        return await asyncio.gather(*map(directory.find, names), return_exceptions=True)

    with ThreadPoolExecutor(8) as pool:
        more = [pool.submit(directory.resolve, f"rubbish-{number}") for number in range(40)]
        answers = asyncio.run(hammer()) + [answer.exception() for answer in more]
    assert {type(answer) for answer in answers} == {errors.NotFound}
    # A look is one statement where nothing has changed, and there is one in 0.1 s.
    assert asked.count <= (time.monotonic() - started) / 0.1 + 1
    assert len(answers) == 940


def test_names_that_no_model_can_have_are_refused_without_a_look(database: Database, directory: Directory) -> None:
    asked = Watched(database)
    for reference in ("a@b", "a:B", "@1", "a@01", "a:1:2"):
        with pytest.raises(errors.NotFound, match=r"write a name|numbered 1, 2, 3"):
            directory.resolve(reference)
    assert asked.count == 0


def test_one_who_goes_away_takes_the_answer_from_nobody(directory: Directory, add_version: Callable[[], str]) -> None:
    made = add_version()

    async def two() -> str:
        gone, stays = (asyncio.create_task(directory.find("insects")) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        return (await stays).version_id

    assert asyncio.run(two()) == made


def test_without_the_database_what_is_known_is_served_and_that_is_logged_once(
    database: Database, directory: Directory, add_version: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    made = add_version()
    directory.refresh()
    caplog.set_level(logging.INFO)
    bring_back = break_off(database)

    for _ in range(3):
        assert not directory.refresh()
        assert directory.resolve("insects").version_id == made
    with pytest.raises(errors.Unavailable) as refused:
        directory.resolve("wasps")
    assert refused.value.code == "database_unavailable"
    assert [record.levelname for record in caplog.records] == ["ERROR"]

    bring_back()
    add_version()
    assert directory.refresh()
    assert directory.resolve("insects").number == 2
    assert [record.message for record in caplog.records][1:] == ["the registry can be read again"]


def test_a_process_that_starts_without_the_database_serves_once_it_is_there(
    database: Database, add_version: Callable[[], str]
) -> None:
    made = add_version()
    bring_back = break_off(database)
    directory = Directory(database, poll_seconds=NEVER)
    directory.start()
    with pytest.raises(errors.Unavailable):
        directory.resolve("insects")
    bring_back()
    assert directory.resolve("insects").version_id == made
    directory.close()


def test_ten_thousand_versions_are_loaded_in_as_few_statements_as_one(
    database: Database, dataset_id: str, add_version: Callable[[], str]
) -> None:
    add_version()
    asked = Watched(database)
    with database.read() as session:
        load(session, Choices(PLAIN_PROCESS))
    for_one, asked.count = asked.count, 0
    now, models_there, versions_each = utc_now(), 1000, 10
    numbers = [(model, number) for model in range(models_there) for number in range(1, versions_each + 1)]
    with database.write() as session:
        session.execute(
            insert(Model),
            [
                {"id": f"mdl_{m:04}", "name": f"m{m}", "latest_version": 10, "last_number": 10, "created_at": now}
                for m in range(models_there)
            ],
        )
        job = {"kind": "train", "queue": "gpu", "state": "succeeded", "dataset_id": dataset_id, "spec": {}}
        counts = {"attempt": 1, "max_attempts": 1, "last_event": 0, "created_at": now}
        session.execute(insert(Job), [{"id": f"job_{m}_{n}", **job, **counts} for m, n in numbers])
        facts = {"dataset_id": dataset_id, "dataset_version": 1, "backbone": "tinynet", "strategy": "full"}
        facts |= {"labels": ["ants"], "evaluation": {}, "provenance": {}, "created_at": now}
        session.execute(
            insert(ModelVersion),
            [
                {
                    "id": f"mv_{m}_{n}",
                    "model_id": f"mdl_{m:04}",
                    "number": n,
                    "job_id": f"job_{m}_{n}",
                    **facts,
                }
                for m, n in numbers
            ],
        )
        models.touch(session)
    asked.count = 0
    with database.read() as session:
        snapshot = load(session, Choices(PLAIN_PROCESS))

    assert asked.count == for_one
    assert len(snapshot.served) == models_there * (versions_each + 1) + 2
    assert set(snapshot.names) == {"insects", *(f"m{m}" for m in range(models_there))}
    assert snapshot.served["m17"].version_id == "mv_17_10"
