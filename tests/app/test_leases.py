"""Leases: who gets a job, who may write to it, and what becomes of jobs whose worker went silent."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from app import errors
from app.datasets import service as datasets
from app.datasets.schemas import DatasetCreate
from app.db import Database
from app.jobs import events, leases, service
from app.jobs.events import Line
from app.jobs.leases import Claim, Failure
from app.jobs.tables import Job

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LEASE = 30.0
CRASH = Failure("process_killed", "ended by SIGKILL", {})


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def job_id(database: Database) -> str:
    with database.write() as session:
        dataset = datasets.create(session, DatasetCreate(name="photos"), now=NOW)
        archive = service.Archive("imp_1", "photos.zip", 10, "0" * 64)
        _, job = service.submit_import(session, dataset.id, archive, max_attempts=2, now=NOW)
        return job.id


def claim(database: Database, job_id: str, *, at: datetime = NOW) -> Claim | None:
    with database.write() as session:
        return leases.claim(session, job_id, now=at, lease_seconds=LEASE)


def claimed(database: Database, job_id: str, *, at: datetime = NOW) -> Claim:
    taken = claim(database, job_id, at=at)
    assert taken is not None
    return taken


def job_of(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return service.find(session, job_id)


def history(database: Database, job_id: str) -> list[tuple[int, str]]:
    with database.read() as session:
        return [(event.seq, event.type) for event in events.after(session, job_id, 0, limit=100)]


def test_sixty_four_workers_race_for_a_job_and_one_wins(database: Database, job_id: str) -> None:
    start = threading.Barrier(64)
    won: list[Claim] = []

    def race() -> None:
        start.wait()
        taken = claim(database, job_id)
        if taken is not None:
            won.append(taken)

    threads = [threading.Thread(target=race) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert job_of(database, job_id).lease_token == won[0].token
    assert history(database, job_id) == [(1, "queued"), (2, "attempt_started")]


def test_a_job_whose_lease_ran_out_is_taken_by_the_next_worker(database: Database, job_id: str) -> None:
    first = claimed(database, job_id)
    assert claim(database, job_id, at=later(LEASE - 1)) is None
    second = claimed(database, job_id, at=later(LEASE + 1))

    assert (first.attempt, second.attempt) == (1, 2)


@pytest.mark.parametrize(
    "write",
    [
        lambda session, old: leases.record(session, old, [Line("epoch", {})], now=later(40), lease_seconds=LEASE),
        lambda session, old: leases.succeed(session, old, {"model": "stale"}, now=later(40)),
        lambda session, old: leases.fail(session, old, CRASH, now=later(40)),
        lambda session, old: leases.release(session, old, CRASH, counts=True, now=later(40)),
        lambda session, old: leases.confirm_cancel(session, old, now=later(40)),
    ],
    ids=["record", "succeed", "fail", "release", "confirm_cancel"],
)
def test_a_worker_that_lost_its_lease_cannot_write(
    database: Database, job_id: str, write: Callable[[Session, Claim], object]
) -> None:
    stale = claimed(database, job_id)
    current = claimed(database, job_id, at=later(LEASE + 1))
    before = history(database, job_id)

    with pytest.raises(errors.LeaseLost), database.write() as session:
        write(session, stale)

    job = job_of(database, job_id)
    assert (job.state, job.lease_token, job.result) == ("running", current.token, None)
    assert history(database, job_id) == before


def test_a_heartbeat_keeps_the_job(database: Database, job_id: str) -> None:
    mine = claimed(database, job_id)
    with database.write() as session:
        state = leases.record(session, mine, [], now=later(25), lease_seconds=LEASE)

    assert state == "running"
    assert claim(database, job_id, at=later(LEASE + 10)) is None


def test_a_crash_costs_an_attempt_and_the_last_one_is_final(database: Database, job_id: str) -> None:
    for expected in ("queued", "failed"):
        mine = claimed(database, job_id)
        with database.write() as session:
            assert leases.release(session, mine, CRASH, counts=True, now=NOW) == expected

    job = job_of(database, job_id)
    assert (job.state, job.attempt) == ("failed", 2)
    assert job.error == {"code": "process_killed", "message": "ended by SIGKILL", "detail": {}}


def test_a_worker_that_is_stopped_gives_its_job_back_at_no_cost(database: Database, job_id: str) -> None:
    for _ in range(5):
        mine = claimed(database, job_id)
        assert mine.attempt == 1
        with database.write() as session:
            assert leases.release(session, mine, CRASH, counts=False, now=NOW) == "queued"


def test_a_job_out_of_attempts_whose_worker_went_silent_fails(database: Database, job_id: str) -> None:
    claimed(database, job_id)
    claimed(database, job_id, at=later(31))
    with database.write() as session:
        assert leases.fail_out_of_attempts(session, now=later(40)) == []
        assert leases.fail_out_of_attempts(session, now=later(100)) == [job_id]

    job = job_of(database, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert claim(database, job_id, at=later(200)) is None


def test_cancelling_a_waiting_job_is_immediate_and_can_be_repeated(database: Database, job_id: str) -> None:
    for _ in range(2):
        with database.write() as session:
            assert service.cancel(session, job_id, now=NOW).state == "cancelled"
    assert claim(database, job_id) is None
    assert history(database, job_id) == [(1, "queued"), (2, "cancelled")]


def test_cancelling_a_running_job_reaches_the_worker_which_confirms(database: Database, job_id: str) -> None:
    mine = claimed(database, job_id)
    with database.write() as session:
        assert service.cancel(session, job_id, now=NOW).state == "cancelling"
    with database.write() as session:
        assert leases.record(session, mine, [], now=NOW, lease_seconds=LEASE) == "cancelling"
    with pytest.raises(errors.LeaseLost), database.write() as session:
        leases.succeed(session, mine, {}, now=NOW)
    with database.write() as session:
        leases.confirm_cancel(session, mine, now=NOW)

    assert job_of(database, job_id).state == "cancelled"


def test_a_cancelled_job_whose_worker_went_silent_is_cancelled(database: Database, job_id: str) -> None:
    claimed(database, job_id)
    with database.write() as session:
        service.cancel(session, job_id, now=NOW)
    with database.write() as session:
        leases.fail_out_of_attempts(session, now=later(LEASE + 1))

    assert job_of(database, job_id).state == "cancelled"


@pytest.mark.parametrize("end", ["succeed", "fail", "release", "pause", "cancel", "silence"])
def test_a_job_that_nobody_works_on_is_in_no_phase(database: Database, job_id: str, end: str) -> None:
    taken = claimed(database, job_id)
    progress = {"phase": "probe", "done": 0, "total": 7}
    with database.write() as session:
        leases.record(session, taken, [], progress=progress, now=NOW, lease_seconds=LEASE)
    assert job_of(database, job_id).progress == progress

    with database.write() as session:
        if end == "succeed":
            leases.succeed(session, taken, {}, now=NOW)
        elif end == "fail":
            leases.fail(session, taken, CRASH, now=NOW)
        elif end == "release":
            leases.release(session, taken, CRASH, counts=True, now=NOW)
        elif end == "pause":
            service.pause(session, job_id, now=NOW)
            leases.confirm_pause(session, taken, now=NOW)
        else:
            service.cancel(session, job_id, now=NOW)
            if end == "cancel":
                leases.confirm_cancel(session, taken, now=NOW)
            else:
                leases.fail_out_of_attempts(session, now=later(2 * LEASE))
    assert job_of(database, job_id).progress is None


def test_cancelling_a_job_that_has_ended_is_a_conflict(database: Database, job_id: str) -> None:
    mine = claimed(database, job_id)
    with database.write() as session:
        leases.succeed(session, mine, {"dataset_version": 1}, now=NOW)
    with pytest.raises(errors.Conflict, match="has succeeded already"), database.write() as session:
        service.cancel(session, job_id, now=NOW)


def test_a_waiting_job_is_paused_at_once_and_nobody_takes_it_until_it_is_resumed(
    database: Database, job_id: str
) -> None:
    for _ in range(2):
        with database.write() as session:
            assert service.pause(session, job_id, now=NOW).state == "paused"
    assert claim(database, job_id) is None
    for _ in range(2):
        with database.write() as session:
            assert service.resume(session, job_id, now=NOW).state == "queued"

    assert claimed(database, job_id).attempt == 1
    assert [line for _, line in history(database, job_id)] == [
        "queued",
        "paused",
        "resume_requested",
        "attempt_started",
    ]


def test_pausing_a_running_job_reaches_the_worker_and_costs_no_attempt(database: Database, job_id: str) -> None:
    for _ in range(3):
        mine = claimed(database, job_id)
        with database.write() as session:
            assert service.pause(session, job_id, now=NOW).state == "pausing"
        with database.write() as session:
            assert leases.record(session, mine, [], now=NOW, lease_seconds=LEASE) == "pausing"
            leases.confirm_pause(session, mine, now=NOW)
        assert job_of(database, job_id).state == "paused"
        with database.write() as session:
            service.resume(session, job_id, now=NOW)

    assert claimed(database, job_id).attempt == 1


def test_a_job_that_ends_while_it_is_to_be_paused_has_ended(database: Database, job_id: str) -> None:
    mine = claimed(database, job_id)
    with database.write() as session:
        service.pause(session, job_id, now=NOW)
    with database.write() as session:
        leases.succeed(session, mine, {}, now=NOW)

    assert job_of(database, job_id).state == "succeeded"


@pytest.mark.parametrize("counts", [True, False])
def test_a_job_given_back_while_it_is_to_be_paused_is_paused(database: Database, job_id: str, *, counts: bool) -> None:
    mine = claimed(database, job_id)
    with database.write() as session:
        service.pause(session, job_id, now=NOW)
    with database.write() as session:
        assert leases.release(session, mine, CRASH, counts=counts, now=NOW) == "paused"

    assert claim(database, job_id) is None


def test_a_job_to_be_paused_whose_worker_went_silent_is_paused(database: Database, job_id: str) -> None:
    claimed(database, job_id)
    with database.write() as session:
        service.pause(session, job_id, now=NOW)
    with database.write() as session:
        leases.fail_out_of_attempts(session, now=later(LEASE + 1))

    job = job_of(database, job_id)
    assert (job.state, job.finished_at) == ("paused", None)


def test_a_paused_job_can_be_cancelled_and_not_resumed_then(database: Database, job_id: str) -> None:
    with database.write() as session:
        service.pause(session, job_id, now=NOW)
    with database.write() as session:
        assert service.cancel(session, job_id, now=NOW).state == "cancelled"
    with pytest.raises(errors.Conflict, match="was cancelled already"), database.write() as session:
        service.resume(session, job_id, now=NOW)


def test_a_job_that_is_still_pausing_cannot_be_resumed_yet(database: Database, job_id: str) -> None:
    claimed(database, job_id)
    with database.write() as session:
        service.pause(session, job_id, now=NOW)
    with pytest.raises(errors.Conflict, match="is pausing; wait"), database.write() as session:
        service.resume(session, job_id, now=NOW)


def test_jobs_that_wait_are_rung_for_again_but_not_all_the_time(database: Database, job_id: str) -> None:
    def due(seconds: float) -> list[str]:
        with database.write() as session:
            return [job.job_id for job in leases.due(session, now=later(seconds), ring_again_seconds=10)]

    assert due(5) == []
    assert due(11) == [job_id]
    assert due(12) == []
    assert due(22) == [job_id]


def test_a_job_given_back_is_rung_for_at_once(database: Database, job_id: str) -> None:
    mine = claimed(database, job_id)
    with database.write() as session:
        leases.release(session, mine, CRASH, counts=True, now=NOW)
        assert [job.job_id for job in leases.due(session, now=NOW, ring_again_seconds=10)] == [job_id]


def test_a_transaction_that_fails_leaves_no_trace(database: Database, job_id: str) -> None:
    mine = claimed(database, job_id)

    def fail_at_the_end() -> None:
        with database.write() as session:
            leases.succeed(session, mine, {}, now=NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_at_the_end()

    assert job_of(database, job_id).state == "running"
    assert len(history(database, job_id)) == 2
