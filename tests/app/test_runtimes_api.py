"""The forms of a model version over HTTP: a job that compares them, what it found, and what is pinned."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app import errors
from app.db import Database, utc_now
from app.jobs.tables import Job
from app.main import assemble
from app.models import service as models
from app.models import serving
from app.models.serving import NewOptimisation
from app.models.tables import ModelVersion, Optimisation
from app.optimisation import NO_PINS, Pins, Report
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app.conftest import Bell
from tests.app.test_evaluation_api import measured, register
from tests.app.test_optimisation import REPORT
from tests.problems import problem

__all__ = ["register"]

VERSION = "/v1/models/insects/versions/1"
URL = f"{VERSION}/runtimes"
LABELS = ("ants", "bees")


@pytest.fixture
def version_id(http: TestClient, database: Database, dataset_id: str) -> str:
    identifier = models.new_version_id()
    factories.register_version(database, identifier, dataset_id, labels=LABELS)
    return identifier


@pytest.fixture
def optimised(database: Database, version_id: str) -> str:
    """Id of an optimisation of that version."""
    return record(database, version_id)


def record(database: Database, version_id: str, report: Report = REPORT) -> str:
    identifier = serving.new_optimisation_id()
    with database.write() as session:
        job_id = models.find_version(session, "insects", 1).job_id
        serving.record(session, NewOptimisation(identifier, version_id, job_id, report), now=utc_now())
    return identifier


def test_a_job_is_queued_once_for_all_who_ask_for_the_same(
    http: TestClient, bell: Bell, database: Database, version_id: str
) -> None:
    first = http.post(f"{VERSION}/optimise", json={})
    assert first.status_code == 202
    job = first.json()
    assert first.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["model_name"], job["dataset_version"]) == ("optimise", "insects", 1)
    assert job["spec"]["wanted"]["tolerance"] == {
        "accuracy_points": 0.5, "agreement": 0.99, "unknown_agreement": 0.95
    }  # fmt: skip
    assert ("gpu", job["id"]) in bell.rung
    assert http.post(f"{VERSION}/optimise", json={"device": "gpu"}).json()["id"] == job["id"]
    assert http.post(f"{VERSION}/optimise").json()["id"] == job["id"]
    strict = http.post(f"{VERSION}/optimise", json={"tolerance": {"agreement": 1.0}, "device": "cpu"}).json()
    assert strict["id"] != job["id"]
    with database.read() as session:
        queued = session.get(Job, strict["id"])
        assert queued is not None
        assert queued.queue == "cpu"


def test_forms_are_the_same_in_any_order_and_each_is_compared_once(http: TestClient, version_id: str) -> None:
    forms = ["tensorrt-fp16", "openvino-int8", "onnxruntime-fp32"]
    asked = [
        http.post(f"{VERSION}/optimise", json={"forms": given}).json()
        for given in (forms, forms[::-1], [forms[1], *forms])
    ]
    assert len({job["id"] for job in asked}) == 1
    assert asked[0]["spec"]["wanted"]["forms"] == ["onnxruntime-fp32", "openvino-int8", "tensorrt-fp16"]


def test_a_request_repeated_with_its_key_is_answered_with_its_job_also_after_its_end(
    http: TestClient, version_id: str
) -> None:
    key = {"Idempotency-Key": "k"}
    first = http.post(f"{VERSION}/optimise", json={}, headers=key).json()["id"]
    assert http.post(f"/v1/jobs/{first}/cancel").json()["state"] == "cancelled"

    again = http.post(f"{VERSION}/optimise", json={}, headers=key)
    assert (again.status_code, again.json()["id"]) == (202, first)
    assert again.headers["location"] == f"/v1/jobs/{first}"
    other = http.post(f"{VERSION}/optimise", json={"device": "cpu"}, headers=key)
    assert problem(other, 422)["code"] == "idempotency_key_reused"
    assert http.post(f"{VERSION}/optimise", json={}).json()["id"] != first


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"forms": ["openvino-int9"]}, "openvino-int8"),
        ({"tolerance": {"agreement": 1.5}}, "less than or equal to 1"),
        ({"tolerance": {"accuracy": 1}}, "accuracy"),
        ({"forms": []}, "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(http: TestClient, version_id: str, body: dict[str, object], said: str) -> None:
    assert said in http.post(f"{VERSION}/optimise", json=body).text
    problem(http.post(f"{VERSION}/optimise", json=body), 422)
    assert problem(http.post("/v1/models/insects/versions/2/optimise", json={}), 404)["code"] == (
        "model_version_not_found"
    )


def test_a_version_whose_data_set_is_deleted_is_not_optimised(
    http: TestClient, dataset_id: str, version_id: str
) -> None:
    http.delete(f"/v1/datasets/{dataset_id}", headers={"If-Match": "*"})

    document = problem(http.post(f"{VERSION}/optimise", json={}), 409)

    assert document["code"] == "images_gone"
    assert "insects@1" in document["detail"]


@pytest.mark.parametrize(
    ("body", "place", "said"),
    [
        ({"forms": ["openvino-fp32", "openvin"]}, ["body", "forms", 1], "no form 'openvin'; did you mean openvino-"),
        ({"forms": ["torch-int8"]}, ["body", "forms", 0], "no form 'torch-int8'; did you mean torch-"),
        ({"forms": ["tensorrt-fp16"], "device": "cpu"}, ["body", "forms"], "tensorrt-fp16 cannot be run on a CPU"),
    ],
)
def test_forms_that_nothing_can_build_are_refused_at_once_with_those_that_something_can(
    http: TestClient, version_id: str, body: dict[str, object], place: list[object], said: str
) -> None:
    (wrong,) = problem(http.post(f"{VERSION}/optimise", json=body), 422)["errors"]
    assert wrong["location"] == place
    assert wrong["message"].startswith(said)
    assert "onnxruntime-bf16" not in wrong["message"]
    assert http.post(f"{VERSION}/optimise", json={"forms": ["tensorrt-fp16"]}).status_code == 202


def test_what_is_pinned_or_served_is_kept(http: TestClient, database: Database, optimised: str) -> None:
    def kept(process: Pins = NO_PINS) -> tuple[str, ...]:
        with database.read() as session:
            return serving.forms_to_keep(session, models.find_version(session, "insects", 1).id, process)

    assert kept() == ("onnxruntime-int8",)
    pinned = http.put(URL, json={"runtime": "openvino", "precision": "fp32"}, headers={"If-Match": "*"})
    assert pinned.status_code == 200
    assert kept() == ("openvino-fp32", "openvino-fp32")
    assert kept(Pins("onnxruntime", "int8")) == ("onnxruntime-int8", "onnxruntime-int8")


def test_whoever_holds_a_version_goes_by_what_is_pinned_then(database: Database, version_id: str) -> None:
    with database.write() as session:
        version = session.get_one(ModelVersion, version_id)
        elsewhere = update(ModelVersion).values(runtime="openvino", precision="fp32")
        session.execute(elsewhere, execution_options={"synchronize_session": False})
        serving.hold(session, version_id)
        assert serving.pins_of(version) == Pins("openvino", "fp32")


def test_a_version_that_was_not_optimised_is_run_as_it_was_trained(http: TestClient, version_id: str) -> None:
    answer = http.get(URL)
    assert answer.headers["etag"] == '"1"'
    body = answer.json()
    assert body["pins"] == {"runtime": "auto", "precision": "auto"}
    assert body["optimisations"] == []
    (served,) = body["served"]
    assert (served["device"], served["forms"]) == (None, ["torch-fp32"])
    assert "not optimised" in served["why"]


def test_all_forms_are_told_with_what_is_served_and_why(
    http: TestClient, database: Database, version_id: str, optimised: str
) -> None:
    newer = record(database, version_id)
    body = http.get(URL).json()
    (found,) = body["optimisations"]
    assert found["id"] == newer
    assert len(found["report"]["forms"]) == len(REPORT.forms)
    assert found["report"]["forms"][-1]["reason"] == "not installed"
    (served,) = body["served"]
    assert (served["device"], served["optimisation"]) == ("cpu", newer)
    assert served["forms"] == list(REPORT.order)
    assert "4.0 times" in served["why"]


def test_pins_need_the_state_that_they_are_based_on(http: TestClient, optimised: str) -> None:
    problem(http.put(URL, json={"runtime": "onnxruntime"}), 428)
    changed = http.put(URL, json={"runtime": "onnxruntime", "precision": "fp32"}, headers={"If-Match": '"1"'})
    assert changed.status_code == 200, changed.text
    assert changed.headers["etag"] == '"2"'
    assert changed.json()["served"][0]["forms"] == ["onnxruntime-fp32", "torch-fp32"]
    problem(http.put(URL, json={}, headers={"If-Match": '"1"'}), 412)
    assert http.get(URL).json()["pins"] == {"runtime": "onnxruntime", "precision": "fp32"}
    back = http.put(URL, json={}, headers={"If-Match": "*"})
    assert back.json()["served"][0]["forms"] == list(REPORT.order)


def test_pins_count_at_once_in_the_process_that_sets_them(
    settings: Settings, bell: Bell, version_id: str, optimised: str
) -> None:
    api = assemble(settings.model_copy(update={"registry_seconds": 3600.0}), bell)
    with TestClient(api) as client:
        known = api.state.directory
        assert known.snapshot.served["insects@1"].serving.forms == REPORT.order
        body = {"runtime": "openvino", "precision": "int8"}
        assert client.put(URL, json=body, headers={"If-Match": "*"}).status_code == 200
        assert known.snapshot.served["insects@1"].serving.forms == ("openvino-int8", "torch-fp32")


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({"runtime": "onnx"}, "unknown_runtime", ["onnxruntime"]),
        ({"precision": "int4"}, "unknown_precision", ["int8"]),
        ({"runtime": "tensorrt"}, "form_not_built", ["onnxruntime-int8"]),
        ({"runtime": "torch-compiled"}, "form_not_built", ["not installed"]),
    ],
)
def test_pins_that_cannot_be_are_answered_with_those_that_can(
    http: TestClient, optimised: str, body: dict[str, str], code: str, told: Sequence[str]
) -> None:
    answer = http.put(URL, json=body, headers={"If-Match": "*"})
    assert problem(answer, 422)["code"] == code
    assert all(word in answer.text for word in told)
    assert http.get(URL).headers["etag"] == '"1"'


def test_a_process_may_pin_for_all_versions(settings: Settings, bell: Bell, version_id: str, optimised: str) -> None:
    fixed = settings.model_copy(update={"precision": "fp32"})
    with TestClient(assemble(fixed, bell)) as client:
        assert client.get(URL).json()["served"][0]["forms"] == ["onnxruntime-fp32", "torch-fp32", "openvino-fp32"]
    with pytest.raises(errors.UnknownName, match="did you mean openvino"):
        assemble(settings.model_copy(update={"runtime": "opnvino"}), bell)


def test_the_card_and_the_page_have_the_table(
    http: TestClient, database: Database, files: Storage, register: Callable[..., Any]
) -> None:
    register(asdict(measured(LABELS)), LABELS)
    assert "How it is run" not in http.get(f"{VERSION}/card").text
    with database.read() as session:
        version_id = models.find_version(session, "insects", 1).id
    record(database, version_id)
    card = http.get(f"{VERSION}/card").text
    assert "On a CPU with 2 threads, **onnxruntime-int8** is served." in card
    rows = [line for line in card.splitlines() if line.startswith(("| torch", "| onnx", "| openvino"))]
    assert len(rows) == len(REPORT.forms)
    assert {row.count("|") for row in rows} == {12}
    page = http.get(f"{VERSION}/evaluation", headers={"Accept": "text/html"}).text
    assert "<h2>Runtimes on a CPU with 2 threads</h2>" in page
    assert "outside the tolerance: its accuracy is lower" in page
    assert "not to be had: not installed" in page
    assert page.count('<td class="text">onnxruntime-int8</td>') == 1


def test_what_each_form_refuses_and_passes_together_is_told_and_not_of_optimisations_of_old(
    http: TestClient, database: Database, files: Storage, register: Callable[..., Any]
) -> None:
    register(asdict(measured(LABELS)), LABELS)
    with database.read() as session:
        version_id = models.find_version(session, "insects", 1).id
    plain, other = REPORT.forms[:2]
    assert other.figures is not None
    assert other.speed is not None
    told = replace(other.figures, refused=0.0475, unknown_agreement=0.976, unknown_below=0.31)
    forms = (plain, replace(other, figures=told, speed=replace(other.speed, images_per_second=87.0, batch=4)))
    optimisation_id = record(database, version_id, replace(REPORT, forms=forms, order=("torch-fp32",)))
    with database.write() as session:
        row = session.get_one(Optimisation, optimisation_id)
        of_old = {name: value for name, value in row.report["forms"][0]["figures"].items() if value is not None}
        speed_of_old = {name: value for name, value in row.report["forms"][0]["speed"].items() if name != "batch"}
        first_of_old = {**row.report["forms"][0], "figures": of_old, "speed": speed_of_old}
        row.report = {**row.report, "forms": [first_of_old, row.report["forms"][1]]}

    first, second = http.get(URL).json()["optimisations"][0]["report"]["forms"]
    names = ("refused", "unknown_agreement", "unknown_below")
    assert [first["figures"][name] for name in names] == [None, None, None]
    assert [second["figures"][name] for name in names] == [0.0475, 0.976, 0.31]
    assert (first["speed"]["batch"], second["speed"]["batch"]) == (None, 4)
    card, page = http.get(f"{VERSION}/card").text, http.get(f"{VERSION}/evaluation?format=html").text
    (row_of_old,) = (line for line in card.splitlines() if line.startswith("| torch-fp32"))
    assert row_of_old.split(" | ")[5] == "\N{EN DASH}"
    assert "| 4.8 % (97.6 %) |" in card
    assert "<td>4.8 % (97.6 %)</td>" in page
    assert "| 87 (4) |" in card
    assert "<td>87 (4)</td>" in page
    assert "(" not in row_of_old


def test_little_memory_is_not_told_as_none(
    http: TestClient, database: Database, files: Storage, register: Callable[..., Any]
) -> None:
    register(asdict(measured(LABELS)), LABELS)
    with database.read() as session:
        version_id = models.find_version(session, "insects", 1).id
    plain = REPORT.forms[0]
    assert plain.speed is not None
    small, large = (replace(plain, speed=replace(plain.speed, memory_bytes=count)) for count in (400_000, 12_300_000))
    record(
        database, version_id, replace(REPORT, forms=(small, replace(large, runtime="openvino")), order=("torch-fp32",))
    )
    for text in (
        http.get(f"{VERSION}/evaluation?format=html").text.replace("&lt;", "<"),
        http.get(f"{VERSION}/card").text,
    ):
        assert "< 1 MB" in text
        assert "12 MB" in text


def test_what_is_not_optimised_yet_says_which_job_will_do_it(
    http: TestClient, database: Database, version_id: str
) -> None:
    def why() -> str:
        (served,) = http.get(URL).json()["served"]
        told: str = served["why"]
        return told

    assert "was not optimised" in why()
    job = http.post(f"{VERSION}/optimise").json()["id"]
    assert why().endswith(f"job {job}, which gives way to jobs of other kinds, is queued.")
    http.post(f"/v1/jobs/{job}/cancel")
    assert "was not optimised" in why()
    http.post(f"{VERSION}/optimise")
    record(database, version_id)
    assert "The fastest form" in why()
