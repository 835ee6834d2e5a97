"""From a model version to another one with more labels, through real jobs."""

from app.datasets import service as datasets
from app.db import utc_now
from app.jobs import events, service
from app.jobs.schemas import JobCreate
from app.jobs.tables import Job
from app.models import artifact
from app.models import service as models
from app.recipe import Recipe
from app.storage import Storage
from tests import factories
from tests.worker.conftest import Desk, on_sqlite
from worker.runner import Runner


def train(desk: Desk, runner: Runner, dataset_id: str, **fields: object) -> Job:
    recipe = Recipe(**{"backbone": "formnet", "strategy": "head", **fields})  # type: ignore[arg-type]
    wanted = JobCreate(dataset=dataset_id, model="colours", recipe=recipe)
    with desk.database.write() as session:
        job = service.submit_training(session, wanted, max_attempts=1, now=utc_now())
    assert runner.run(job.id)
    return desk.job(job.id)


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
        start = version.provenance["base"]
        evaluation, version_id = version.evaluation, version.id
    assert (start["base"], start["fresh"]) == ("colours@1", ["blue"])
    assert {one["old"]: one["new"] for one in start["kept"]} == {"red": "red", "green": "green"}
    assert [one["images_of"] for one in evaluation["old_labels"]] == ["base", "version"]
    assert told.data == evaluation["old_labels"][0]
    assert told.data["forgotten"] <= 0.5
    stored = artifact.read(files.model_version(version_id))
    assert stored.plan["base"] == start
    assert stored.labels == ("blue", "green", "red")

    with desk.database.write() as session:
        datasets.delete(session, dataset_id, revision=None, now=utc_now())
    later = train(desk, runner, three.dataset_id, base="colours@1")
    assert later.state == "succeeded", later.error
    with desk.database.read() as session:
        judged = models.find_version(session, "colours", 3).evaluation["old_labels"]
    assert [one["images_of"] for one in judged] == ["version"]


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
