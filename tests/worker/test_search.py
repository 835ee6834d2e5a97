"""A search, from the job to the model: through real processes, also where these are killed or paused."""

from dataclasses import replace

import pytest

from app.db import Database, utc_now
from app.jobs import events, service
from app.jobs.schemas import JobCreate
from app.jobs.tables import Job, JobEvent
from app.limits import Search
from app.models import artifact
from app.recipe import Recipe
from app.storage import Storage
from tests import factories
from tests.worker.conftest import Desk, on_sqlite
from tests.worker.test_auto import newest_version
from tests.worker.test_runner import files_left, job_processes, running, until
from worker.runner import Runner

RECIPE = Recipe(backbone="tinynet", strategy="scratch", epochs=2, batch_size=8, search=Search(trials=4))


def submit(desk: Desk, dataset_id: str, recipe: Recipe = RECIPE, *, max_attempts: int = 3) -> Job:
    wanted = JobCreate(dataset=dataset_id, model="colours", recipe=recipe)
    with desk.database.write() as session:
        return service.submit_training(
            session, wanted, max_activation_bytes=factories.ROOM, max_attempts=max_attempts, now=utc_now()
        )


def told(database: Database, job_id: str, kind: str) -> list[JobEvent]:
    with database.read() as session:
        return [event for event in events.after(session, job_id, 0, limit=1000) if event.type == kind]


def trials(database: Database, job_id: str) -> list[dict[str, object]]:
    """What each trial came to, but for the time it took."""
    found = [event.data for event in told(database, job_id, "trial_finished")]
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in found]


def test_a_search_tries_tells_and_publishes_what_it_keeps(
    desk: Desk, runner: Runner, dataset_id: str, database: Database, files: Storage
) -> None:
    job = submit(desk, dataset_id)
    assert runner.run(job.id)

    done = desk.job(job.id)
    assert done.state == "succeeded", done.error
    assert [trial["number"] for trial in trials(database, job.id)] == [1, 2, 3, 4]
    (ended,) = told(database, job.id, "search_ended")
    assert ended.data["trials"] == 4
    stored = artifact.read(files.model_version(newest_version(database, "colours")))
    assert all(reason in stored.plan["reasons"] for reason in ended.data["reasons"])
    assert done.result is not None
    kept = next(trial for trial in trials(database, job.id) if trial["number"] == ended.data["kept"])
    assert done.result["accuracy"] == stored.evaluation["accuracy"] == kept["accuracy"]
    assert files_left(files) == []


@on_sqlite
def test_a_search_that_is_killed_and_paused_goes_on_to_the_same_end(
    desk: Desk, runner: Runner, dataset_id: str, database: Database, files: Storage
) -> None:
    whole = submit(desk, dataset_id)
    runner.run(whole.id)
    job = submit(desk, dataset_id)
    with running(runner, job.id):
        until(lambda: "trial_finished" in desk.history(job.id))
        for process in job_processes():
            process.kill()
    with running(runner, job.id):
        until(lambda: desk.history(job.id).count("trial_finished") >= 2)
        with database.write() as session:
            service.pause(session, job.id, now=utc_now())
    paused = desk.job(job.id).state
    if paused == "paused":
        with database.write() as session:
            service.resume(session, job.id, now=utc_now())
        runner.run(job.id)

    assert desk.job(job.id).state == "succeeded", desk.job(job.id).error
    by_number = {trial["number"]: trial for trial in trials(database, job.id)}
    assert list(by_number.values()) == trials(database, whole.id)
    assert files_left(files) == []


@on_sqlite
@pytest.mark.parametrize("when", ["epoch_finished", "trial_finished"])
def test_the_last_attempt_after_a_lost_one_ends_with_the_first_result_there_is(
    when: str, desk: Desk, runner: Runner, dataset_id: str, database: Database, files: Storage
) -> None:
    job = submit(desk, dataset_id, replace(RECIPE, search=Search(trials=1000)), max_attempts=2)
    with running(runner, job.id):
        until(lambda: when in desk.history(job.id))
        for process in job_processes():
            process.kill()
    before = len(trials(database, job.id))
    runner.run(job.id)

    assert desk.job(job.id).state == "succeeded", desk.job(job.id).error
    (ended,) = told(database, job.id, "search_ended")
    assert ended.data["reason"] == "its process was lost before and no further attempt is left"
    assert 1 <= ended.data["trials"] <= max(before, 1)
    assert newest_version(database, "colours")
    assert files_left(files) == []


@on_sqlite
def test_a_pause_is_no_lost_attempt(desk: Desk, runner: Runner, dataset_id: str, database: Database) -> None:
    job = submit(desk, dataset_id, replace(RECIPE, search=Search(trials=1000)), max_attempts=1)
    with running(runner, job.id):
        until(lambda: "trial_finished" in desk.history(job.id))
        with database.write() as session:
            service.pause(session, job.id, now=utc_now())
    assert desk.job(job.id).state == "paused"
    before = max(one.data["number"] for one in told(database, job.id, "trial_finished"))
    with database.write() as session:
        service.resume(session, job.id, now=utc_now())
    with running(runner, job.id):
        until(lambda: max(one.data["number"] for one in told(database, job.id, "trial_finished")) > before)
        with database.write() as session:
            service.finish(session, job.id, now=utc_now())

    (ended,) = told(database, job.id, "search_ended")
    assert ended.data["reason"] == "it was asked for what it had"


@on_sqlite
def test_a_search_that_is_to_finish_publishes_the_best_so_far(
    desk: Desk, runner: Runner, dataset_id: str, database: Database, files: Storage
) -> None:
    job = submit(desk, dataset_id, replace(RECIPE, search=Search(trials=1000)))
    with running(runner, job.id):
        until(lambda: "trial_finished" in desk.history(job.id))
        with database.write() as session:
            service.finish(session, job.id, now=utc_now())

    assert desk.job(job.id).state == "succeeded", desk.job(job.id).error
    (ended,) = told(database, job.id, "search_ended")
    assert ended.data["reason"] == "it was asked for what it had"
    assert ended.data["trials"] < 1000
    assert newest_version(database, "colours")
    assert files_left(files) == []


@on_sqlite
def test_auto_searches_with_what_it_has_measured(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    job = submit(desk, dataset_id, Recipe(backbone="formnet", epochs=1, search=Search(trials=3)))
    assert runner.run(job.id)

    done = desk.job(job.id)
    assert done.state == "succeeded", done.error
    assert done.plan is not None
    history = desk.history(job.id)
    assert history.index("planned") < history.index("trial_started")
    first, *others = told(database, job.id, "trial_started")
    assert first.data["settings"]["strategy"] == done.plan["strategy"]
    assert first.data["expected_seconds"] > 0
    assert len(others) == 2


@on_sqlite
def test_a_time_too_short_for_more_is_the_first_trials(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    job = submit(
        desk, dataset_id, Recipe(backbone="tinynet", strategy="scratch", epochs=2, search=Search(seconds=0.01))
    )
    assert runner.run(job.id)

    assert desk.job(job.id).state == "succeeded"
    (ended,) = told(database, job.id, "search_ended")
    assert (ended.data["trials"], ended.data["reason"]) == (1, "the time is up")
    (cut,) = told(database, job.id, "cut_short")
    assert cut.data["epochs"] == 2
