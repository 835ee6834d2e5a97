"""Strategy `auto`, from the job to the model: measured, decided, told, carried out."""

from app.db import Database, utc_now
from app.jobs import service
from app.jobs.schemas import JobCreate
from app.models import artifact
from app.models import service as models
from app.recipe import Recipe
from app.storage import Storage
from tests import factories
from tests.worker.conftest import Desk, on_sqlite
from worker.runner import Runner


@on_sqlite
def test_a_training_measures_decides_and_tells(desk: Desk, runner: Runner, dataset_id: str, files: Storage) -> None:
    wanted = JobCreate(dataset=dataset_id, model="colours", recipe=Recipe(backbone="formnet", epochs=3))
    with desk.database.write() as session:
        job = service.submit_training(
            session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now()
        )
    assert job.plan is None

    assert runner.run(job.id)

    done = desk.job(job.id)
    assert done.state == "succeeded", done.error
    assert done.plan is not None
    assert done.plan["quadrant"]["amount"] == "little"
    assert done.plan["strategy"] in ("head", "stage_probe", "full")
    assert 0 <= done.plan["expected"]["low"] <= done.plan["expected"]["high"] <= 1
    assert done.plan["estimate"]["seconds"] > 0
    history = desk.history(job.id)
    assert history.index("profiled") < history.index("planned") < history.index("evaluated")
    stored = artifact.read(files.model_version(newest_version(desk.database, "colours")))
    assert stored.plan["quadrant"] == done.plan["quadrant"]


def newest_version(database: Database, name: str) -> str:
    with database.read() as session:
        return models.find_version(session, name, None).id
