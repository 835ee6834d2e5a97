"""Rankings over HTTP: asked for as jobs, read as values, page and picture; and plans whose backbone they choose."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from app import ranking
from app.backbones import catalogue
from app.datasets import service as datasets
from app.db import Database, utc_now
from app.jobs import leases
from app.models import service as models
from app.rankings import service as rankings
from tests import factories
from tests.app import test_plans_api
from tests.app.conftest import NOW, Bell
from tests.app.test_ranking import SETTING, measured
from tests.problems import problem

DAMAGED = f"{'5' * 8} 100-1"
FOUND = ranking.order(
    SETTING,
    [measured("mobilenet_v2", 0.9, h_score=0.5, milliseconds=12), measured("formnet", 0.7, h_score=0.1, macs=None)],
    [
        ranking.Refused(
            name="resnet18", code="weights_unavailable", message="no usable weights for resnet18", file=DAMAGED
        )
    ],
)


def asked(http: TestClient, dataset_id: str, **fields: object) -> dict[str, Any]:
    """The job that a wish for a ranking is answered with."""
    answer = http.post("/v1/jobs", json={"kind": "rank", "dataset": dataset_id, **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def ranked(database: Database, job_id: str, *, found: ranking.Ranking = FOUND, now: datetime = NOW) -> str:
    """What a worker does with the job when it has measured; the ranking's id."""
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        assert claim.kind == "rank"
        version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
        is_of_all = claim.spec["candidates"] is None
        ranking_id = rankings.record(session, version, found, is_of_all=is_of_all, job_id=job_id, now=now)
        leases.succeed(session, claim, {"ranking": ranking_id, "best": found.best.name}, now=NOW)
    return ranking_id


@pytest.mark.parametrize(
    ("candidate", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"backbone": "tinynet"}, 422, "backbone_has_no_weights"),
    ],
)
def test_a_ranking_with_nothing_that_could_be_measured_is_refused_at_once(
    http: TestClient, versioned: str, candidate: dict[str, str], status: int, code: str
) -> None:
    wish = {"kind": "rank", "dataset": versioned, "candidates": [candidate]}
    document = problem(http.post("/v1/jobs", json=wish), status)

    assert document["code"] == code
    assert document["errors"][0]["location"] == ["body", "candidates", 0, *candidate]
    asked(http, versioned, candidates=[candidate, {"backbone": "formnet"}])


def test_a_ranking_is_a_job_with_its_candidates(http: TestClient, versioned: str, bell: Bell) -> None:
    candidates = [{"backbone": "formnet"}, {"backbone": "resnet50", "weights": "IMAGENET1K_V2"}, {"model": "mine"}]
    job = asked(http, versioned, candidates=candidates, seed=3)

    assert (job["kind"], job["state"], job["dataset_version"], job["model_name"]) == ("rank", "queued", 1, None)
    assert job["spec"]["seed"] == 3
    assert [(one["backbone"], one["model"]) for one in job["spec"]["candidates"]] == [
        ("formnet", None),
        ("resnet50", None),
        (None, "mine"),
    ]
    assert bell.rung[-1] == ("gpu", job["id"])


def test_all_who_want_all_backbones_ranked_share_one_job(http: TestClient, versioned: str) -> None:
    first = asked(http, versioned)
    assert first["spec"] == {"candidates": None, "seed": 0}
    assert asked(http, versioned)["id"] == first["id"]
    assert asked(http, versioned, candidates=[{"backbone": "formnet"}])["id"] != first["id"]


@pytest.mark.parametrize(
    ("candidates", "code"),
    [
        ([{"backbone": "mobilnet_v2"}], "unknown_backbone"),
        ([{"backbone": "mobilenet_v2", "weights": "V9"}], "unknown_weights"),
        ([{}], "invalid_request"),
        ([], "invalid_request"),
        ([{"backbone": "formnet", "model": "mine"}], "invalid_request"),
        ([{"backbone": "formnet", "version": 2}], "invalid_request"),
        ([{"model": "mine", "weights": "V1"}], "invalid_request"),
        ([{"backbone": "formnet"}, {"backbone": "formnet"}], "invalid_request"),
    ],
)
def test_what_cannot_be_ranked_is_refused_at_once(
    http: TestClient, versioned: str, candidates: list[object], code: str
) -> None:
    body = {"kind": "rank", "dataset": versioned, "candidates": candidates}
    assert problem(http.post("/v1/jobs", json=body), 422)["code"] == code


def test_which_of_several_candidates_is_wrong_is_said(http: TestClient, versioned: str) -> None:
    for wrong in ({"backbone": "mobilnet_v2"}, {"backbone": "mobilenet_v2", "weights": "V9"}):
        body = {"kind": "rank", "dataset": versioned, "candidates": [{"backbone": "formnet"}, wrong]}
        found = problem(http.post("/v1/jobs", json=body), 422)
        assert [place["location"] for place in found["errors"]] == [["body", "candidates", 1]]


def test_a_wrong_field_is_named_as_the_kind_of_job_has_it(http: TestClient, versioned: str) -> None:
    def places(body: dict[str, object]) -> list[list[str]]:
        answer = problem(http.post("/v1/jobs", json={"dataset": versioned, **body}), 422)
        return [each["location"] for each in answer["errors"]]

    assert places({"kind": "dance"}) == [["body", "kind"]]
    assert places({"kind": "rank", "model": "mine"}) == [["body", "model"]]
    assert places({"model": "mine", "recipe": {"backbone": "formnet", "epochs": 0}}) == [["body", "recipe", "epochs"]]


def test_a_ranking_is_read_with_places_costs_and_disagreement(
    http: TestClient, versioned: str, database: Database
) -> None:
    job_id = asked(http, versioned)["id"]
    ranking_id = ranked(database, job_id)

    found = http.get(f"/v1/rankings/{ranking_id}").json()
    assert (found["id"], found["job_id"], found["is_of_all"]) == (ranking_id, job_id, True)
    figures = found["figures"]
    assert [entry["name"] for entry in figures["measured"]] == ["mobilenet_v2", "formnet"]
    assert figures["measured"][0]["cost"]["latency"]["seconds"] == 0.012
    assert figures["places"][1]["by_score"]["probe"] == 2
    assert figures["refused"][0]["code"] == "weights_unavailable"
    assert figures["remarks"] == list(FOUND.remarks)
    assert problem(http.get("/v1/rankings/rnk_none"), 404)["code"] == "ranking_not_found"


def test_browsers_get_a_page_with_every_network(http: TestClient, versioned: str, database: Database) -> None:
    ranking_id = ranked(database, asked(http, versioned)["id"])
    page = http.get(f"/v1/rankings/{ranking_id}", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert '<link rel="icon" href="data:' in page.text
    for said in ("mobilenet_v2", "90.0 ± 3.0 %", "12.0 ms", "no usable weights for resnet18", *FOUND.remarks[:1]):
        assert said in page.text
    assert f'<a href="{ranking_id}/chart.svg"><img class="chart" src="{ranking_id}/chart.svg"' in page.text
    assert f'href="{ranking_id}/chart.svg?cost=macs"' in page.text
    assert '"/v1' not in page.text  # so that a prefix of the service's address is kept
    assert 'href="../backbones/mobilenet_v2/anatomy?format=html"' in page.text
    assert "Ranking of 2 networks on photos, version 1</h1>" in page.text
    assert "2026-01-02 00:00 UTC" in page.text
    assert page.text.count("no usable weights for resnet18") == 1
    assert "graft train PHOTOS --dataset photos --model NAME --backbone mobilenet_v2" in page.text


def test_a_page_marks_what_has_seen_the_images_and_highlights_the_best_of_the_others(
    http: TestClient, versioned: str, database: Database
) -> None:
    factories.register_version(database, models.new_version_id(), versioned, labels=("ants",), model="mine")
    own = replace(measured("mine@1", 0.99, log_me=0.9, h_score=0.9, macs=None, has_seen=True), weights=ranking.OWN)
    others = [measured("resnet50 IMAGENET1K_V2", 0.9, macs=None), measured("formnet", 0.7, macs=None)]
    setting = replace(SETTING, machine="A Processor <9000>")
    found = ranking.order(setting, [own, *(replace(one, weights="IMAGENET1K_V2") for one in others)], [])
    ranking_id = ranked(database, asked(http, versioned)["id"], found=found)

    page = http.get(f"/v1/rankings/{ranking_id}", headers={"Accept": "text/html"}).text
    rows = [line for line in page.splitlines() if line.startswith("<tr") and "<td" in line]
    assert ["has seen these images" in row for row in rows[:3]] == [True, False, False]
    assert ['class="best"' in row for row in rows] == [False, True, *[False] * (len(rows) - 2)]
    assert 'href="../models/mine/versions/1/evaluation?format=html"' in rows[0]
    assert 'href="../backbones/resnet50/anatomy?format=html"' in rows[1]
    assert "--backbone resnet50 --weights IMAGENET1K_V2" in page
    assert "A Processor &lt;9000&gt;" in page
    assert "?cost=macs" not in page


def test_the_page_of_a_model_says_how_to_go_on_from_it(http: TestClient, versioned: str, database: Database) -> None:
    factories.register_version(database, models.new_version_id(), versioned, labels=("bees", "wasps"))
    alone = replace(measured("insects@1", 0.99, has_seen=True), weights=ranking.OWN)
    ranking_id = ranked(database, asked(http, versioned)["id"], found=ranking.order(SETTING, [alone], []))
    assert http.patch(f"/v1/datasets/{versioned}", json={"name": "two words"}, headers={"If-Match": "*"}).is_success
    page = http.get(f"/v1/rankings/{ranking_id}", headers={"Accept": "text/html"}).text
    assert "graft train PHOTOS --dataset &#39;two words&#39; --model NAME --base insects@1" in page

    assert http.get(f"/v1/rankings/{ranking_id}").json()["dataset_name"] == "two words"
    assert http.delete(f"/v1/datasets/{versioned}", headers={"If-Match": "*"}).status_code == 204
    page = http.get(f"/v1/rankings/{ranking_id}", headers={"Accept": "text/html"}).text
    assert f"Ranking of 1 network on {versioned}, version 1</h1>" in page
    assert "The data set is deleted." in page
    assert "graft train PHOTOS --model NAME --base insects@1" in page
    assert http.get(f"/v1/rankings/{ranking_id}").json()["dataset_name"] is None


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (
            ("roses", "tulips"),
            "none of the labels of insects@1 is one of this version, and --label-map would have to say which are meant",
        ),
        (None, "insects@1 is deleted"),
    ],
)
def test_where_no_training_can_start_from_the_best_model_the_page_says_so_and_what_to_take_instead(
    http: TestClient, versioned: str, database: Database, labels: tuple[str, ...] | None, why: str
) -> None:
    if labels is not None:
        factories.register_version(database, models.new_version_id(), versioned, labels=labels)
    own = replace(measured("insects@1", 0.99, log_me=0.9, h_score=0.9), weights=ranking.OWN)

    def told(*others: ranking.MeasuredNetwork) -> str:
        job_id = asked(http, versioned, candidates=[{"backbone": "formnet"}])["id"]
        ranking_id = ranked(database, job_id, found=ranking.order(SETTING, [own, *others], []))
        return http.get(f"/v1/rankings/{ranking_id}", headers={"Accept": "text/html"}).text

    page = told(measured("formnet", 0.7))
    assert "--base" not in page
    assert f"insects@1 is the best, but no training starts from it as it is: {why}." in page
    assert "Train with formnet, on a folder" in page
    assert "graft train PHOTOS --dataset photos --model NAME --backbone formnet" in page

    alone = told()
    assert f"insects@1 is the best, but no training starts from it as it is: {why}." in alone
    assert "graft train" not in alone


def test_rankings_are_listed_newest_first_page_by_page(http: TestClient, versioned: str, database: Database) -> None:
    assert http.get("/v1/rankings").json() == {"data": [], "has_more": False}
    seen = ranking.order(SETTING, [measured("mine@1", 0.99, has_seen=True), measured("formnet", 0.7)], [])
    first = ranked(database, asked(http, versioned)["id"])
    second = ranked(database, asked(http, versioned, candidates=[{"backbone": "formnet"}])["id"], found=seen)

    page = http.get("/v1/rankings", params={"limit": 1}).json()
    assert page == {
        "data": [
            {
                "id": second,
                "dataset_id": versioned,
                "dataset_version": 1,
                "created_at": "2026-01-02T00:00:00Z",
                "networks": 2,
                "best": "formnet",
            }
        ],
        "has_more": True,
    }
    rest = http.get("/v1/rankings", params={"after": second}).json()
    assert [(one["id"], one["networks"], one["best"]) for one in rest["data"]] == [(first, 2, "mobilenet_v2")]
    assert rest["has_more"] is False
    assert problem(http.get("/v1/rankings", params={"after": "exp_0"}), 422)["code"] == "invalid_request"


def test_the_chart_has_a_bubble_for_each_network_whose_cost_is_known(
    http: TestClient, versioned: str, database: Database
) -> None:
    path = f"/v1/rankings/{ranked(database, asked(http, versioned)['id'])}/chart.svg"

    def bubbles(cost: str) -> int:
        answer = http.get(path, params={"cost": cost})
        assert answer.headers["content-type"] == "image/svg+xml"
        assert "prefers-color-scheme: dark" in answer.text
        drawn = ElementTree.fromstring(answer.text)
        return len(drawn.findall(".//{http://www.w3.org/2000/svg}circle"))

    assert [bubbles(cost) for cost in ("latency", "macs", "size")] == [2, 1, 2]
    assert problem(http.get(path, params={"cost": "beauty"}), 422)["code"] == "invalid_request"


def test_a_chart_of_costs_that_none_has_is_refused(http: TestClient, versioned: str, database: Database) -> None:
    unknown = ranking.order(SETTING, [measured("formnet", 0.7, macs=None)], [])
    ranking_id = ranked(database, asked(http, versioned)["id"], found=unknown)
    answer = http.get(f"/v1/rankings/{ranking_id}/chart.svg", params={"cost": "macs"})
    assert problem(answer, 422)["code"] == "empty_chart"


def test_a_plan_whose_backbone_is_open_ranks_then_measures_and_then_is_there(
    http: TestClient, versioned: str, database: Database
) -> None:
    body = {"dataset": versioned, "recipe": {"backbone": "auto", "budget": {"latency_ms": 50}}}
    first = http.post("/v1/plans", json=body)
    assert (first.status_code, first.json()["kind"]) == (202, "rank")
    assert http.post("/v1/plans", json=body).json()["id"] == first.json()["id"]
    ranking_id = ranked(database, first.json()["id"])

    second = http.post("/v1/plans", json=body)
    assert (second.status_code, second.json()["kind"]) == (202, "analyse")
    assert second.json()["spec"]["backbone"] == "mobilenet_v2"
    test_plans_api.measure(database, second.json()["id"])

    found = http.post("/v1/plans", json=body).json()
    assert found["ranking_id"] == ranking_id
    assert found["plan"]["backbone"] == "mobilenet_v2"
    assert found["plan"]["reasons"][0].startswith("Backbone mobilenet_v2: first of 2")


def test_a_ranking_of_chosen_networks_chooses_no_backbone(http: TestClient, versioned: str, database: Database) -> None:
    ranked(database, asked(http, versioned, candidates=[{"backbone": "formnet"}])["id"])
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}})
    assert (answer.status_code, answer.json()["kind"]) == (202, "rank")


WEIGHTS_HERE = {"mobilenet_v2": f"{'0' * 8} 200-1", "formnet": "0" * 8, "resnet18": DAMAGED}


@pytest.mark.parametrize(
    ("weights", "status"),
    [
        (None, 200),  # of a worker that ranks nothing
        (WEIGHTS_HERE, 200),
        ({**WEIGHTS_HERE, "resnet50": "0" * 8}, 202),  # added since
        ({"mobilenet_v2": "0" * 8, "formnet": "0" * 8}, 202),  # gone
        ({**WEIGHTS_HERE, "formnet": "1" * 8}, 202),  # another file
        ({**WEIGHTS_HERE, "mobilenet_v2": f"{'0' * 8} 200-2"}, 200),  # the same, copied
        ({**WEIGHTS_HERE, "resnet18": "1" * 8}, 202),  # another file of what could not be had
        ({**WEIGHTS_HERE, "resnet18": f"{'5' * 8} 200-2"}, 202),  # that one, mended
    ],
)
def test_a_plan_goes_by_a_ranking_only_while_it_is_of_the_networks_that_a_worker_has_now(
    http: TestClient, versioned: str, database: Database, weights: dict[str, str] | None, status: int
) -> None:
    ranked(database, asked(http, versioned)["id"])
    body = {"dataset": versioned, "recipe": {"backbone": "auto"}}
    job = http.post("/v1/plans", json=body).json()
    assert job["kind"] == "analyse"
    test_plans_api.measure(database, job["id"])
    now = utc_now()
    with database.write() as session:
        leases.saw_worker(session, "worker_1", ["gpu"], weights=weights, started_at=now, now=now)
        gone = now - timedelta(minutes=5)
        leases.saw_worker(session, "worker_2", ["gpu"], weights={"vgg16": "2" * 8}, started_at=gone, now=gone)

    answer = http.post("/v1/plans", json=body)
    assert answer.status_code == status
    assert status == 200 or answer.json()["kind"] == "rank"


def test_a_network_that_had_no_room_in_the_memory_is_tried_again_after_some_hours(
    http: TestClient, versioned: str, database: Database
) -> None:
    full = replace(FOUND, refused=tuple(replace(one, code=ranking.OUT_OF_MEMORY) for one in FOUND.refused))
    body = {"dataset": versioned, "recipe": {"backbone": "auto"}}
    now = utc_now()

    def answered(*, hours: float) -> str:
        """What kind of job comes first once the last ranking is so old."""
        ranked(database, asked(http, versioned)["id"], found=full, now=now - timedelta(hours=hours))
        kind: str = http.post("/v1/plans", json=body).json()["kind"]
        return kind

    assert answered(hours=8) == "analyse"  # where no worker is there
    with database.write() as session:
        leases.saw_worker(session, "worker_1", ["gpu"], weights=WEIGHTS_HERE, started_at=now, now=now)
    assert http.post("/v1/plans", json=body).json()["kind"] == "rank"
    assert answered(hours=0) == "analyse"


def test_what_was_ranked_on_a_few_images_of_each_of_many_labels_is_ranked_anew_once(
    http: TestClient, versioned: str, database: Database
) -> None:
    few = replace(FOUND, setting=replace(SETTING, classes=101, images=75_000, measured_images=2_000))
    body = {"dataset": versioned, "recipe": {"backbone": "auto"}}
    ranking_id = ranked(database, asked(http, versioned)["id"], found=few)
    assert http.post("/v1/plans", json=body).json()["kind"] == "analyse"
    with database.write() as session:
        row = rankings.find(session, ranking_id)
        setting = {name: value for name, value in row.body["setting"].items() if name != "measured_labels"}
        row.body = {**row.body, "setting": setting}

    anew = http.post("/v1/plans", json=body).json()
    assert anew["kind"] == "rank"
    ranked(database, anew["id"], found=few)
    assert http.post("/v1/plans", json=body).json()["kind"] == "analyse"


def test_of_workers_with_different_networks_one_is_enough(http: TestClient, versioned: str, database: Database) -> None:
    ranked(database, asked(http, versioned)["id"])
    with database.write() as session:
        for number, weights in enumerate(({"vgg16": "2" * 8}, WEIGHTS_HERE)):
            now = utc_now()
            leases.saw_worker(session, f"worker_{number}", ["gpu"], weights=weights, started_at=now, now=now)
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}})
    assert answer.json()["kind"] == "analyse"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_which_workers_are_there_goes_by_the_clock_of_the_database(
    http: TestClient, versioned: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked(database, asked(http, versioned)["id"])
    with database.write() as session:
        now = database.now(session)
        leases.saw_worker(session, "worker_1", ["gpu"], weights={"vgg16": "2" * 8}, started_at=now, now=now)
    for module in ("app.db", "app.plans.routes"):
        monkeypatch.setattr(f"{module}.utc_now", lambda: now + timedelta(minutes=2), raising=False)
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}})
    assert answer.json()["kind"] == "rank"


def test_a_budget_that_none_fits_is_said(http: TestClient, versioned: str, database: Database) -> None:
    ranked(database, asked(http, versioned)["id"])
    recipe = {"backbone": "auto", "budget": {"latency_ms": 0.1}}
    said = problem(http.post("/v1/plans", json={"dataset": versioned, "recipe": recipe}), 422)
    assert said["code"] == "no_backbone_fits"
    assert said["errors"][0]["location"] == ["body", "recipe", "budget"]
    assert said["backbones"]["formnet"] == ["takes 5.0 ms an image, of at most 0.1 ms"]


def test_a_training_may_leave_its_backbone_open(http: TestClient, versioned: str) -> None:
    recipe = {"backbone": "auto", "budget": {"size_bytes": 10_000_000}}
    answer = http.post("/v1/jobs", json={"dataset": versioned, "model": "mine", "recipe": recipe})
    assert answer.status_code == 202
    assert answer.json()["plan"] is None
    assert answer.json()["spec"]["budget"]["size_bytes"] == 10_000_000


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        ({"backbone": "auto", "strategy": "full"}, "strategy"),
        ({"backbone": "auto", "weights": "none"}, "weights"),
        ({"backbone": "formnet", "budget": {"macs": 1}}, "budget"),
        ({"backbone": "auto", "budget": {"latency_ms": 0}}, "budget"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(
    http: TestClient, versioned: str, recipe: dict[str, object], field: str
) -> None:
    body = {"dataset": versioned, "model": "mine", "recipe": recipe}
    found = problem(http.post("/v1/jobs", json=body), 422)
    assert found["errors"][0]["location"][:3] == ["body", "recipe", field]


@pytest.mark.parametrize("number", ["1e999", "Infinity", "NaN", "1e16"])
def test_a_budget_has_an_end(http: TestClient, versioned: str, number: str) -> None:
    recipe = {"backbone": "auto", "budget": {"latency_ms": "NUMBER"}}
    body = json.dumps({"dataset": versioned, "model": "mine", "recipe": recipe}).replace('"NUMBER"', number)
    found = problem(http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 422)
    assert found["errors"][0]["location"] == ["body", "recipe", "budget", "latency_ms"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
@pytest.mark.parametrize(
    ("stages", "field"),
    [
        ({"freeze": "layer33"}, "freeze"),
        ({"stage": "layer33"}, "stage"),
        ({"freeze": "best"}, "freeze"),
        ({"stage": "layer3", "freeze": "patches"}, "freeze"),  # none has both
    ],
)
def test_a_stage_that_no_backbone_has_is_refused_also_where_the_backbone_is_open(
    http: TestClient, versioned: str, bell: Bell, path: str, stages: dict[str, str], field: str
) -> None:
    body: dict[str, object] = {"dataset": versioned, "recipe": {"backbone": "auto", **stages}}
    found = problem(http.post(path, json=body | ({"model": "mine"} if path == "/v1/jobs" else {})), 422)
    assert found["code"] == "unknown_stage"
    assert found["errors"][0]["location"] == ["body", "recipe", field]
    assert "layer3" in found["nearest"] or stages != {"freeze": "layer33"}
    assert bell.rung == []


def test_of_the_ranked_backbones_those_with_the_named_stage_are_chosen_from(
    http: TestClient, versioned: str, database: Database
) -> None:
    ranked(database, asked(http, versioned)["id"])
    first = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}}).json()["spec"]
    others = [name for name in WEIGHTS_HERE if name != first["backbone"]]
    stages = {name: set(catalogue.find(name).facts.stages) for name in WEIGHTS_HERE}
    (own, *_) = sorted(stages[others[0]] - stages[first["backbone"]])
    recipe = {"backbone": "auto", "freeze": own}
    measuring = http.post("/v1/plans", json={"dataset": versioned, "recipe": recipe}).json()
    assert (measuring["kind"], measuring["spec"]["backbone"]) == ("analyse", others[0])

    nowhere = {"backbone": "auto", "freeze": "patches"}  # a stage of networks that were not ranked
    refused = problem(http.post("/v1/plans", json={"dataset": versioned, "recipe": nowhere}), 422)
    assert refused["code"] == "no_backbone_fits"
    assert refused["backbones"][first["backbone"]] == ["has no stage patches"]
    assert refused["errors"][0]["location"] == ["body", "recipe", "backbone"]
    job = http.post("/v1/jobs", json={"dataset": versioned, "model": "mine", "recipe": nowhere})
    assert job.status_code == 202  # what a worker has is known to the worker
