"""Rankings over HTTP: asked for as jobs, read as values, page and picture."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from app import ranking
from app.db import Database
from app.models import service as models
from tests import factories
from tests.app.conftest import Bell
from tests.app.ranked import FOUND, asked, ranked
from tests.app.test_ranking import SETTING, measured
from tests.problems import problem


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


def test_nothing_of_the_picture_lies_on_its_words_nor_outside(
    http: TestClient, versioned: str, database: Database
) -> None:
    seen = [replace(measured(f"mine@{n}", 1.0, has_seen=True), weights=ranking.OWN) for n in (1, 2)]
    setting = replace(SETTING, machine="Processor " * 30)
    ranking_id = ranked(database, asked(http, versioned)["id"], found=ranking.order(setting, seen, []))
    drawn = ElementTree.fromstring(http.get(f"/v1/rankings/{ranking_id}/chart.svg").text)
    svg = "{http://www.w3.org/2000/svg}"
    words = [text for text in drawn.findall(f"{svg}text[@class='muted']") if "text-anchor" not in text.attrib]
    assert [len(text.text or "") <= 126 for text in words] == [True] * 3  # of 13 pixels beside 960
    lowest = max(float(text.attrib["y"]) for text in words)
    tops = [float(one.attrib["cy"]) - float(one.attrib["r"]) for one in drawn.iter(f"{svg}circle")]
    assert min(tops) > lowest
    page = http.get(f"/v1/rankings/{ranking_id}", headers={"Accept": "text/html"}).text
    assert page.count("Wider than this screen") == 2
