"""Plans over HTTP: a dry run at once, or the job that measures first."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.backbones import catalogue
from app.datasets import service as datasets
from app.datasets.service import NewVersion
from app.db import Database
from app.jobs import leases
from app.jobs import service as jobs
from app.jobs.leases import Failure
from app.profile import Costs, CurvePoint, Depth, Probe, Profile
from app.profiles import service as profiles
from tests.app.conftest import NOW, Bell
from tests.problems import problem

SHA256 = "5" * 64
PROBE = Probe(accuracy=0.9, log_loss=0.3, error=0.02)
DEPTH = Depth(name="head", features=1280, probe=PROBE, log_me=0.1, h_score=0.8, neighbours=0.85)


def profile(sha256: str = SHA256, *, images: int = 21) -> Profile:
    return Profile(
        backbone="mobilenet_v2",
        weights="IMAGENET1K_V1",
        weights_sha256=sha256,
        classes=2,
        images=images,
        smallest_class=7,
        largest_class=14,
        measured=images,
        depths=(DEPTH,),
        together=PROBE,
        curve=(CurvePoint(images=images, probe=PROBE),),
        random=(DEPTH,),
        random_images=images,
        reference=(),
        costs=Costs(decode=0.001, forward=0.01, step=0.04, device="cpu", threads=1, probe=0.2, probes=0.9),
    )


def wanted(dataset_id: str, *, measure: bool = False, **recipe: object) -> dict[str, object]:
    return {
        "dataset": dataset_id,
        "recipe": {"backbone": "mobilenet_v2", "strategy": "head", **recipe},
        "measure": measure,
    }


def measure(database: Database, job_id: str, found: Profile | None = None, *, days: int = 0) -> str:
    """What a worker does with the job when it has measured; the profile's id."""
    now = NOW + timedelta(days=days)
    with database.write() as session:
        claim = leases.claim(session, job_id, now=now, lease_seconds=30)
        assert claim is not None
        assert claim.kind == "analyse"
        version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
        choice = claim.spec["weights"]
        profile_id = profiles.record(session, version, found or profile(), choice=choice, job_id=job_id, now=now)
        leases.succeed(session, claim, {"profile": profile_id}, now=now)
    return profile_id


def fail(database: Database, job_id: str) -> None:
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        leases.fail(session, claim, Failure("weights_unavailable", "no usable weights", {}), now=NOW)


def asked(http: TestClient, body: dict[str, object], **headers: str) -> dict[str, Any]:
    """The job that a request to measure is answered with."""
    answer = http.post("/v1/plans", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def test_a_plan_is_that_of_a_training_and_starts_nothing(http: TestClient, versioned: str, bell: Bell) -> None:
    recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 4}
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": recipe})

    assert answer.status_code == 200
    made = answer.json()
    assert (made["dataset_id"], made["dataset_version"], made["profile"]) == (versioned, 1, None)
    assert bell.rung == []
    job = http.post("/v1/jobs", json={"dataset": versioned, "model": "insects", "recipe": recipe}).json()
    assert made["plan"] == job["plan"]


def test_a_version_that_was_not_measured_is_measured_once_for_all_who_ask(
    http: TestClient, versioned: str, bell: Bell, database: Database
) -> None:
    job = asked(http, wanted(versioned, measure=True))
    assert (job["kind"], job["state"], job["dataset_version"]) == ("analyse", "queued", 1)
    assert job["spec"] == {"backbone": "mobilenet_v2", "weights": "pretrained"}
    assert bell.rung[-1] == ("gpu", job["id"])
    same = wanted(versioned, measure=True, strategy="full", weights="IMAGENET1K_V1")
    assert asked(http, same)["id"] == job["id"]
    assert asked(http, wanted(versioned, measure=True, strategy="full", weights="none"))["id"] == job["id"]
    assert asked(http, wanted(versioned, measure=True, backbone="resnet18"))["id"] != job["id"]
    assert http.post("/v1/plans", json=wanted(versioned)).json()["profile"] is None

    profile_id = measure(database, job["id"])
    for body in (wanted(versioned, measure=True), wanted(versioned), same):
        answer = http.post("/v1/plans", json=body)
        assert answer.status_code == 200
        found = answer.json()["profile"]
        assert (found["id"], found["job_id"]) == (profile_id, job["id"])
    assert http.get(f"/v1/jobs/{job['id']}").json()["result"] == {"profile": profile_id}
    assert http.get(f"/v1/profiles/{profile_id}").json() == found
    assert found["figures"]["depths"][0]["probe"] == asdict(PROBE)
    assert found["figures"]["costs"]["step"] == 0.04


def test_what_decides_itself_is_measured_first_and_then_has_a_plan_with_its_evidence(
    http: TestClient, versioned: str, database: Database
) -> None:
    job = asked(http, wanted(versioned, strategy="auto", epochs=3))
    measure(database, job["id"])
    plan = http.post("/v1/plans", json=wanted(versioned, strategy="auto", epochs=3)).json()["plan"]
    assert (plan["strategy"], plan["quadrant"]["amount"]) in {("head", "little"), ("stage_probe", "little")}
    assert plan["quadrant"]["evidence"][0] in plan["reasons"]
    assert 0 <= plan["expected"]["low"] <= plan["expected"]["high"] <= 1
    assert plan["estimate"]["seconds"] > 0
    assert "left out: epochs" in " ".join(plan["reasons"])
    by_hand = http.post("/v1/plans", json=wanted(versioned, strategy="full", epochs=3)).json()["plan"]
    assert (by_hand["strategy"], by_hand["descent"]["epochs"]) == ("full", 3)
    assert by_hand["quadrant"] == plan["quadrant"]
    assert by_hand["estimate"]["seconds"] > plan["estimate"]["seconds"]


def test_of_many_who_ask_at_the_same_moment_one_makes_the_job(versioned: str, database: Database) -> None:
    def ask(_number: int) -> str:
        with database.write() as session:
            version, backbone = datasets.find_version(session, versioned, 1), catalogue.find("mobilenet_v2")
            job = jobs.submit_analysis(session, version, backbone, choice="pretrained", max_attempts=1, now=NOW)
            return job.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_measuring_that_came_to_nothing_is_done_anew(
    http: TestClient, versioned: str, database: Database, how: str
) -> None:
    first = asked(http, wanted(versioned, measure=True))["id"]
    if how == "failed":
        fail(database, first)
    else:
        http.post(f"/v1/jobs/{first}/cancel")

    second = asked(http, wanted(versioned, measure=True))["id"]
    assert second != first
    assert http.get(f"/v1/jobs/{first}").json()["state"] == how
    assert asked(http, wanted(versioned, measure=True))["id"] == second


def test_who_asks_for_what_is_paused_sets_it_going_again(http: TestClient, versioned: str, bell: Bell) -> None:
    job_id = asked(http, wanted(versioned, measure=True))["id"]
    assert http.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "paused"
    again = asked(http, wanted(versioned, measure=True))
    assert (again["id"], again["state"]) == (job_id, "queued")
    assert bell.rung[-1] == ("gpu", job_id)


def test_who_asks_for_what_is_being_cancelled_gets_another_job(
    http: TestClient, versioned: str, database: Database
) -> None:
    first = asked(http, wanted(versioned, measure=True))["id"]
    with database.write() as session:
        claim = leases.claim(session, first, now=NOW, lease_seconds=30)
        assert claim is not None
    assert http.post(f"/v1/jobs/{first}/cancel").json()["state"] == "cancelling"

    second = asked(http, wanted(versioned, measure=True))["id"]
    assert second != first
    assert asked(http, wanted(versioned, measure=True))["id"] == second
    with database.write() as session:
        leases.confirm_cancel(session, claim, now=NOW)
    assert asked(http, wanted(versioned, measure=True))["id"] == second


def test_who_asks_for_what_is_being_paused_is_told_to_wait_and_sets_it_going_again_then(
    http: TestClient, versioned: str, database: Database
) -> None:
    job_id = asked(http, wanted(versioned, measure=True))["id"]
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
    assert http.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "pausing"

    told = problem(http.post("/v1/plans", json=wanted(versioned, measure=True)), 409)
    assert (told["code"], told["state"]) == ("job_in_other_state", "pausing")
    with database.write() as session:
        leases.confirm_pause(session, claim, now=NOW)
    again = asked(http, wanted(versioned, measure=True))
    assert (again["id"], again["state"]) == (job_id, "queued")


def test_a_request_to_measure_repeated_with_its_key_is_answered_with_its_job(
    http: TestClient, versioned: str, database: Database
) -> None:
    key = {"Idempotency-Key": "k"}
    first = asked(http, wanted(versioned, measure=True), **key)["id"]
    fail(database, first)

    assert asked(http, wanted(versioned, measure=True), **key)["id"] == first
    other = http.post("/v1/plans", json=wanted(versioned), headers=key)
    assert problem(other, 422)["code"] == "idempotency_key_reused"


def test_with_its_key_too_a_request_is_answered_with_the_plan_once_it_is_measured(
    http: TestClient, versioned: str, database: Database
) -> None:
    key = {"Idempotency-Key": "k"}
    body = wanted(versioned, measure=True)
    job_id = asked(http, body, **key)["id"]
    assert asked(http, body, **key)["id"] == job_id

    profile_id = measure(database, job_id)
    answer = http.post("/v1/plans", json=body, headers=key)
    assert answer.status_code == 200
    assert answer.json()["profile"]["id"] == profile_id


def test_a_key_stands_for_what_its_request_needs_next(http: TestClient, versioned: str, database: Database) -> None:
    key = {"Idempotency-Key": "k"}
    body = wanted(versioned, measure=True)
    first = asked(http, body, **key)["id"]
    with database.write() as session:
        claim = leases.claim(session, first, now=NOW, lease_seconds=30)
        assert claim is not None
        leases.succeed(session, claim, {}, now=NOW)  # and yet there is no profile

    second = asked(http, body, **key)["id"]
    assert second != first
    assert asked(http, body, **key)["id"] == second


def test_the_newest_profile_counts_and_the_same_weights_have_one(
    http: TestClient, versioned: str, database: Database
) -> None:
    def recorded(found: Profile, days: int) -> str:
        with database.write() as session:
            version = datasets.find_version(session, versioned, 1)
            now = NOW + timedelta(days=days)
            return profiles.record(session, version, found, choice="pretrained", job_id=job_id, now=now)

    job_id = asked(http, wanted(versioned, measure=True))["id"]
    first = recorded(profile(), 0)
    other = recorded(profile("6" * 64), 1)
    assert other != first
    assert http.post("/v1/plans", json=wanted(versioned)).json()["profile"]["id"] == other
    assert recorded(profile(images=20), 2) == first
    found = http.post("/v1/plans", json=wanted(versioned)).json()["profile"]
    assert (found["id"], found["figures"]["images"]) == (first, 20)


@pytest.mark.parametrize(
    ("images", "measured", "says_labels", "status"),
    [
        (75_000, 2_000, False, 202),
        (75_000, 2_000, True, 200),  # of how many labels, which may be null
        (75_000, 2_020, False, 200),  # 20 of each
        (1_500, 1_500, False, 200),  # no sample
    ],
)
def test_what_was_measured_on_a_few_images_of_each_of_many_labels_is_measured_anew_once(
    http: TestClient, versioned: str, database: Database, images: int, measured: int, says_labels: bool, status: int
) -> None:
    body = wanted(versioned, strategy="auto")
    found = replace(profile(images=images), classes=101, measured=measured)
    profile_id = measure(database, asked(http, body)["id"], found)
    with database.write() as session:
        row = profiles.find(session, profile_id)
        row.body = {name: value for name, value in row.body.items() if says_labels or name != "measured_labels"}

    answer = http.post("/v1/plans", json=body)
    assert answer.status_code == status
    if status == 202:
        assert answer.json()["kind"] == "analyse"
        assert measure(database, answer.json()["id"], found) == profile_id
        assert http.post("/v1/plans", json=body).status_code == 200


def test_a_profile_that_is_measured_anew_names_the_version_that_its_job_was_for(
    http: TestClient, versioned: str, database: Database
) -> None:
    measure(database, asked(http, wanted(versioned, measure=True))["id"])
    copy: str = http.post("/v1/datasets", json={"name": "copy"}).json()["id"]
    with database.write() as session:
        archive = jobs.Archive("imp_2", None, 10, "0" * 64)
        _, job = jobs.submit_import(session, copy, archive, max_attempts=1, now=NOW)
        counts = {"ants": {"train": 14, "validation": 6}, "bees": {"train": 7, "validation": 3}}
        version = NewVersion(1, ("ants", "bees"), counts, 30, "0" * 64, "v1-copy")
        datasets.add_version(session, "imp_2", copy, version, accepted=30, ignored=0, now=NOW)
        measured_again = datasets.find_version(session, copy, 1)
        profiles.record(session, measured_again, profile(), choice="pretrained", job_id=job.id, now=NOW)
    found = http.post("/v1/plans", json=wanted(versioned)).json()["profile"]
    assert (found["job_id"], found["dataset_id"], found["dataset_version"]) == (job.id, copy, 1)


def test_a_profile_is_found_by_what_it_was_asked_for_and_by_the_weights_that_it_was_made_with(
    http: TestClient, versioned: str, database: Database
) -> None:
    def found(weights: str) -> str:
        answer = http.post("/v1/plans", json=wanted(versioned, measure=True, weights=weights))
        assert answer.status_code == 200, answer.text
        profile_id: str = answer.json()["profile"]["id"]
        return profile_id

    # All that there is at the worker is a file of the second set, which stands in for the first.
    stand_in = replace(profile(), weights="IMAGENET1K_V2")
    first = measure(database, asked(http, wanted(versioned, measure=True))["id"], stand_in)
    assert found("pretrained") == found("IMAGENET1K_V2") == first
    job = asked(http, wanted(versioned, measure=True, weights="IMAGENET1K_V1"))
    second = measure(database, job["id"], profile("6" * 64), days=1)
    assert found("IMAGENET1K_V1") == second
    assert found("IMAGENET1K_V2") == first


@pytest.mark.parametrize("choices", [("IMAGENET1K_V2", "pretrained"), ("pretrained", "IMAGENET1K_V2")])
def test_a_profile_of_weights_by_their_name_is_not_measured_in_vain_for_those_they_stand_in_for(
    http: TestClient, versioned: str, database: Database, choices: tuple[str, str]
) -> None:
    stand_in = replace(profile(), weights="IMAGENET1K_V2")
    # Both are asked for before either is measured.
    jobs = [asked(http, wanted(versioned, measure=True, weights=choice))["id"] for choice in choices]
    for job_id in jobs:
        measure(database, job_id, stand_in)
    for choice in choices:
        assert http.post("/v1/plans", json=wanted(versioned, measure=True, weights=choice)).status_code == 200


def test_a_backbone_without_weights_cannot_be_measured(http: TestClient, versioned: str) -> None:
    body = wanted(versioned, measure=True, backbone="tinynet", strategy="full", weights="none")
    assert problem(http.post("/v1/plans", json=body), 422)["code"] == "backbone_has_no_weights"


def test_what_makes_no_training_makes_no_plan(http: TestClient, versioned: str) -> None:
    def code(body: dict[str, object], status: int) -> str:
        told: str = problem(http.post("/v1/plans", json=body), status)["code"]
        return told

    empty = http.post("/v1/datasets", json={"name": "empty"}).json()["id"]
    assert code(wanted(versioned, backbone="resnet81"), 422) == "unknown_backbone"
    assert code(wanted(versioned, weights="IMAGENET_V2", measure=True), 422) == "unknown_weights"
    assert code({**wanted(versioned), "version": 7}, 404) == "version_not_found"
    assert code(wanted("ds_none"), 404) == "dataset_not_found"
    assert code(wanted(empty, measure=True), 409) == "dataset_has_no_version"
    assert code({**wanted(versioned), "model": "insects"}, 422) == "invalid_request"
    assert problem(http.get("/v1/profiles/prf_none"), 404)["code"] == "profile_not_found"


@pytest.fixture
def few(http: TestClient, database: Database) -> str:
    """A data set of three labels, of which only one has more than a single training image."""
    dataset_id: str = http.post("/v1/datasets", json={"name": "few"}).json()["id"]
    counts = {"ants": {"train": 1, "validation": 1}, "bees": {"train": 5, "validation": 1}}
    counts["wasps"] = counts["ants"]
    version = NewVersion(1, tuple(counts), counts, 10, "1" * 64, "v1-first")
    with database.write() as session:
        datasets.add_version(session, "imp_few", dataset_id, version, accepted=10, ignored=0, now=NOW)
    return dataset_id


def test_with_too_few_images_to_measure_what_decides_itself_has_its_plan_at_once(
    http: TestClient, few: str, bell: Bell
) -> None:
    plan = http.post("/v1/plans", json=wanted(few, strategy="auto", epochs=3)).json()["plan"]
    assert (plan["strategy"], plan["quadrant"], plan["expected"]) == ("head", None, None)
    assert plan["reasons"][0] == (
        "Nothing can be measured: that takes 2 training images of each of 2 labels at least, and 1 of 3 labels has as "
        "many; so the layers stay as they are, which is right for little data."
    )
    assert plan["reasons"][-1] == "Not for strategy 'head', and so left out: epochs."
    assert bell.rung == []
    asked_for = {"dataset": few, "model": "insects", "recipe": wanted(few, strategy="auto", epochs=3)["recipe"]}
    assert http.post("/v1/jobs", json=asked_for).json()["plan"] == plan


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/plans", {"recipe": {"backbone": "mobilenet_v2"}, "measure": True}),
        ("/v1/plans", {"recipe": {"backbone": "auto"}}),
        ("/v1/jobs", {"kind": "rank"}),
        ("/v1/jobs", {"kind": "rank", "candidates": [{"backbone": "formnet"}]}),
    ],
)
def test_what_too_few_images_cannot_tell_is_refused_with_how_many_it_takes(
    http: TestClient, few: str, bell: Bell, path: str, body: dict[str, object]
) -> None:
    document = problem(http.post(path, json={"dataset": few, **body}), 422)
    assert document["code"] == "too_few_images"
    assert (document["labels"], document["labels_with_enough_images"]) == (3, 1)
    assert (document["labels_needed"], document["images_needed"]) == (2, 2)
    assert bell.rung == []
    assert http.get(f"/v1/jobs?dataset={few}").json()["data"] == []


def test_a_training_that_is_to_choose_its_backbone_is_taken_also_with_few_images(http: TestClient, few: str) -> None:
    refused = problem(http.post("/v1/plans", json={"dataset": few, "recipe": {"backbone": "auto"}}), 422)
    assert refused["errors"][0]["location"] == ["body", "recipe", "backbone"]
    assert "a training takes the cheapest one at hand" in refused["detail"]
    answer = http.post("/v1/jobs", json={"dataset": few, "model": "insects", "recipe": {"backbone": "auto"}})
    assert answer.status_code == 202
    assert answer.json()["plan"] is None
