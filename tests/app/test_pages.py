"""Pages for browsers: the start page, a job, what is wrong. Every address on them leads somewhere."""

import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from app import ranking
from app.db import Database
from app.jobs import events, leases, service
from app.jobs.schemas import JobState
from app.jobs.tables import Worker
from tests import factories
from tests.app import planned, ranked, test_ranking
from tests.app.test_evaluation_api import measured, register
from tests.problems import problem

__all__ = ["register"]

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
TRAINING: dict[str, Any] = {
    "dataset": "photos",
    "model": "insects",
    "recipe": {"backbone": "tinynet", "strategy": "scratch"},
}


def page(http: TestClient, path: str, status: int = 200) -> str:
    answer = http.get(path, headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), answer.text
    assert "Accept" in answer.headers["vary"]
    return answer.text


def links(http: TestClient, path: str) -> set[str]:
    """Where the page at `path` leads to, from the root of the service."""
    return {urljoin(path, found) for found in re.findall(r'href="([^"#]+)"', page(http, path)) if ":" not in found}


def queued(http: TestClient) -> str:
    asked = http.post("/v1/jobs", json=TRAINING)
    assert asked.status_code == 202, asked.text
    job: str = asked.json()["id"]
    return job


def test_an_empty_service_says_how_to_begin(http: TestClient) -> None:
    found = page(http, "/")
    assert "graft train photos --model insects" in found
    assert "No worker is alive" in found
    assert "refresh" not in found


def test_the_start_page_is_for_browsers_alone(http: TestClient) -> None:
    assert http.get("/", follow_redirects=False).headers["location"] == "/docs"
    assert http.head("/", headers=BROWSER).status_code == 200


def test_the_start_page_shows_what_there_is(http: TestClient, database: Database, versioned: str) -> None:
    job = queued(http)
    factories.register_version(database, "mv_1", versioned, labels=["ants", "bees"])
    with database.write() as session:
        session.add(Worker(id="w", queues=["gpu"], weights=None, started_at=now(), seen_at=now()))
    found = page(http, "/")
    assert "1 worker is there." in found
    assert "insects, on photos, version 1" in found
    assert 'http-equiv="refresh"' in found
    assert {f"/v1/jobs/{job}", "/v1/models/insects/versions/1/evaluation", f"/v1/datasets/{versioned}"} <= (
        links(http, "/")
    )


def test_the_start_page_names_queues_whose_jobs_no_worker_takes(
    http: TestClient, database: Database, versioned: str
) -> None:
    said = "None of them takes jobs of the queue {} ("
    queued(http)
    with database.write() as session:
        session.add(Worker(id="cpu", queues=["cpu"], weights=None, started_at=now(), seen_at=now()))
    found = page(http, "/")
    assert "1 worker is there." in found
    assert said.format("gpu") in found
    assert said.format("cpu") not in found

    with database.write() as session:
        session.add(Worker(id="both", queues=["cpu", "gpu"], weights=None, started_at=now(), seen_at=now()))
    found = page(http, "/")
    assert "2 workers are there." in found
    assert "None of them" not in found


def test_the_start_page_shows_what_goes_on_before_all_that_waits_and_has_ended(
    http: TestClient, database: Database, versioned: str
) -> None:
    imported = queued(http)
    ended = [queued(http) for _ in range(3)]
    for job in ended:
        assert http.post(f"/v1/jobs/{job}/cancel").status_code == 202
    running, *waiting = [queued(http) for _ in range(25)]
    with database.write() as session:
        assert leases.claim(session, running, now=now(), lease_seconds=60) is not None
    shown = re.findall(r'"v1/jobs/(\w+)"', page(http, "/"))
    assert shown == [running, *waiting[:-20:-1]]

    for job in waiting[3:]:
        assert http.post(f"/v1/jobs/{job}/cancel").status_code == 202
    shown = re.findall(r'"v1/jobs/(\w+)"', page(http, "/"))
    assert shown == [running, *waiting[2::-1], imported, *waiting[:-16:-1]]


def test_the_start_page_shows_the_models_with_the_newest_versions(
    http: TestClient, database: Database, versioned: str
) -> None:
    for number in range(21):
        factories.register_version(database, f"mv_{number:02}", versioned, labels=["ants"], model=f"model-{number:02}")
    factories.register_version(database, "mv_again", versioned, labels=["ants"], model="model-00")
    shown = re.findall(r">(model-\d+)@", page(http, "/"))
    assert shown == ["model-00", *(f"model-{number:02}" for number in range(20, 1, -1))]


def test_long_words_are_broken_where_the_screen_ends(http: TestClient, versioned: str) -> None:
    for path, tags in (("/", {"h1", "p", "li"}), (f"/v1/jobs/{queued(http)}", {"h1", "p", "li", "dd"})):
        rules = re.findall(r"([^{}]+)\{([^{}]*)\}", page(http, path))
        broken = {tag.strip() for selector, rule in rules if "anywhere" in rule for tag in selector.split(",")}
        assert tags <= broken


def test_long_names_are_broken_in_tables_and_a_data_set_without_photos_says_so(
    http: TestClient, database: Database, versioned: str
) -> None:
    factories.register_version(database, "mv_1", versioned, labels=["ants"], model="m" * 60)
    assert http.post("/v1/datasets", json={"name": "d" * 100}).status_code == 201
    found = page(http, "/")
    for name in ("m" * 60, "d" * 100):
        assert re.search(f'<td class="text long">(<a [^>]*>)?{name}[@<]', found)
    assert found.count("no photos yet") == 1


def test_names_are_no_markup(http: TestClient) -> None:
    assert http.post("/v1/datasets", json={"name": "<script>alert(1)<|script>"}).status_code == 201
    assert "<script>" not in page(http, "/")


def done(database: Database, job_id: str, result: dict[str, Any]) -> None:
    """What a worker does with a job, but for what it makes."""
    with database.write() as session:
        claim = leases.claim(session, job_id, now=now(), lease_seconds=60)
        assert claim is not None
        leases.succeed(session, claim, result, now=now())


def test_every_address_of_a_page_leads_somewhere_also_after_deletions(
    http: TestClient, database: Database, versioned: str, register: Any
) -> None:
    register(asdict(measured(("ants", "bees"))), ("ants", "bees"))
    imported = http.get("/v1/jobs?state=succeeded").json()["data"][-1]["id"]
    trained = queued(http)
    done(database, trained, {"model": "insects", "model_version": 1, "accuracy": 0.9})
    optimised = http.post("/v1/models/insects/versions/1/optimise").json()["id"]
    done(database, optimised, {"served": "openvino-int8"})
    job = ranked.asked(http, versioned, candidates=[{"model": "insects"}])["id"]
    own = replace(test_ranking.measured("insects@1", 0.9), weights=ranking.OWN)
    ranking_id = ranked.ranked(database, job, found=ranking.order(test_ranking.SETTING, [own], []))
    jobs = {f"/v1/jobs/{job}" for job in (imported, trained, optimised, job, queued(http))}

    def linked() -> set[str]:
        found = set[str]()
        for path in ("/", f"/v1/rankings/{ranking_id}", *jobs):
            found |= links(http, path)
        if f"/v1/datasets/{versioned}" in found:
            found |= links(http, f"/v1/datasets/{versioned}")
        for link in found:
            assert http.get(link, headers=BROWSER).status_code == 200, link
        return found - jobs

    before = linked()
    assert http.delete("/v1/models/insects/versions/1").status_code == 204
    after = linked()
    made = "/v1/models/insects/versions/1/evaluation"
    assert before - after == {made, f"{made}?format=html", "/v1/backbones/tinynet/anatomy?format=html"}
    assert "insects@1, 90.0 % right (deleted)" in page(http, f"/v1/jobs/{trained}")
    assert "openvino-int8 was chosen (deleted)" in page(http, "/")
    assert "insects@1 (deleted)" in page(http, f"/v1/rankings/{ranking_id}")

    for waiting in http.get("/v1/jobs?state=queued").json()["data"]:  # which would keep the data set
        http.post(f"/v1/jobs/{waiting['id']}/cancel")
    assert http.delete(f"/v1/datasets/{versioned}", headers={"If-Match": "*"}).status_code == 204
    of_dataset = f"/v1/datasets/{versioned}"
    assert after - linked() == {of_dataset, f"{of_dataset}/versions/1"}
    assert "30 images became version 1 (deleted)" in page(http, f"/v1/jobs/{imported}")


def test_a_job_is_a_page_with_its_plan_and_its_history(http: TestClient, database: Database, versioned: str) -> None:
    job = queued(http)
    found = page(http, f"/v1/jobs/{job}")
    assert "Training of insects, on photos, version 1" in found
    assert "<li>" in found
    assert f"graft cancel {job}" in found
    assert 'http-equiv="refresh"' in found
    assert http.get(f"/v1/jobs/{job}").json()["id"] == job
    assert http.get(f"/v1/jobs/{job}?format=json", headers=BROWSER).json()["id"] == job

    assert http.post(f"/v1/jobs/{job}/cancel").status_code == 202
    ended = page(http, f"/v1/jobs/{job}")
    assert f"graft retry {job}" in ended
    assert "refresh" not in ended


def commands(http: TestClient, job: str) -> set[str]:
    return set(re.findall(rf"graft (\w+) {job}", page(http, f"/v1/jobs/{job}")))


@pytest.mark.parametrize("search", [None, {"trials": 2}], ids=["training", "search"])
def test_a_job_is_shown_with_the_commands_that_change_it(
    http: TestClient, database: Database, versioned: str, search: dict[str, int] | None
) -> None:
    recipe = {**TRAINING["recipe"], "search": search}
    job = http.post("/v1/jobs", json={**TRAINING, "recipe": recipe}).json()["id"]

    def put(state: str) -> None:
        with database.write() as session:
            service.find(session, job).state = state

    def changes(state: str, verb: str) -> bool:
        put(state)
        answer = http.post(f"/v1/jobs/{job}/{verb}")
        return answer.status_code == 202 and answer.json()["state"] != state

    for state in get_args(JobState):
        put(state)
        shown = commands(http, job)
        verbs = ("finish", "pause", "resume", "cancel", "retry")
        assert shown == {verb for verb in verbs if changes(state, verb)}, state


def test_nothing_can_be_done_for_a_job_whose_data_set_is_deleted(http: TestClient, versioned: str) -> None:
    job = queued(http)
    http.post(f"/v1/jobs/{job}/cancel")
    assert commands(http, job) == {"retry"}
    assert http.delete(f"/v1/datasets/{versioned}", headers={"If-Match": "*"}).status_code == 204
    assert commands(http, job) == set()


def test_a_short_job_is_not_estimated_to_take_no_time(http: TestClient, database: Database, versioned: str) -> None:
    body = planned.wanted(versioned, measure=True)
    planned.measure(database, planned.asked(http, body)["id"])
    recipe = body["recipe"]
    job = http.post("/v1/jobs", json={"dataset": "photos", "model": "insects", "recipe": recipe}).json()
    assert job["plan"]["estimate"]["seconds"] == pytest.approx(1.0, abs=0.01)  # most of it around the training
    assert "<dt>estimated</dt><dd>1.0 s</dd>" in page(http, f"/v1/jobs/{job['id']}")


def test_of_a_long_history_the_end_is_shown(http: TestClient, database: Database, versioned: str) -> None:
    job = queued(http)
    with database.write() as session:
        claim = leases.claim(session, job, now=now(), lease_seconds=60)
        assert claim is not None
        lines = [events.Line("checkpoint_saved", {"epoch": n, "loss": 0.123456, "rate": 12345.6}) for n in range(300)]
        leases.record(session, claim, lines, now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), lease_seconds=60)
    found = page(http, f"/v1/jobs/{job}")
    assert "epoch 299, loss 0.1235, rate 12,346" in found
    assert "<td>2026-01-02 03:04:05</td>" in found
    assert "epoch 99," not in found
    assert "events are left out" in found


@pytest.mark.parametrize(
    ("phase", "said"),
    [("rank", "ranking, 83 %"), ("measure", "measuring the features, 83 %"), ("train", "training, 2,500 of 3,000")],
)
def test_progress_is_counted_in_what_its_phase_counts(
    http: TestClient, database: Database, versioned: str, phase: str, said: str
) -> None:
    job = queued(http)
    with database.write() as session:
        row = service.find(session, job)
        row.state, row.progress = "running", {"phase": phase, "done": 2500, "total": 3000}
    assert f"</strong>: {said}</p>" in page(http, f"/v1/jobs/{job}")


def test_what_is_wrong_is_a_page_in_a_browser(http: TestClient) -> None:
    found = page(http, "/v1/jobs/job_nothing", status=404)
    assert "no job job_nothing" in found
    assert {"/", "/docs"} <= {urljoin("/v1/jobs/job_nothing", link) for link in re.findall(r'href="([^"]+)"', found)}
    assert "<i>" not in page(http, "/v1/jobs/<i>", status=404)
    (style,) = re.findall(r":root \{[^}]+\}", page(http, "/"))[:1]
    assert style in found  # it looks like the other pages


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html, application/json", ""])
def test_programs_have_problem_documents(http: TestClient, accept: str) -> None:
    assert problem(http.get("/v1/jobs/job_nothing", headers={"Accept": accept}), 404)["code"] == "job_not_found"
    assert problem(http.post("/v1/jobs", headers=BROWSER), 422)["code"] == "invalid_request"


def now() -> datetime:
    return datetime.now(UTC)


def test_a_training_shows_its_learning_curves_and_a_search_its_trials(
    http: TestClient, database: Database, versioned: str
) -> None:
    job = queued(http)
    path = f"/v1/jobs/{job}"
    assert f"{job}/chart.svg" not in page(http, path)
    settings = {"strategy": "scratch", "learning_rate": 0.1, "augmentation": {"policy": "crop", "mixup": 0.0}}
    other = {**settings, "augmentation": {"policy": "trivial", "mixup": 0.0}}
    trial = {"loss": 0.3, "accuracy": 0.9, "seconds": 2.0, "epochs": 1}
    told = [
        events.Line("trial_started", {"number": 1, "settings": settings, "expected_seconds": None}),
        events.Line("epoch_finished", {"epoch": 1, "train_loss": 1, "validation_loss": 1, "validation_accuracy": 0.5}),
        events.Line("trial_finished", {"number": 1, "outcome": "finished", "settings": settings, **trial}),
        events.Line("trial_started", {"number": 2, "settings": other, "expected_seconds": None}),
        events.Line("trial_finished", {"number": 2, "outcome": "pruned", "settings": other, **trial}),
        events.Line("search_ended", {"kept": 1}),
    ]
    with database.write() as session:
        claim = leases.claim(session, job, now=now(), lease_seconds=60)
        assert claim is not None
        leases.record(session, claim, told, now=now(), lease_seconds=60)

    found = page(http, path)
    assert f'src="{job}/chart.svg"' in found
    assert "polyline" not in http.get(f"{path}/chart.svg").text  # a single epoch is a dot
    assert f"{path}/chart.svg" in links(http, path)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr><td>\d</td>.*", found)]
    assert [" ".join(row) for row in rows] == [
        "1 as planned 90.0 % 0.300 1 2.0 finished, kept",
        "2 augmentation policy trivial 90.0 % 0.300 1 2.0 ended early, as it did worse than most",
    ]
    assert found.count("policy") == 1


def test_the_start_page_leads_to_earlier_versions_aliases_and_rankings(
    http: TestClient, database: Database, versioned: str
) -> None:
    for number in range(1, 9):
        factories.register_version(database, f"mv_{number}", versioned, labels=["ants", "bees"])
    assert http.put("/v1/models/insects/aliases/production", json={"version": 2}).status_code == 201
    ranking_id = ranked.ranked(database, ranked.asked(http, versioned)["id"])
    found = page(http, "/")
    shown = re.findall(r'href="v1/models/insects/versions/(\d)/evaluation">([^<]+)<', found)
    assert shown == [
        ("8", "insects@8"),
        *((f"{number}", f"@{number}") for number in range(7, 2, -1)),
        ("2", "production @2"),
    ]
    assert f'<a href="v1/rankings/{ranking_id}">photos, version 1</a>' in found
