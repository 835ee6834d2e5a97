"""Jobs whose processes are killed: by somebody, or by the system as memory runs out."""

import pytest

from app.controlgroups import ControlGroups
from app.db import utc_now
from app.jobs import events, leases
from app.settings import Settings
from tests.worker.conftest import Desk
from tests.worker.test_runner import MANY_EPOCHS, job_processes, running, until
from worker import kinds
from worker.runner import Runner


def test_a_job_killed_once_goes_on_and_succeeds_at_the_second_attempt(
    desk: Desk, runner: Runner, dataset_id: str
) -> None:
    job = desk.submit_training(dataset_id, epochs=12)
    with running(runner, job.id):
        until(lambda: "checkpoint_saved" in desk.history(job.id))
        for process in job_processes():
            process.kill()
    assert desk.job(job.id).state == "queued"
    runner.run(job.id)

    ended = desk.job(job.id)
    assert (ended.state, ended.attempt) == ("succeeded", 2)
    history = desk.history(job.id)
    assert "attempt_ended" in history
    assert "resumed" in history
    assert history.count("epoch_finished") < 24
    assert "batch_split" not in history


def test_a_job_killed_twice_goes_on_with_less_memory(desk: Desk, runner: Runner, dataset_id: str) -> None:
    """As the system kills it when memory runs out."""
    job = desk.submit_training(dataset_id, epochs=12, max_attempts=3)
    for kills in (1, 2):
        with running(runner, job.id):
            until(lambda kills=kills: desk.history(job.id).count("checkpoint_saved") >= 2 * kills)  # type: ignore[misc]
            for process in job_processes():
                process.kill()
    runner.run(job.id)

    assert desk.job(job.id).state == "succeeded"
    history = desk.history(job.id)
    assert history.count("attempt_ended") == 2
    assert len(history) - history[::-1].index("attempt_started") < history.index("batch_split")
    assert history.count("batch_split") == 1


def test_a_job_that_the_system_killed_for_memory_goes_on_with_less_at_once(
    desk: Desk, runner: Runner, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(ControlGroups, "memory_kills", lambda _groups: len(counted))
    job = desk.submit_training(dataset_id, epochs=12)
    with running(runner, job.id):
        until(lambda: "checkpoint_saved" in desk.history(job.id))
        for process in job_processes():
            counted.append(process.pid)
            process.kill()
    runner.run(job.id)

    assert desk.job(job.id).state == "succeeded"
    with desk.database.read() as session:
        (ended,) = events.of_types(session, job.id, [leases.ATTEMPT_ENDED])
    assert ended.data["detail"] == {"signal": "SIGKILL", "out_of_memory": True}
    assert ended.data["message"] == "the job's process was ended by SIGKILL; the memory ran out"
    assert desk.history(job.id).count("batch_split") == 1


@pytest.mark.parametrize(
    ("kills", "count"),
    [
        ([], 0),
        ([False], 0),
        ([None, False], 1),
        ([True], 1),
        ([True, False], 1),
        ([False, True, False], 2),
        ([True, True], 2),
    ],
)
def test_of_attempts_that_were_killed_for_reasons_unknown_one_may_have_been_by_hand(
    desk: Desk, dataset_id: str, settings: Settings, kills: list[bool | None], count: int
) -> None:
    job = desk.submit_training(dataset_id, epochs=1, max_attempts=9)
    with desk.database.write() as session:
        for kill in kills:
            claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
            assert claim is not None
            # Versions of old said no more than the signal.
            detail = {"signal": "SIGKILL"} | ({} if kill is None else {"out_of_memory": kill})
            leases.release(session, claim, leases.Failure("process_killed", "", detail), counts=True, now=utc_now())
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        work = kinds.KINDS["train"].prepare(session, claim, settings, desk.files)
    assert work.memory_kills == count


def test_a_job_killed_at_every_attempt_fails_and_says_so(desk: Desk, runner: Runner, dataset_id: str) -> None:
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS, max_attempts=1)
    with running(runner, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        for process in job_processes():
            process.kill()

    ended = desk.job(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "process_killed"
    assert "memory" in ended.error["message"]
