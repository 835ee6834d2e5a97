"""From a model version to another one with more labels, through real jobs."""

from app.backbones import catalogue
from app.datasets import service as datasets
from app.db import utc_now
from app.jobs import events, leases, service
from app.jobs.schemas import JobCreate
from app.jobs.tables import Job
from app.models import aliases, artifact
from app.models import service as models
from app.models.schemas import AliasPut
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.worker.conftest import Desk, on_sqlite
from worker import kinds, sweep
from worker.runner import Runner
from worker.train import train as carry_out
from worker.works import TrainWork


def submit(desk: Desk, dataset_id: str, **fields: object) -> Job:
    recipe = Recipe(**{"backbone": "formnet", "strategy": "head", **fields})  # type: ignore[arg-type]
    wanted = JobCreate(dataset=dataset_id, model="colours", recipe=recipe)
    with desk.database.write() as session:
        return service.submit_training(
            session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now()
        )


def train(desk: Desk, runner: Runner, dataset_id: str, **fields: object) -> Job:
    job = submit(desk, dataset_id, **fields)
    assert runner.run(job.id)
    return desk.job(job.id)


def imported(desk: Desk, runner: Runner, *, first_seed: int) -> str:
    """A data set of three labels."""
    job = desk.submit_import(factories.photos(classes=3, each=6, first_seed=first_seed))
    assert runner.run(job.id)
    return job.dataset_id


def delete(desk: Desk, dataset_id: str) -> None:
    with desk.database.write() as session:
        datasets.delete(session, dataset_id, revision=None, now=utc_now())


@on_sqlite
def test_a_third_label_joins_two_and_the_record_says_what_these_lost(
    desk: Desk, runner: Runner, dataset_id: str, files: Storage
) -> None:
    assert train(desk, runner, dataset_id).state == "succeeded"
    three = desk.submit_import(factories.photos(classes=3, each=10, first_seed=50))
    assert runner.run(three.id)
    job = train(desk, runner, three.dataset_id, base="colours", replay=True)
    assert job.state == "succeeded", job.error
    with desk.database.read() as session:
        version = models.find_version(session, "colours", 2)
        (told, *_) = [line for line in events.after(session, job.id, 0, limit=100) if line.type == "old_labels_judged"]
        start, learned = version.provenance["base"], version.provenance["learned"]
        first = models.find_version(session, "colours", 1).provenance["learned"]
        evaluation, version_id = version.evaluation, version.id
    assert (start["base"], start["fresh"]) == ("colours@1", ["blue"])
    assert {one["old"]: one["new"] for one in start["kept"]} == {"red": "red", "green": "green"}
    assert [one["images_of"] for one in evaluation["old_labels"]] == ["base", "version"]
    assert told.data == evaluation["old_labels"][0]
    assert told.data["forgotten"] <= 0.5
    stored = artifact.read(files.model_version(version_id))
    assert stored.plan["base"] == start
    assert stored.labels == ("blue", "green", "red")
    assert start["label_prior"] == "learned"
    assert learned == {"blue": 8, "green": 8 + first["green"], "red": 8 + first["red"]} == stored.provenance["learned"]

    delete(desk, dataset_id)
    later = train(desk, runner, three.dataset_id, base="colours@1")
    assert later.state == "succeeded", later.error
    with desk.database.read() as session:
        third = models.find_version(session, "colours", 3)
        judged, learned = third.evaluation["old_labels"], third.provenance["learned"]
        origin = models.origin(session, third)
    assert (origin.bases, (origin.weights or {})["name"]) == (("colours@1",), catalogue.find("formnet").weights[0].name)
    assert [one["images_of"] for one in judged] == ["version"]
    # Those of the base may be the same images, as nobody can say any more.
    assert learned == {"blue": 8, "green": max(8, first["green"]), "red": max(8, first["red"])}


@on_sqlite
def test_what_came_of_a_training_stands_in_the_plan_of_its_job(desk: Desk, runner: Runner, dataset_id: str) -> None:
    job = submit(desk, dataset_id, strategy="stage_probe", stage="best")
    assert not any("did best" in reason for reason in (job.plan or {})["reasons"])
    assert runner.run(job.id)
    (said,) = [reason for reason in (desk.job(job.id).plan or {})["reasons"] if "did best" in reason]
    assert said.startswith("Stage ")


def test_a_base_whose_files_are_damaged_is_named(desk: Desk, runner: Runner, dataset_id: str, files: Storage) -> None:
    assert train(desk, runner, dataset_id).state == "succeeded"
    with desk.database.read() as session:
        version_id = models.find_version(session, "colours", 1).id
    (files.model_version(version_id) / "labels.json").write_text("[]")
    job = train(desk, runner, dataset_id, base="colours@1")
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["code"] == "base_unavailable"
    assert "colours@1" in job.error["message"]


def test_a_training_that_runs_keeps_the_images_of_its_base_when_their_data_set_is_deleted(
    desk: Desk, runner: Runner, dataset_id: str, files: Storage, settings: Settings
) -> None:
    assert train(desk, runner, dataset_id).state == "succeeded"
    three = imported(desk, runner, first_seed=50)
    job = submit(desk, three, base="colours", replay=True)
    with desk.database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=600)
        assert claim is not None
        work: TrainWork = kinds.KINDS["train"].prepare(session, claim, settings, files)
    delete(desk, dataset_id)
    sweep.tidy(desk.database, files)
    outcome = carry_out(work, lambda _event: None)

    assert [one["images_of"] for one in outcome.evaluation["old_labels"]] == ["base", "version"]
    desk.cancel(job.id)
    with desk.database.write() as session:
        leases.confirm_cancel(session, claim, now=utc_now())
    sweep.tidy(desk.database, files)
    assert not files.dataset(dataset_id).exists()
    assert files.dataset(three).exists()


def test_a_training_that_waits_fails_with_the_reason_when_the_images_to_replay_are_deleted(
    desk: Desk, runner: Runner, dataset_id: str, files: Storage
) -> None:
    assert train(desk, runner, dataset_id).state == "succeeded"
    three = imported(desk, runner, first_seed=50)
    job = submit(desk, three, base="colours", replay=True)
    delete(desk, dataset_id)
    sweep.tidy(desk.database, files)
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "base_images_gone"
    assert "colours@1" in ended.error["message"]
    with desk.database.read() as session:
        assert models.find(session, "colours").latest_version == 1


def test_an_alias_that_is_removed_while_the_training_waits_changes_nothing(
    desk: Desk, runner: Runner, dataset_id: str
) -> None:
    assert train(desk, runner, dataset_id).state == "succeeded"
    with desk.database.write() as session:
        aliases.create(session, "colours", "production", AliasPut(version=1), now=utc_now())
    job = submit(desk, dataset_id, base="colours:production")
    with desk.database.write() as session:
        aliases.remove(session, "colours", "production", revision=None, now=utc_now())
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert ended.state == "succeeded", ended.error
    assert ended.spec["base"] == "colours@1"


def test_a_training_whose_base_was_deleted_as_it_was_queued_fails_with_the_reason(
    desk: Desk, runner: Runner, dataset_id: str
) -> None:
    assert train(desk, runner, dataset_id).state == "succeeded"
    job = submit(desk, dataset_id, base="colours")
    with desk.database.write() as session:
        model = models.hold(session, "colours")
        models.remove(session, model, models.find_version(session, "colours", 1), now=utc_now())
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert (ended.error["code"], ended.error["message"]) == ("model_version_deleted", "colours@1 was deleted")
