"""Experiments over HTTP: what is queued, what is refused, what they tell before and after they have ended."""

from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.experiments import service
from app.jobs import leases
from app.jobs.events import Line
from app.jobs.leases import Failure
from app.models import service as models
from app.models.service import NewModelVersion
from tests.app.conftest import NOW, Bell
from tests.problems import problem


def wanted(dataset_id: str, **changes: object) -> dict[str, object]:
    return {"dataset": dataset_id, "model": "control", "backbone": "formnet", **changes}


def created(http: TestClient, dataset_id: str, **changes: object) -> dict[str, Any]:
    answer = http.post("/v1/experiments", json=wanted(dataset_id, **changes))
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/experiments/{found['id']}"
    return found


def end(
    database: Database, arm: dict[str, Any], accuracies: list[float], *, images: int = 200, keeps_right: bool = True
) -> None:
    """What a worker does with an arm's job: an epoch every ten seconds, then a model, right for the first images."""
    right = "1" * round(accuracies[-1] * images)
    kept = {"right": f"{int(right.ljust(images, '0'), 2):0{images // 4}x}"} if keeps_right else {}
    with database.write() as session:
        claim = leases.claim(session, arm["job_id"], now=NOW, lease_seconds=3600)
        assert claim is not None
        for epoch, accuracy in enumerate(accuracies, 1):
            data = {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": 1.0}
            now = NOW + timedelta(seconds=10 * epoch)
            leases.record(session, claim, [Line("epoch_finished", data)], now=now, lease_seconds=3600)
        new = NewModelVersion(
            version_id=models.new_version_id(),
            model_name=arm["model"],
            job_id=arm["job_id"],
            dataset_id=claim.dataset_id,
            dataset_version=1,
            backbone="formnet",
            strategy="full",
            labels=("ants", "bees"),
            evaluation={"images": images, "accuracy": accuracies[-1], **kept},
            provenance={},
        )
        models.register(session, new, now=NOW)
        leases.succeed(session, claim, {}, now=NOW + timedelta(seconds=10 * len(accuracies) + 1))


def test_all_runs_are_queued_on_the_same_version(http: TestClient, versioned: str, bell: Bell) -> None:
    found = created(http, versioned)
    assert list(found["arms"]) == ["probe", "fine_tune", "scratch"]
    assert [arm["model"] for arm in found["arms"].values()] == [
        "control-probe",
        "control-fine-tune",
        "control-scratch",
    ]
    jobs = [http.get(f"/v1/jobs/{arm['job_id']}").json() for arm in found["arms"].values()]
    assert [job["spec"]["strategy"] for job in jobs] == ["head", "full", "scratch"]
    assert {job["dataset_version"] for job in jobs} == {1}
    assert bell.rung == [("gpu", job["id"]) for job in jobs]
    assert found["verdict"] is None
    assert found["has_ended"] is False


def test_the_verdict_is_there_once_all_have_ended(http: TestClient, versioned: str, database: Database) -> None:
    found = created(http, versioned)
    end(database, found["arms"]["probe"], [0.8])
    end(database, found["arms"]["fine_tune"], [0.7, 0.9])
    half = http.get(f"/v1/experiments/{found['id']}").json()
    assert half["verdict"] is None
    assert half["arms"]["fine_tune"]["curve"][1]["accuracy"] == 0.9
    end(database, found["arms"]["scratch"], [0.2, 0.3, 0.4])

    whole = http.get(f"/v1/experiments/{found['id']}").json()
    assert whole["has_ended"]
    assert whole["verdict"]["finding"] == "higher"
    assert whole["verdict"]["speed_up"] == pytest.approx(3)
    assert whole["arms"]["scratch"]["interval"]["low"] < 0.4 < whole["arms"]["scratch"]["interval"]["high"]
    assert whole["arms"]["scratch"]["seconds"] == 31


@pytest.mark.parametrize(
    ("keeps_right", "finding", "only"), [(True, "higher", (12, 0)), (False, "faster", (None, None))]
)
def test_runs_are_compared_on_the_same_images_where_it_is_known_which_were_right(
    http: TestClient,
    versioned: str,
    database: Database,
    keeps_right: bool,
    finding: str,
    only: tuple[int | None, int | None],
) -> None:
    found = created(http, versioned, arms=["fine_tune", "scratch"])
    end(database, found["arms"]["fine_tune"], [0.9, 0.9], keeps_right=keeps_right)
    end(database, found["arms"]["scratch"], [0.2, 0.84], keeps_right=keeps_right)
    verdict = http.get(f"/v1/experiments/{found['id']}").json()["verdict"]
    assert verdict["finding"] == finding
    (difference,) = verdict["differences"]
    assert difference["accuracy"] == pytest.approx(0.06)
    assert (difference["first_only"], difference["second_only"]) == only
    assert (difference["interval"]["low"] > 0) is keeps_right


def test_the_chart_is_a_picture_at_every_time(http: TestClient, versioned: str, database: Database) -> None:
    found = created(http, versioned)
    address = f"/v1/experiments/{found['id']}/chart.svg"
    empty = http.get(address)
    assert empty.headers["content-type"] == "image/svg+xml"
    ElementTree.fromstring(empty.text)
    for arm, accuracies in (("probe", [0.8]), ("fine_tune", [0.7, 0.9]), ("scratch", [0.2, 0.3, 0.4])):
        end(database, found["arms"][arm], accuracies)
    picture = ElementTree.fromstring(http.get(address).text)
    lines = picture.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 6
    assert http.get(address).text.count("Pre-training raised the final score") == 2
    page = http.get(f"/v1/experiments/{found['id']}", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert f'src="{found["id"]}/chart.svg?reasons=false"' in page.text
    bare = http.get(address, params={"reasons": "false"})
    assert bare.text.count("Pre-training raised the final score") == 1  # as what describes the picture
    same = http.get(f"/v1/experiments/{found['id']}", params={"format": "json"}, headers={"Accept": "text/html"})
    assert same.json()["has_ended"] is True


def test_runs_that_have_begun_say_what_their_plan_has(http: TestClient, versioned: str) -> None:
    arms = created(http, versioned)["arms"]
    assert [arm["strategy"] for arm in arms.values()] == ["head", "full", "scratch"]
    assert arms["probe"]["epochs"] is None
    plans = [http.get(f"/v1/jobs/{arms[arm]['job_id']}").json()["plan"] for arm in ("fine_tune", "scratch")]
    assert [arms[arm]["epochs"] for arm in ("fine_tune", "scratch")] == [plan["descent"]["epochs"] for plan in plans]


@pytest.mark.parametrize(
    ("fine_tuned", "scratch", "finding"),
    [
        ([0.9], [0.2, 0.4], "higher"),
        ([0.4], [0.9], "lower"),
        # These two differ in their curves alone.
        ([0.9, 0.9], [0.2, 0.2, 0.2, 0.2, 0.89], "faster"),
        ([0.9, 0.9], [0.9, 0.89], "no_difference"),
    ],
)
def test_the_list_has_the_same_finding_as_the_experiment(
    http: TestClient, versioned: str, database: Database, fine_tuned: list[float], scratch: list[float], finding: str
) -> None:
    found = created(http, versioned, arms=["fine_tune", "scratch"])
    begun = created(http, versioned, model="later", arms=["fine_tune", "scratch"])
    end(database, found["arms"]["fine_tune"], fine_tuned)
    end(database, begun["arms"]["fine_tune"], fine_tuned)
    end(database, found["arms"]["scratch"], scratch)

    newest, first = http.get("/v1/experiments").json()["data"]
    assert newest["id"] == begun["id"]
    assert (newest["model"], newest["has_ended"], newest["finding"]) == ("later", False, None)
    assert first == {
        "id": found["id"],
        "dataset_id": versioned,
        "dataset_version": 1,
        "model": "control",
        "backbone": "formnet",
        "created_at": found["created_at"],
        "has_ended": True,
        "finding": finding,
    }
    assert http.get(f"/v1/experiments/{found['id']}").json()["verdict"]["finding"] == finding


def test_an_experiment_names_its_data_set_until_that_is_deleted(http: TestClient, versioned: str) -> None:
    found = created(http, versioned)
    assert (found["dataset_name"], found["model"]) == ("photos", "control")
    for arm in found["arms"].values():
        http.post(f"/v1/jobs/{arm['job_id']}/cancel")
    assert http.delete(f"/v1/datasets/{versioned}", headers={"If-Match": "*"}).status_code == 204
    after = http.get(f"/v1/experiments/{found['id']}").json()
    assert after["dataset_name"] is None
    assert http.get("/v1/experiments").json()["data"][0]["finding"] == "open"


def test_a_verdict_without_fine_tuning_says_that_it_was_left_out(
    http: TestClient, versioned: str, database: Database
) -> None:
    found = created(http, versioned, arms=["probe", "scratch"])
    end(database, found["arms"]["probe"], [0.9])
    http.post(f"/v1/jobs/{found['arms']['scratch']['job_id']}/cancel")
    told = http.get(f"/v1/experiments/{found['id']}").json()["verdict"]
    assert told["finding"] == "open"
    assert told["reasons"] == [
        "There is no verdict, for fine-tuning was left out: begin an experiment with the arms fine_tune and scratch."
    ]


def test_a_deleted_model_leaves_its_run_where_it_was(http: TestClient, versioned: str, database: Database) -> None:
    found = created(http, versioned)
    for arm, accuracies in (("probe", [0.8]), ("fine_tune", [0.7, 0.9]), ("scratch", [0.2, 0.3, 0.4])):
        end(database, found["arms"][arm], accuracies)
    before = http.get(f"/v1/experiments/{found['id']}").json()
    assert http.delete(f"/v1/models/{before['arms']['scratch']['model']}", headers={"If-Match": "*"}).status_code == 204

    after = http.get(f"/v1/experiments/{found['id']}").json()
    assert after["arms"]["scratch"].pop("model_version") is None
    assert before["arms"]["scratch"].pop("model_version") == 1
    assert after == before


def test_a_run_that_was_cancelled_leaves_the_verdict_open(http: TestClient, versioned: str, database: Database) -> None:
    found = created(http, versioned, arms=["fine_tune", "scratch"])
    end(database, found["arms"]["fine_tune"], [0.9])
    http.post(f"/v1/jobs/{found['arms']['scratch']['job_id']}/cancel")
    told = http.get(f"/v1/experiments/{found['id']}").json()
    assert told["arms"]["scratch"]["state"] == "cancelled"
    assert told["verdict"]["finding"] == "open"
    assert told["verdict"]["reasons"] == [
        "There is no verdict, for training from scratch was cancelled. It is there once this has ended well: "
        f"graft retry {found['arms']['scratch']['job_id']}."
    ]


def test_the_same_key_makes_one_experiment(http: TestClient, versioned: str) -> None:
    answers = [
        http.post("/v1/experiments", json=wanted(versioned), headers={"Idempotency-Key": "one"}).json()["id"]
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert len(http.get("/v1/experiments").json()["data"]) == 1
    assert len(http.get("/v1/jobs?dataset=photos&state=queued").json()["data"]) == 3


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"arms": ["probe"]}, "arms", "at least 2"),
        ({"arms": ["probe", "probe"]}, "arms", "named twice"),
        ({"arms": ["probe", "tuned"]}, "arms.1", "fine_tune"),
        (
            {"scratch": {"backbone": "formnet", "strategy": "full"}},
            "scratch.strategy",
            "needs strategy scratch, not full",
        ),
        ({"fine_tune": {"backbone": "tinynet", "strategy": "full"}}, "fine_tune.backbone", "only runs of one network"),
        (
            {"arms": ["probe", "scratch"], "fine_tune": {"backbone": "formnet", "strategy": "full"}},
            "fine_tune",
            "not in arms",
        ),
        (
            {"fine_tune": {"backbone": "formnet", "strategy": "full", "weights": "none"}},
            "fine_tune.weights",
            "those from random values are the arm scratch",
        ),
        (
            {"fine_tune": {"backbone": "formnet", "strategy": "full", "base": "mine@1"}},
            "fine_tune.base",
            "a model of one's own",
        ),
        ({"probe": {"backbone": "formnet", "strategy": "head", "base": "mine@1"}}, "probe.base", "published"),
        ({"model": "x" * 60}, "model", "53"),
        ({"backbone": "auto"}, "backbone", "of one network"),
    ],
)
def test_what_makes_no_sense_is_refused(
    http: TestClient, versioned: str, changes: dict[str, object], field: str, said: str
) -> None:
    found = problem(http.post("/v1/experiments", json=wanted(versioned, **changes)), 422)
    told = {".".join(map(str, error["location"])): error["message"] for error in found["errors"]}
    assert said in told[f"body.{field}"]
    assert http.get("/v1/experiments").json()["data"] == []


@pytest.mark.parametrize(
    ("changes", "code", "location"),
    [
        (
            {"fine_tune": {"backbone": "formnet", "strategy": "top", "freeze": "nope"}},
            "unknown_stage",
            ["body", "fine_tune", "freeze"],
        ),
        (
            {"probe": {"backbone": "formnet", "strategy": "head", "weights": "nope"}},
            "unknown_weights",
            ["body", "probe", "weights"],
        ),
        ({"backbone": "formnett"}, "unknown_backbone", ["body", "backbone"]),
        ({"backbone": "tinynet"}, "backbone_has_no_weights", ["body", "backbone"]),
        ({"dataset": "nope"}, "dataset_not_found", ["body", "dataset"]),
        ({"version": 7}, "version_not_found", ["body", "version"]),
    ],
)
def test_a_problem_points_at_the_arm_that_has_it(
    http: TestClient, versioned: str, changes: dict[str, object], code: str, location: list[str]
) -> None:
    answer = http.post("/v1/experiments", json=wanted(versioned, **changes))
    found = problem(answer, answer.status_code)
    assert found["code"] == code
    assert [place["location"] for place in found["errors"]] == [location]


def test_nothing_is_queued_where_one_run_could_not_begin(http: TestClient, versioned: str) -> None:
    # It has no published weights, so that only scratch is possible.
    problem(http.post("/v1/experiments", json=wanted(versioned, backbone="tinynet")), 422)
    assert http.get("/v1/jobs?dataset=photos").json()["data"][0]["kind"] == "ingest"


def test_what_is_not_there_is_said(http: TestClient) -> None:
    assert problem(http.get("/v1/experiments/exp_0"), 404)["code"] == "experiment_not_found"
    assert problem(http.get("/v1/experiments/exp_0/chart.svg"), 404)["code"] == "experiment_not_found"
    assert problem(http.post("/v1/experiments", json=wanted("nothing")), 404)["code"] == "dataset_not_found"


def fail(database: Database, job_id: str) -> None:
    """What a worker does with a run that comes to nothing."""
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        leases.fail(session, claim, Failure("weights_unavailable", "no usable weights", {}), now=NOW)
        service.call_off(session, [job_id], now=NOW)


def states(http: TestClient, experiment_id: str) -> dict[str, str]:
    arms = http.get(f"/v1/experiments/{experiment_id}").json()["arms"]
    return {arm: read["state"] for arm, read in arms.items()}


def test_runs_without_a_use_are_called_off_when_one_that_the_verdict_needs_fails(
    http: TestClient, versioned: str, database: Database
) -> None:
    found, other = created(http, versioned), created(http, versioned, model="other")
    jobs = {arm: read["job_id"] for arm, read in found["arms"].items()}
    fail(database, jobs["probe"])
    assert states(http, found["id"]) == {"probe": "failed", "fine_tune": "queued", "scratch": "queued"}
    with database.write() as session:
        assert leases.claim(session, jobs["scratch"], now=NOW, lease_seconds=30)  # by another worker
    fail(database, jobs["fine_tune"])

    assert states(http, found["id"]) == {"probe": "failed", "fine_tune": "failed", "scratch": "cancelling"}
    assert set(states(http, other["id"]).values()) == {"queued"}
    told = http.get(f"/v1/jobs/{jobs['scratch']}/events").json()["data"][-1]
    assert told["type"] == "cancel_requested"
    assert told["data"]["message"] == (
        f"fine-tuning failed (job {jobs['fine_tune']}), without which there is no verdict"
    )


def test_runs_that_came_to_nothing_are_named_with_the_commands_that_retry_them(
    http: TestClient, versioned: str, database: Database
) -> None:
    found = created(http, versioned)
    jobs = {arm: read["job_id"] for arm, read in found["arms"].items()}
    end(database, found["arms"]["probe"], [0.9])
    fail(database, jobs["fine_tune"])
    assert states(http, found["id"])["scratch"] == "cancelled"
    assert http.get(f"/v1/experiments/{found['id']}").json()["verdict"]["reasons"] == [
        "There is no verdict, for fine-tuning failed and training from scratch was cancelled. It is there once these "
        f"have ended well: graft retry {jobs['fine_tune']}, graft retry {jobs['scratch']}."
    ]

    for arm in ("fine_tune", "scratch"):
        assert http.post(f"/v1/jobs/{jobs[arm]}/retry").status_code == 202
        end(database, found["arms"][arm], [0.5])
    assert http.get(f"/v1/experiments/{found['id']}").json()["verdict"]["finding"] == "no_difference"


def test_of_two_arms_neither_is_of_use_without_the_other(http: TestClient, versioned: str, database: Database) -> None:
    found = created(http, versioned, arms=["probe", "scratch"])
    fail(database, found["arms"]["probe"]["job_id"])
    assert states(http, found["id"]) == {"probe": "failed", "scratch": "cancelled"}


@pytest.mark.parametrize(("epochs", "is_cut"), [(None, False), (3, True), (1000, False)])
def test_a_verdict_on_a_scratch_that_was_stopped_early_has_a_caveat_wherever_it_is_told(
    http: TestClient, versioned: str, database: Database, epochs: int | None, is_cut: bool
) -> None:
    scratch = {"backbone": "formnet", "strategy": "scratch", "epochs": epochs}
    found = created(http, versioned, arms=["fine_tune", "scratch"], scratch=scratch)
    end(database, found["arms"]["fine_tune"], [0.9])
    end(database, found["arms"]["scratch"], [0.2, 0.3])
    path = f"/v1/experiments/{found['id']}"
    told = http.get(path).json()["verdict"]
    said = "training from scratch was given 3 epochs in place of"
    assert [said in str(told["caveat"]), said in told["reasons"][0]] == [is_cut] * 2
    assert http.get(path, headers={"Accept": "text/html"}).text.count(said) == is_cut
    assert (said in http.get(f"{path}/chart.svg").text) is is_cut
