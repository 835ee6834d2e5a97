"""A training that starts from a model version, as it is asked for over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.datasets import service as datasets
from app.datasets.service import NewVersion
from app.db import Database
from app.jobs import service
from app.models import service as models
from app.models.service import NewModelVersion
from tests.app.conftest import NOW
from tests.problems import problem


@pytest.fixture
def base(http: TestClient, database: Database, versioned: str) -> str:
    """Version 1 of a model of bees and wasps, with the network whose weights come along."""
    recipe = {"backbone": "formnet", "strategy": "head"}
    job = http.post("/v1/jobs", json={"dataset": versioned, "model": "insects", "recipe": recipe}).json()
    register(database, job["id"], versioned, labels=("wasps", "bees"))
    return "insects@1"


def register(database: Database, job_id: str, dataset_id: str, **fields: Any) -> None:
    facts: dict[str, Any] = {
        "version_id": models.new_version_id(),
        "model_name": "insects",
        "job_id": job_id,
        "dataset_id": dataset_id,
        "dataset_version": 1,
        "backbone": "formnet",
        "strategy": "head",
        "evaluation": {"accuracy": 1.0},
        "provenance": {"backbone": {"outlet": {"stage": None, "taps": []}}},
        **fields,
    }
    with database.write() as session:
        models.register(session, NewModelVersion(**facts), now=NOW)


def asked(dataset_id: str, **recipe: object) -> dict[str, object]:
    given = {"backbone": "formnet", "strategy": "head", "base": "insects", **recipe}
    return {"dataset": dataset_id, "model": "insects", "recipe": given}


def test_the_base_is_pinned_and_its_labels_are_matched_by_name(http: TestClient, versioned: str, base: str) -> None:
    answer = http.post("/v1/jobs", json=asked(versioned))
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["spec"]["base"] == base
    assert job["plan"]["weights"] == "base"
    assert job["plan"]["base"]["base"] == base
    assert job["plan"]["base"]["kept"] == [{"old": "bees", "new": "bees"}]
    assert (job["plan"]["base"]["fresh"], job["plan"]["base"]["dropped"]) == (["ants"], ["wasps"])


def test_what_decides_itself_has_its_plan_at_once(http: TestClient, versioned: str, base: str) -> None:
    plan = http.post("/v1/jobs", json=asked(versioned, strategy="auto")).json()["plan"]
    assert plan["strategy"] == "head"
    dry = http.post("/v1/plans", json={"dataset": versioned, "recipe": asked(versioned, strategy="auto")["recipe"]})
    assert dry.json()["plan"] == plan


@pytest.mark.parametrize(
    ("recipe", "prior"),
    [
        ({}, "learned"),
        ({"strategy": "auto", "balance": "weights"}, "learned"),  # which is not for the head that this comes to
        ({"strategy": "full", "balance": "sampler"}, "training"),
        ({"strategy": "full", "balance": "none"}, "learned"),
        ({"label_prior": "training"}, "training"),
        ({"strategy": "auto", "balance": "weights", "label_prior": "learned"}, "learned"),
    ],
)
def test_how_frequent_old_labels_are_taken_to_be_is_the_recipes_choice(
    http: TestClient, versioned: str, base: str, recipe: dict[str, object], prior: str
) -> None:
    plan = http.post("/v1/jobs", json=asked(versioned, **recipe)).json()["plan"]
    assert plan["base"]["label_prior"] == prior
    said = [reason for reason in plan["reasons"] if reason.endswith("(label_prior).")]
    assert len(said) == (prior == "learned")


def test_a_renamed_label_is_mapped(http: TestClient, versioned: str, base: str) -> None:
    plan = http.post("/v1/jobs", json=asked(versioned, label_map={"wasps": "ants"})).json()["plan"]
    assert plan["base"]["kept"] == [{"old": "wasps", "new": "ants"}, {"old": "bees", "new": "bees"}]


def few(http: TestClient, database: Database) -> str:
    """Another data set: one bee, and more ants."""
    dataset_id: str = http.post("/v1/datasets", json={"name": "few"}).json()["id"]
    with database.write() as session:
        service.submit_import(
            session, dataset_id, service.Archive("imp_2", None, 10, "1" * 64), max_attempts=1, now=NOW
        )
        counts = {"ants": {"train": 9, "validation": 2}, "bees": {"train": 1, "validation": 1}}
        version = NewVersion(1, ("ants", "bees"), counts, 13, "1" * 64, "v1-second")
        datasets.add_version(session, "imp_2", dataset_id, version, accepted=13, ignored=0, now=NOW)
    return dataset_id


def test_the_plan_goes_by_the_images_that_are_replayed_too(
    http: TestClient, database: Database, versioned: str, base: str
) -> None:
    def planned(dataset_id: str, **recipe: object) -> dict[str, Any]:
        wanted = asked(dataset_id, base=base, **recipe)["recipe"]
        found: dict[str, Any] = http.post("/v1/plans", json={"dataset": dataset_id, "recipe": wanted}).json()["plan"]
        return found

    other = few(http, database)
    alone, together = planned(other), planned(other, replay=True)
    assert alone["l2_grid"] == [1.0]  # of a single bee there is nothing to cross-validate with
    assert (len(together["l2_grid"]) > 1, together["folds"]) == (True, 5)
    assert "too few to cross-validate" not in " ".join(together["reasons"])
    assert "about 7 images, which count above" in together["reasons"][-1]  # those of bees: the base knows no ants
    assert planned(other, strategy="full", replay=True)["descent"]["batch_size"] == (9 + 1 + 7) // 8
    assert planned(other, strategy="full")["descent"]["batch_size"] == 2
    # Of the data set that the base is from, the version has them already.
    assert "count above" not in planned(versioned, replay=True)["reasons"][-1]


@pytest.mark.parametrize(
    ("recipe", "status", "code", "field"),
    [
        ({"base": "insect@1"}, 404, "model_not_found", "base"),
        ({"base": "insects@7"}, 404, "model_version_not_found", "base"),
        ({"base": "insects@"}, 404, "model_not_found", "base"),
        ({"backbone": "squeezenet1_1"}, 422, "base_of_other_backbone", "base"),
        ({"label_map": {"wasp": "ants"}}, 422, "unknown_label", "label_map"),
        ({"label_map": {"wasps": "ant"}}, 422, "unknown_label", "label_map"),
        ({"label_map": {"wasps": "bees"}}, 422, "label_map_ambiguous", "label_map"),
    ],
)
def test_a_base_that_cannot_be_started_from_is_a_problem_of_its_own_at_the_field(
    http: TestClient, versioned: str, base: str, recipe: dict[str, object], status: int, code: str, field: str
) -> None:
    document = problem(http.post("/v1/jobs", json=asked(versioned, **recipe)), status)
    assert document["code"] == code
    (place,) = document["errors"]
    assert (place["location"], place["code"]) == (["body", "recipe", field], code)


@pytest.mark.parametrize(
    ("recipe", "code"),
    [({"base": "insects@9"}, "model_version_not_found"), ({"label_map": {"wasp": "ants"}}, "unknown_label")],
)
def test_what_no_data_set_would_make_right_of_a_base_is_said_before_one_is_looked_for(
    http: TestClient, versioned: str, base: str, recipe: dict[str, object], code: str
) -> None:
    assert http.post("/v1/jobs", json=asked("", **recipe)).json()["code"] == code
    assert http.post("/v1/jobs", json=asked("")).json()["code"] == "dataset_not_found"


def test_a_wrong_name_is_answered_with_the_nearest_models(http: TestClient, versioned: str, base: str) -> None:
    document = problem(http.post("/v1/jobs", json=asked(versioned, base="insect")), 404)
    assert document["nearest"] == ["insects"]
    assert "did you mean insects?" in document["detail"]


def test_a_base_that_knows_none_of_the_labels_is_refused(
    http: TestClient, database: Database, versioned: str, base: str
) -> None:
    job = http.post("/v1/jobs", json=asked(versioned)).json()
    register(database, job["id"], versioned, labels=("cats", "dogs"))
    document = problem(http.post("/v1/jobs", json=asked(versioned, base="insects@2")), 422)
    assert (document["code"], document["old"]) == ("no_common_labels", ["cats", "dogs"])
    assert document["errors"][0]["location"] == ["body", "recipe", "base"]


def test_layers_of_a_network_whose_classifier_sees_several_stages_are_not_trained(
    http: TestClient, database: Database, versioned: str, base: str
) -> None:
    job = http.post("/v1/jobs", json=asked(versioned)).json()
    stages = [stage["name"] for stage in http.get("/v1/backbones/formnet").json()["stages"]]
    outlet = {"stage": None, "taps": stages[:2]}
    register(database, job["id"], versioned, labels=("ants", "bees"), provenance={"backbone": {"outlet": outlet}})
    document = problem(http.post("/v1/jobs", json=asked(versioned, base="insects@2", strategy="full")), 422)
    assert document["code"] == "base_of_several_stages"
    plan = http.post("/v1/jobs", json=asked(versioned, base="insects@2")).json()["plan"]
    assert [one["stage"] for one in plan["treatments"]] == [*stages[:2], "head"]


@pytest.mark.parametrize(("stage", "last"), [(None, "pre_logits"), ("conv_head", "conv_head")])
def test_a_base_that_ends_behind_a_stage_has_no_layers_between_that_and_the_head(
    stage: str | None, last: str, http: TestClient, database: Database, versioned: str, base: str
) -> None:
    job = http.post("/v1/jobs", json=asked(versioned)).json()
    provenance: dict[str, Any] = {"backbone": {"outlet": {"stage": stage, "taps": []}}}
    fields: dict[str, Any] = {"backbone": "mobilenet_v3_small", "labels": ("ants", "bees"), "provenance": provenance}
    register(database, job["id"], versioned, **fields)
    answer = http.post("/v1/jobs", json=asked(versioned, backbone="mobilenet_v3_small", base="insects@2"))
    assert [one["stage"] for one in answer.json()["plan"]["treatments"]][-2:] == [last, "head"]


def test_a_base_whose_classifier_also_sees_the_head_has_all_stages(
    http: TestClient, database: Database, versioned: str, base: str
) -> None:
    job = http.post("/v1/jobs", json=asked(versioned)).json()
    stages = [stage["name"] for stage in http.get("/v1/backbones/mobilenet_v3_small").json()["stages"]]
    provenance: dict[str, Any] = {"backbone": {"outlet": {"stage": None, "taps": [stages[0], stages[2], "head"]}}}
    fields: dict[str, Any] = {"backbone": "mobilenet_v3_small", "labels": ("ants", "bees"), "provenance": provenance}
    register(database, job["id"], versioned, **fields)
    answer = http.post("/v1/jobs", json=asked(versioned, backbone="mobilenet_v3_small", base="insects@2"))
    assert [one["stage"] for one in answer.json()["plan"]["treatments"]] == [*stages, "pre_logits", "head"]


def test_images_of_a_deleted_data_set_cannot_be_replayed(
    http: TestClient, database: Database, versioned: str, base: str
) -> None:
    other = http.post("/v1/datasets", json={"name": "gone"}).json()["id"]
    job = http.post("/v1/jobs", json=asked(versioned)).json()
    register(database, job["id"], other, labels=("ants", "bees"))
    etag = http.get(f"/v1/datasets/{other}").headers["etag"]
    assert http.delete(f"/v1/datasets/{other}", headers={"If-Match": etag}).status_code == 204
    wanted = asked(versioned, base="insects@2", replay=True)
    document = problem(http.post("/v1/jobs", json=wanted), 409)
    assert document["code"] == "base_images_gone"
    assert document["errors"][0]["location"] == ["body", "recipe", "replay"]
    accepted = http.post("/v1/jobs", json=asked(versioned, base="insects@2"))
    assert accepted.status_code == 202
    assert not any("replay" in reason for reason in accepted.json()["plan"]["reasons"])


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"base": None, "replay": True}, "body.recipe.replay: only with a base"),
        ({"base": None, "label_map": {"a": "b"}}, "body.recipe.label_map: only with a base"),
        ({"base": None, "label_prior": "training"}, "body.recipe.label_prior: only with a base"),
        (
            {"strategy": "full", "balance": "weights", "label_prior": "learned"},
            "body.recipe.label_prior: balance 'weights' trains with all labels alike frequent",
        ),
        ({"label_prior": "even"}, "body.recipe.label_prior: Input should be 'learned' or 'training'"),
        ({"weights": "pretrained"}, "body.recipe.weights: a base brings values of its own"),
        ({"strategy": "stage_probe"}, "body.recipe.base: not for strategy 'stage_probe'"),
        ({"strategy": "scratch"}, "body.recipe.base: not for strategy 'scratch'"),
        ({"strategy": "full", "reinit": "head"}, "body.recipe.reinit: a base's classifier is kept"),
    ],
)
def test_a_recipe_that_contradicts_its_base_is_refused(
    http: TestClient, versioned: str, recipe: dict[str, object], said: str
) -> None:
    document = problem(http.post("/v1/jobs", json=asked(versioned, **recipe)), 422)
    assert said in document["detail"]
