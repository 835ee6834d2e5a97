"""Control runs from the request to the verdict, carried out by a worker."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from app.db import Database, utc_now
from app.experiments import service
from app.experiments.schemas import ExperimentCreate
from app.experiments.verdict import ARMS, Arm
from app.jobs import events, leases
from app.jobs import service as service_of_jobs
from app.jobs.tables import JobEvent
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.worker.conftest import Desk
from worker.forkserver import Forkserver
from worker.runner import Runner
from worker.sweep import Sweeper


def test_probe_fine_tuning_and_scratch_give_curves_and_a_verdict(
    desk: Desk, database: Database, files: Storage, settings: Settings, forkserver: Forkserver, dataset_id: str
) -> None:
    wanted = ExperimentCreate(
        dataset=dataset_id,
        model="control",
        backbone="formnet",
        fine_tune=Recipe(backbone="formnet", strategy="full", epochs=2),
        scratch=Recipe(backbone="formnet", strategy="scratch", epochs=2),
    )
    with desk.database.write() as session:
        row, queued = service.create(
            session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now()
        )
        experiment_id, job_ids = row.id, [job.id for job in queued]
    optimising = Runner(database, files, settings.model_copy(update={"optimise_after_training": True}), forkserver)
    for job_id in job_ids:
        assert optimising.run(job_id)

    with desk.database.read() as session:
        waiting = service_of_jobs.newest_first(session, state="queued", dataset=None, limit=9, after=None)
    assert list(waiting) == []  # what is there to be compared is not optimised
    with desk.database.read() as session:
        found = service.read(session, service.find(session, experiment_id))
    assert found.has_ended
    assert [arm.state for arm in found.arms.values()] == ["succeeded"] * 3
    assert [[point.epoch for point in arm.curve] for arm in found.arms.values()] == [[0], [0, 1, 2], [1, 2]]
    assert [arm.model_version for arm in found.arms.values()] == [1, 1, 1]
    with desk.database.read() as session:
        passes = [_features(events.after(session, job_id, 0, limit=1000)) for job_id in job_ids[:2]]
    assert [one["cached"] for one in passes] == [False, True]
    assert passes[0]["pass_seconds"] == pytest.approx(passes[1]["pass_seconds"], abs=0.001)
    assert found.arms["fine_tune"].curve[0].seconds > passes[1]["pass_seconds"]
    assert found.verdict is not None
    assert {arm: read.also_chosen_by for arm, read in found.arms.items()} == {
        "probe": False,
        "fine_tune": True,
        "scratch": False,
    }
    assert found.verdict.reasons[-1].startswith("Of fine-tuning several networks were at hand")
    # Four images or so can tell next to nothing.
    assert found.verdict.finding in ("faster", "no_difference")
    assert not any(difference.is_shown for difference in found.verdict.differences)
    for difference in found.verdict.differences:
        assert difference.first_only is not None
        assert difference.second_only is not None
        images = found.arms[difference.first].images
        assert images is not None
        assert round(difference.accuracy * images) == difference.first_only - difference.second_only


def test_a_network_without_weights_at_hand_does_not_keep_the_worker_busy_with_scratch(
    desk: Desk, runner: Runner, dataset_id: str
) -> None:
    jobs = _queued(desk, dataset_id, backbone="resnet18")
    assert [runner.run(jobs[arm]) for arm in ("probe", "fine_tune", "scratch")] == [True, True, False]
    assert [desk.job(job_id).state for job_id in jobs.values()] == ["failed", "failed", "cancelled"]


def test_runs_are_called_off_where_the_worker_of_one_that_the_verdict_needs_went_silent(
    desk: Desk, database: Database, files: Storage, settings: Settings, forkserver: Forkserver, dataset_id: str
) -> None:
    jobs = _queued(desk, dataset_id, backbone="formnet")
    with database.write() as session:
        assert leases.claim(session, jobs["fine_tune"], now=utc_now() - timedelta(hours=1), lease_seconds=1)
    Sweeper(database, files, settings, Silent(), ["cpu"], forkserver).sweep()
    assert [desk.job(job_id).state for job_id in jobs.values()] == ["cancelled", "failed", "cancelled"]


class Silent:
    """A bell that nobody hears."""

    def ring(self, queue: str, job_id: str) -> None:
        del queue, job_id


def _queued(desk: Desk, dataset_id: str, *, backbone: str) -> Mapping[Arm, str]:
    wanted = ExperimentCreate(dataset=dataset_id, model="control", backbone=backbone)
    with desk.database.write() as session:
        row, _ = service.create(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now())
        return {arm: row.arms[arm] for arm in ARMS}


def _features(history: Iterable[JobEvent]) -> Mapping[str, Any]:
    return next(line.data for line in history if line.type == "features_ready")
