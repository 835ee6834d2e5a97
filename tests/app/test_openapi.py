"""The OpenAPI document: what it promises holds for whatever requests it allows, and for those it does not."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.engine import URL

from app.deps import OPERATIONS
from app.doorbell import SilentDoorbell
from app.main import assemble
from app.optimisation import FORMS_ON
from app.problems import Problem
from app.settings import Settings
from tests import databases
from tests.problems import problem

EXAMPLES = 4
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def applications(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: URL, postgres_template: str
) -> Iterator[tuple[FastAPI, ...]]:
    """The application over each kind of database."""
    with ExitStack() as stack:
        postgres = stack.enter_context(databases.postgres_copy(postgres_server, postgres_template))
        found = []
        for url in (None, postgres.render_as_string(hide_password=False)):
            given = Settings(
                data_dir=tmp_path_factory.mktemp("openapi"),
                database_url=url,
                download_weights=False,
                max_image_pixels=1_000_000,
                threads=1,
            )
            databases.migrate(given.sqlalchemy_url)
            app = assemble(given, SilentDoorbell())
            stack.enter_context(TestClient(app))
            found.append(app)
        yield tuple(found)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.name.lower())
def test_every_answer_is_as_documented(applications: tuple[FastAPI, ...], mode: schemathesis.GenerationMode) -> None:
    described = schemathesis.openapi.from_asgi("/openapi.json", applications[0])
    operations = [result.ok() for result in described.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @seed(0)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            # To think of a request takes longer than to answer it, so each is sent to both.
            for app in applications:
                case.call_and_validate(checks=CHECKS, app=app)

        try:
            check()
        except Unsatisfiable:
            continue  # nothing can be wrong with a request that has no parameters


def test_every_route_is_described_and_has_problem_documents(http: TestClient) -> None:
    document = http.get("/openapi.json").json()

    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            assert operation.get("description"), (method, path)
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)


def test_each_status_has_an_example_of_its_own(http: TestClient) -> None:
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values() if int(status) >= 400 else ():
                    example = content["example"]
                    assert example["status"] == int(status), (method, path)
                    assert example["type"].removeprefix("urn:graft:problem:") == example["code"]
                    assert Problem.model_validate(example).detail


def test_routes_are_described_group_by_group_for_who_is_new(http: TestClient) -> None:
    document = http.get("/openapi.json").json()
    groups = [group["name"] for group in document["tags"]]
    used = {tag for operations in document["paths"].values() for each in operations.values() for tag in each["tags"]}

    assert set(groups) == used
    assert groups[:5] == ["datasets", "jobs", "plans", "models", "predictions"]
    assert all(group["description"].endswith(".") for group in document["tags"])


def test_what_an_address_is_tried_with_is_what_the_demo_makes(http: TestClient) -> None:
    operation = http.get("/openapi.json").json()["paths"]["/v1/models/{name}/versions/{number}"]["get"]

    assert [parameter["example"] for parameter in operation["parameters"]] == ["patterns", 1]


def test_the_forms_that_an_optimisation_is_tried_with_run_on_its_device(http: TestClient) -> None:
    example = http.get("/openapi.json").json()["components"]["schemas"]["OptimisationCreate"]["example"]

    assert example["device"] == "cpu"  # which every worker has
    assert set(example["forms"]) <= set(FORMS_ON["cpu"])


def test_whoever_checks_links_may_ask_for_pages_by_head(http: TestClient) -> None:
    for path in ("/", "/docs", "/openapi.json"):
        answer = http.head(path)
        assert answer.status_code == 200, path


def test_every_route_refuses_query_parameters_that_it_does_not_describe(http: TestClient) -> None:
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            if OPERATIONS in operation["tags"] or path.startswith("/v2/health/"):
                continue  # probes add what they like
            answer = http.request(method, f"{path.replace('{', '').replace('}', '')}?no_such_one=1")
            assert problem(answer, 422)["code"] == "unknown_query_parameter", (method, path)
            assert "422" in operation["responses"], (method, path)


def test_query_parameters_come_once_unless_they_are_a_list(http: TestClient) -> None:
    twice = problem(http.get("/v1/jobs?limit=1&after=a&limit=2"), 422)
    assert twice["detail"] == "query parameter 'limit' is there more than once"
    assert problem(http.get("/v1/jobs?stat=queued"), 422)["nearest"][0] == "state"
    labels = "/v1/backbones/resnet50/weights/IMAGENET1K_V1/labels?label=tench&label=goldfish"
    assert http.get(labels).status_code == 200
