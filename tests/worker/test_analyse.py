"""Analyses in real processes: a version and a backbone become a profile."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from app import errors
from app.backbones import catalogue
from app.datasets import service as datasets
from app.db import Database, utc_now
from app.jobs import leases
from app.jobs.tables import Job
from app.plans import service as plans
from app.plans.schemas import PlanCreate
from app.plans.service import Planned
from app.profile import HEAD, Profile
from app.profiles import service as profiles
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app.planned import profile
from tests.worker.conftest import Desk, on_sqlite
from tests.worker.test_runner import files_left
from worker import kinds
from worker.runner import Runner

PROFILE = TypeAdapter(Profile)


@on_sqlite
def test_a_version_is_measured_and_the_job_names_its_profile(
    desk: Desk, runner: Runner, dataset_id: str, database: Database, settings: Settings, files: Storage
) -> None:
    assert settings.weights_dir is not None
    digest = factories.write_weights(settings.weights_dir)
    job = desk.submit_analysis(dataset_id)
    runner.run(job.id)

    ended = desk.job(job.id)
    assert ended.state == "succeeded", ended.error
    assert ended.result is not None
    with database.read() as session:
        row = profiles.find(session, ended.result["profile"])
        version = datasets.find_version(session, dataset_id, 1)
        assert profiles.newest(session, version, catalogue.find(factories.SMALL), choice="pretrained") is row
    found = PROFILE.validate_python(row.body)
    train = [counts["train"] for counts in version.counts.values()]
    assert (found.images, found.smallest_class, found.classes) == (sum(train), min(train), 2)
    assert (found.weights, found.weights_sha256) == ("r160_in1k", digest)
    assert found.depths[-1].name == found.random[-1].name == HEAD
    assert found.depth(HEAD).probe.accuracy == 1.0
    assert desk.history(job.id)[-2:] == ["profiled", "succeeded"]
    assert files_left(files) == []


def test_a_file_of_other_weights_that_stands_in_for_pretrained_is_measured_once_and_known_then(
    desk: Desk, dataset_id: str, files: Storage
) -> None:
    job = planned(desk, dataset_id)
    assert isinstance(job, Job)
    with desk.database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=30)
        assert claim is not None
        measured = replace(profile(), weights="IMAGENET1K_V2")
        kinds.KINDS["analyse"].publish(session, claim, measured, files, utc_now())

    found = planned(desk, dataset_id)
    assert isinstance(found, Planned)
    assert found.profile is not None
    assert found.profile.body["weights"] == "IMAGENET1K_V2"


def planned(desk: Desk, dataset_id: str) -> Planned | Job:
    """What a request for a plan of `auto` is answered with."""
    wanted = PlanCreate(dataset=dataset_id, recipe=Recipe(backbone="mobilenet_v2"))
    with desk.database.write() as session:
        return plans.plan(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now())


def test_without_weights_it_fails_with_every_place_that_was_tried(desk: Desk, runner: Runner, dataset_id: str) -> None:
    job = desk.submit_analysis(dataset_id)
    runner.run(job.id)

    error = desk.job(job.id).error
    assert error is not None
    assert error["code"] == "weights_unavailable"
    assert "formnet" in error["detail"]["at_hand"]
    assert error["message"].endswith(f"; those at hand are of {', '.join(error['detail']['at_hand'])}")


def test_a_version_with_hardly_any_images_is_not_queued_to_be_measured(desk: Desk, runner: Runner) -> None:
    imported = desk.submit_import(factories.photos(each=2))
    runner.run(imported.id)
    with pytest.raises(errors.Invalid) as refused:
        desk.submit_analysis(imported.dataset_id)
    assert refused.value.code == "too_few_images"


def test_an_analysis_of_a_deleted_dataset_fails_with_the_reason(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    job = desk.submit_analysis(dataset_id)
    with database.write() as session:
        datasets.delete(session, dataset_id, revision=None, now=utc_now())
    runner.run(job.id)

    error = desk.job(job.id).error
    assert error is not None
    assert error["code"] == "dataset_not_found"


def test_what_was_measured_is_kept_where_the_dataset_was_deleted_meanwhile(
    desk: Desk, dataset_id: str, database: Database, files: Storage
) -> None:
    job = desk.submit_analysis(dataset_id)
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=30)
        assert claim is not None
        datasets.delete(session, dataset_id, revision=None, now=utc_now())
    with database.write() as session:
        kinds.KINDS["analyse"].publish(session, claim, profile(), files, utc_now())
    ended = desk.job(job.id)
    assert ended.state == "succeeded"
    assert ended.result is not None
    assert ended.result["profile"].startswith("prf")
