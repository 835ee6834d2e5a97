"""Rankings in real processes: candidates become a ranking, and trainings choose their backbone by one."""

from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.backbones import catalogue
from app.datasets import service as datasets
from app.db import Database, utc_now
from app.facts import VersionFacts
from app.jobs import leases, retries, service
from app.jobs.leases import Failure
from app.jobs.schemas import Candidate, JobCreate, RankingCreate
from app.jobs.tables import Job
from app.limits import Budget
from app.plan import resolve
from app.plans import service as plans
from app.plans.schemas import PlanCreate
from app.ranking import OUT_OF_MEMORY, Ranking
from app.rankings import service as rankings
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app.conftest import NOW
from tests.app.ranked import FOUND, ranked
from tests.worker.conftest import Desk, on_sqlite
from tests.worker.test_auto import newest_version
from worker import kinds, places
from worker.places import Places
from worker.rank import at_hand
from worker.runner import Runner


@pytest.fixture(autouse=True)
def _no_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is at hand is what the test has put there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def submit(desk: Desk, dataset_id: str, *candidates: Candidate) -> Job:
    wanted = RankingCreate(kind="rank", dataset=dataset_id, candidates=list(candidates) or None)
    with desk.database.write() as session:
        return service.submit(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now())


def read(database: Database, job: Job) -> Ranking:
    assert job.state == "succeeded", job.error
    assert job.result is not None
    with database.read() as session:
        return rankings.figures(rankings.find(session, job.result["ranking"]))


def train(
    desk: Desk, runner: Runner, dataset_id: str, budget: Budget | None = None, *, freeze: str | None = None
) -> Job:
    recipe = Recipe(backbone="auto", budget=budget, epochs=1, freeze=freeze)
    wanted = JobCreate(dataset=dataset_id, model="colours", recipe=recipe)
    with desk.database.write() as session:
        job = service.submit(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now())
    runner.run(job.id)
    return desk.job(job.id)


@on_sqlite
def test_backbones_and_own_models_are_ranked_and_what_is_missing_is_told(
    desk: Desk, runner: Runner, dataset_id: str, settings: Settings, database: Database
) -> None:
    assert settings.weights_dir is not None
    factories.write_weights(settings.weights_dir)
    runner.run(desk.submit_training(dataset_id, epochs=1, model="mine").id)
    job = submit(
        desk,
        dataset_id,
        *(Candidate(backbone=name) for name in ("formnet", factories.SMALL, "resnet18", "tinynet")),
        Candidate(model="mine"),
        Candidate(model="mine", version=1),
        Candidate(model="yours"),
    )
    runner.run(job.id)

    ended = desk.job(job.id)
    found = read(database, ended)
    assert {entry.name for entry in found.measured} == {"formnet", factories.SMALL, "mine@1"}
    assert {entry.name: entry.code for entry in found.refused} == {
        "resnet18": "weights_unavailable",
        "tinynet": "weights_unavailable",
        "yours": "model_not_found",
    }
    assert ended.result is not None
    # Not the model, whose layers were trained on these images, wherever it stands.
    assert ended.result["best"] == found.best.name == next(one.name for one in found.measured if one.name != "mine@1")
    assert found.setting.machine
    by_name = {entry.name: entry for entry in found.measured}
    assert {name: entry.has_seen for name, entry in by_name.items()} == {
        "formnet": False,
        factories.SMALL: False,
        "mine@1": True,
    }
    assert by_name["formnet"].cost.macs == round(1e9 * (catalogue.find("formnet").gmac or 0))
    history = desk.history(job.id)
    assert history.count("candidate_measured") == history.count("candidate_refused") == 3
    assert history[-2:] == ["ranked", "succeeded"]


@on_sqlite
def test_an_own_network_is_counted_with_a_classifier_for_the_labels_that_are_ranked_on(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    wanted = JobCreate(dataset=dataset_id, model="mine", recipe=Recipe(backbone="formnet", strategy="head"))
    with desk.database.write() as session:
        trained = service.submit(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now())
    assert runner.run(trained.id)
    three = desk.submit_import(factories.photos(classes=3, each=10, first_seed=500))
    assert runner.run(three.id)
    job = submit(desk, three.dataset_id, Candidate(backbone="formnet"), Candidate(model="mine"))
    runner.run(job.id)

    costs = {entry.name: entry.cost for entry in read(database, desk.job(job.id)).measured}
    of_backbone, own = costs["formnet"], costs["mine@1"]
    assert (own.parameters, own.size_bytes) == (of_backbone.parameters, of_backbone.size_bytes)


@on_sqlite
def test_a_classifier_on_fixed_features_has_seen_what_its_base_has(
    desk: Desk, runner: Runner, dataset_id: str, settings: Settings, database: Database
) -> None:
    assert settings.weights_dir is not None
    factories.write_weights(settings.weights_dir)
    recipes = {
        "fixed": Recipe(backbone="formnet", strategy="head"),
        "tuned": Recipe(backbone="formnet", strategy="full", epochs=1),
        "fixed-on-tuned": Recipe(backbone="formnet", strategy="head", base="tuned@1"),
    }
    for model, recipe in recipes.items():
        with desk.database.write() as session:
            wanted = JobCreate(dataset=dataset_id, model=model, recipe=recipe)
            trained = service.submit(
                session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now()
            )
        assert runner.run(trained.id)
    job = submit(desk, dataset_id, *(Candidate(model=model) for model in recipes))
    runner.run(job.id)

    seen = {entry.name: entry.has_seen for entry in read(database, desk.job(job.id)).measured}
    assert seen == {"fixed@1": False, "tuned@1": True, "fixed-on-tuned@1": True}


@on_sqlite
def test_layers_that_were_trained_on_the_replayed_images_of_a_base_have_seen_them(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    other = desk.submit_import(factories.photos(each=10, first_seed=500))
    assert runner.run(other.id)
    head = Recipe(backbone="formnet", strategy="head")
    full = Recipe(backbone="formnet", strategy="full", epochs=1, base="fixed@1")
    trainings = (
        ("fixed", dataset_id, head),
        ("replayed", other.dataset_id, replace(full, replay=True)),
        ("alone", other.dataset_id, full),
        ("fixed-replayed", other.dataset_id, replace(head, base="fixed@1", replay=True)),
    )
    for model, trained_on, recipe in trainings:
        with desk.database.write() as session:
            wanted = JobCreate(dataset=trained_on, model=model, recipe=recipe)
            trained = service.submit(
                session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now()
            )
        assert runner.run(trained.id)
    job = submit(desk, dataset_id, *(Candidate(model=model) for model, _, _ in trainings))
    runner.run(job.id)

    ranked = read(database, desk.job(job.id))
    assert {entry.name: entry.has_seen for entry in ranked.measured} == {
        "fixed@1": False,
        "replayed@1": True,
        "alone@1": False,
        "fixed-replayed@1": False,
    }


def test_where_no_weights_are_at_hand_the_job_fails_with_the_reason_of_each(
    desk: Desk, runner: Runner, dataset_id: str
) -> None:
    job = submit(desk, dataset_id, Candidate(backbone="resnet18"))
    runner.run(job.id)
    error = desk.job(job.id).error
    assert error is not None
    assert (error["code"], error["detail"]["refused"]) == ("nothing_to_rank", {"resnet18": "weights_unavailable"})


def test_a_training_chooses_its_backbone_by_a_ranking_that_is_kept(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    done = train(desk, runner, dataset_id)

    assert done.state == "succeeded", done.error
    assert done.plan is not None
    assert done.plan["backbone"] == "formnet"  # the one in the box, as no others are at hand
    assert done.plan["reasons"][0].startswith("Backbone formnet: first of 1")
    history = desk.history(done.id)
    assert history.index("ranked") < history.index("profiled") < history.index("planned")
    with database.read() as session:
        version = datasets.find_version(session, dataset_id, 1)
        kept = rankings.newest_of_all(session, version)
        assert kept is not None
        assert kept.job_id == done.id
    assert newest_version(database, "colours")
    # Another one finds the ranking and the profile.
    assert not {"ranked", "profiled"} & {*desk.history(train(desk, runner, dataset_id).id)}


@on_sqlite
def test_a_ranking_of_other_networks_than_those_at_hand_is_made_anew(
    desk: Desk, runner: Runner, dataset_id: str, settings: Settings, database: Database
) -> None:
    runner.run(submit(desk, dataset_id).id)
    assert settings.weights_dir is not None
    factories.write_weights(settings.weights_dir, backbone="squeezenet1_1")
    done = train(desk, runner, dataset_id)
    assert done.state == "succeeded", done.error
    assert "ranked" in desk.history(done.id)


@on_sqlite
def test_a_network_whose_damaged_file_is_mended_is_ranked(
    desk: Desk, runner: Runner, dataset_id: str, settings: Settings, files: Storage
) -> None:
    assert settings.weights_dir is not None
    factories.write_weights(settings.weights_dir, backbone="squeezenet1_1")
    (path,) = settings.weights_dir.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])

    def planned() -> plans.Planned | Job:
        now = utc_now()
        wanted = PlanCreate(dataset=dataset_id, recipe=Recipe(backbone="auto"))
        with desk.database.write() as session:
            here = places.of(settings, files).weights_at_hand()
            leases.saw_worker(session, "worker_1", ["gpu"], weights=here, started_at=now, now=now)
            return plans.plan(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=now)

    first = submit(desk, dataset_id)
    runner.run(first.id)
    (refused,) = read(desk.database, desk.job(first.id)).refused
    assert (refused.name, refused.code) == ("squeezenet1_1", "weights_unavailable")
    waiting = planned()
    assert isinstance(waiting, Job)
    assert waiting.kind == "analyse"
    assert "ranked" not in desk.history(train(desk, runner, dataset_id).id)

    path.write_bytes(whole)
    again = planned()
    assert isinstance(again, Job)
    assert again.kind == "rank"
    runner.run(again.id)
    assert {one.name for one in read(desk.database, desk.job(again.id)).measured} == {"squeezenet1_1", "formnet"}


@pytest.mark.parametrize(("hours", "counts"), [(5, True), (7, False)])
def test_the_age_of_a_ranking_without_a_network_that_had_no_room_goes_by_the_clock_of_the_database(
    desk: Desk, dataset_id: str, settings: Settings, *, hours: int, counts: bool
) -> None:
    full = replace(FOUND, refused=tuple(replace(one, code=OUT_OF_MEMORY) for one in FOUND.refused))
    ranked(desk.database, submit(desk, dataset_id).id, found=full)
    wanted = JobCreate(dataset=dataset_id, model="colours", recipe=Recipe(backbone="auto"))
    with desk.database.write() as session:
        job = service.submit(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=NOW)
        claim = leases.claim(session, job.id, now=NOW + timedelta(hours=hours), lease_seconds=30)
        assert claim is not None
        work = kinds.KINDS["train"].prepare(session, claim, settings, desk.files)
    assert (work.ranking is not None) == counts


@on_sqlite
def test_a_budget_that_none_fits_ends_the_training_and_says_so(desk: Desk, runner: Runner, dataset_id: str) -> None:
    error = train(desk, runner, dataset_id, Budget(size_bytes=1_000_000)).error
    assert error is not None
    assert error["code"] == "no_backbone_fits"
    assert "formnet has 7.6 MB of values, of at most 1 MB" in error["message"]


@on_sqlite
def test_a_stage_that_no_backbone_at_hand_has_ends_the_training_and_says_so(
    desk: Desk, runner: Runner, dataset_id: str
) -> None:
    error = train(desk, runner, dataset_id, freeze="patches").error
    assert error is not None
    assert error["code"] == "no_backbone_fits"
    assert "formnet has no stage patches" in error["message"]


@on_sqlite
def test_a_training_whose_chosen_weights_went_away_chooses_others_when_it_is_retried(
    desk: Desk, runner: Runner, few: str, database: Database
) -> None:
    wanted = JobCreate(dataset=few, model="colours", recipe=Recipe(backbone="auto"))
    chosen = Recipe(backbone="squeezenet1_1", strategy="head")  # whose weights are not here any more
    facts = VersionFacts(classes=2, train_images=2, validation_images=2, smallest_class=1)
    plan = asdict(resolve(chosen, facts, catalogue.find("squeezenet1_1").facts))
    with database.write() as session:
        job = service.submit(session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now())
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=30)
        assert claim is not None
        leases.record(session, claim, [], plan=plan, now=utc_now(), lease_seconds=30)
        leases.release(session, claim, Failure("worker_stopped", "stopped", {}), counts=False, now=utc_now())
    runner.run(job.id)
    failed = desk.job(job.id)
    assert failed.error is not None
    assert failed.error["code"] == "weights_unavailable"
    assert "formnet" in failed.error["detail"]["at_hand"]

    with database.write() as session:
        retries.retry(session, job.id, now=utc_now())
    runner.run(job.id)
    again = desk.job(job.id)
    assert again.state == "succeeded", again.error
    assert again.plan is not None
    assert again.plan["backbone"] == "formnet"


@pytest.fixture
def few(desk: Desk, runner: Runner) -> str:
    """A data set with one training image of each of two labels."""
    job = desk.submit_import(factories.photos(each=2))
    assert runner.run(job.id)
    return job.dataset_id


@on_sqlite
def test_with_too_few_images_to_rank_the_cheapest_network_is_taken_and_the_plan_says_why(
    desk: Desk, runner: Runner, few: str, settings: Settings
) -> None:
    done = train(desk, runner, few)
    assert done.state == "succeeded", done.error
    assert done.plan is not None
    assert (done.plan["backbone"], done.plan["strategy"]) == ("formnet", "head")
    first, second = done.plan["reasons"][:2]
    assert first.startswith("Backbone formnet: nothing can be measured: that takes 2 training images")
    assert second.startswith("Nothing can be measured")
    assert not {"ranked", "profiled"} & {*desk.history(done.id)}

    # It does more multiply-adds, but was pre-trained on photographs.
    assert settings.weights_dir is not None
    factories.write_weights(settings.weights_dir, backbone="squeezenet1_1")
    later = train(desk, runner, few)
    assert later.state == "succeeded", later.error
    assert later.plan is not None
    assert later.plan["backbone"] == "squeezenet1_1"
    frozen = train(desk, runner, few, freeze="stage4")
    assert frozen.plan is not None
    assert frozen.plan["backbone"] == "formnet"
    assert frozen.plan["reasons"][1] == "squeezenet1_1 comes before it, but has no stage stage4."
    within = train(desk, runner, few, Budget(macs=200_000_000))
    assert within.plan is not None
    assert within.plan["backbone"] == "formnet"
    assert within.plan["reasons"][1].startswith("squeezenet1_1 comes before it, but does")
    error = train(desk, runner, few, Budget(size_bytes=1_000_000)).error
    assert error is not None
    assert error["code"] == "no_backbone_fits"


def test_at_hand_are_the_networks_whose_files_are_there(tmp_path: Path, files: Storage) -> None:
    here = Places(files.features(), tmp_path / "weights", download_weights=False, max_image_pixels=10**6)
    assert [entry.name for entry in at_hand(here)] == ["formnet"]
    factories.write_weights(tmp_path / "weights", backbone="squeezenet1_1")
    assert [entry.name for entry in at_hand(here)] == ["squeezenet1_1", "formnet"]
