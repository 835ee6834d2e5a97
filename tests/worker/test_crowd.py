"""Whether others wait for a worker whose job may give way."""

import pytest

from app.db import Database, utc_now
from app.jobs import leases
from app.jobs.leases import Claim
from tests import factories
from tests.worker.conftest import Desk
from worker.crowd import Crowd


def submit(desk: Desk) -> str:
    return desk.submit_import(factories.photos(classes=1, each=1)).id


def take(database: Database, job_id: str) -> None:
    with database.write() as session:
        assert leases.claim(session, job_id, now=utc_now(), lease_seconds=60) is not None


def claim(kind: str = "optimise", job_id: str = "job_1") -> Claim:
    return Claim(job_id, "token", kind, 1, 1, "ds_1", 1, "insects", {}, None, utc_now())


def looking(database: Database, wanted: Claim, queue: str = "cpu") -> Crowd:
    """One that looks whenever it is asked."""
    return Crowd(database, wanted, [queue], seconds=0)


def test_who_waits_at_two_looks_is_given_way_to(desk: Desk) -> None:
    crowd = looking(desk.database, claim())
    assert not crowd.is_waiting()
    submit(desk)
    assert not crowd.is_waiting()
    assert crowd.is_waiting()
    assert crowd.was_waiting


def test_who_is_gone_at_the_second_look_is_not(desk: Desk) -> None:
    crowd = looking(desk.database, claim())
    for _ in range(3):
        take(desk.database, submit(desk))
        assert not crowd.is_waiting()
        job_id = submit(desk)
        assert not crowd.is_waiting()
        take(desk.database, job_id)


@pytest.mark.parametrize(("kind", "queue"), [("train", "cpu"), ("optimise", "gpu")])
def test_others_do_not_give_way_nor_to_those_that_wait_for_another_worker(desk: Desk, kind: str, queue: str) -> None:
    crowd = looking(desk.database, claim(kind), queue)
    submit(desk)
    assert not any(crowd.is_waiting() for _ in range(3))


def test_only_as_many_give_way_as_are_waited_for_and_the_last_first(desk: Desk) -> None:
    dataset = desk.submit_import(factories.photos(classes=1, each=1))
    take(desk.database, dataset.id)
    with desk.database.write() as session:
        for number in (1, 2):
            job = factories.job_of(
                dataset.dataset_id, kind="optimise", queue="cpu", state="running", job_id=f"job_{number}"
            )
            session.add(job)
    first, second = (looking(desk.database, claim(job_id=f"job_{number}")) for number in (1, 2))
    submit(desk)
    assert [[crowd.is_waiting() for _ in range(2)][-1] for crowd in (first, second)] == [False, True]
    submit(desk)
    assert [[crowd.is_waiting() for _ in range(2)][-1] for crowd in (first, second)] == [True, True]
