"""The examples that /docs shows work as they are, one after the other, on a service with one data set and one model."""

import random
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import samples
from tests import factories
from tests.e2e import service
from tests.e2e.conftest import ELSEWHERE
from tests.e2e.service import Service

pytestmark = [
    pytest.mark.skipif(bool(ELSEWHERE), reason="a service elsewhere may hold what the examples create"),
    # They are the same in both forms of the service, and many.
    pytest.mark.parametrize("running", ["embedded"], indirect=True, scope="session"),
]

Operation = tuple[str, str]


@pytest.fixture(scope="module")
def http(running: Service) -> Iterator[httpx.Client]:
    with running.http() as client:
        yield client


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def archive(folder: Path) -> Path:
    path, rng = folder / "patterns.zip", random.Random(0)
    with zipfile.ZipFile(path, "w") as packed:
        for label in ("dots", "stripes"):
            for number in range(8):
                packed.writestr(f"{label}/{number}.jpg", samples.photo(label, rng))
    return path


def filled(path: str, operation: dict[str, Any], ids: dict[str, str]) -> str:
    """The path with each parameter's example in its place, or the id that an earlier answer gave."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            examples = parameter["schema"].get("examples") or [ids.get(parameter["name"])]
            assert examples[0] is not None, f"{path}: neither an example nor an id for {parameter['name']}"
            path = path.replace(f"{{{parameter['name']}}}", str(examples[0]))
    return path


def headers(operation: dict[str, Any]) -> dict[str, str]:
    return {
        parameter["name"]: parameter["schema"]["examples"][0]
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header" and "examples" in parameter["schema"]
    }


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def example_of(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """What the page of the documentation makes of a schema: its example, or one put together from its parts."""
    schema = resolved(document, schema)
    if "example" in schema:
        return schema["example"]
    if "examples" in schema:
        return schema["examples"][0]
    if schema.get("type") == "array":
        return [example_of(document, schema["items"])]
    return {name: example_of(document, part) for name, part in schema["properties"].items()}


def bodies(document: dict[str, Any], operation: dict[str, Any]) -> list[Any]:
    """Every example of a JSON body; one empty place where there is no JSON body."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return [None]
    if "examples" in content:
        return [example["value"] for example in content["examples"].values()]
    return [example_of(document, content["schema"])]


def test_every_route_works_with_its_examples(http: httpx.Client, document: dict[str, Any], tmp_path: Path) -> None:
    left: dict[Operation, dict[str, Any]] = {
        (method, path): operation for path, routes in document["paths"].items() for method, operation in routes.items()
    }
    ids: dict[str, str] = {}

    def call(method: str, path: str) -> list[httpx.Response]:
        operation = left.pop((method, path))
        answers = [
            http.request(method.upper(), filled(path, operation, ids), json=body, headers=headers(operation))
            for body in bodies(document, operation)
        ]
        for answer in answers:
            assert answer.is_success, (method, path, answer.text)
        return answers

    call("post", "/v1/anatomy")
    call("post", "/v1/datasets")
    left.pop(("post", "/v1/datasets/{dataset_id}/imports"))  # its body is an archive, of which no page has an example
    received = service.upload(http, "patterns", archive(tmp_path))
    ids["import_id"] = received["id"]
    service.succeeded(http, received["job"]["id"])

    def stop(job_ids: Iterable[str]) -> None:  # nothing else could begin until they have ended
        for job_id in reversed([*job_ids]):  # the first one may run, and the next would begin in its place
            answer = http.post(f"/v1/jobs/{job_id}/cancel")
            assert answer.is_success or answer.json()["code"] == "job_has_ended", answer.text

    # As the demo leaves it, and trained once more.
    for seed in (0, 1):
        asked_for = service.train(http, "patterns", "patterns", backbone="formnet", strategy="head", seed=seed)
        trained = service.succeeded(http, asked_for["id"])["id"]
    asked = [answer.json() for answer in call("post", "/v1/jobs")]
    ranking = next(job["id"] for job in asked if job["kind"] == "rank")
    ids["job_id"] = next(job["id"] for job in asked if job["spec"].get("search"))
    call("post", "/v1/jobs/{job_id}/finish")
    ids["job_id"] = trained
    stop(job["id"] for job in asked if job["id"] != ranking)
    ids["ranking_id"] = service.succeeded(http, ranking)["result"]["ranking"]
    plans = call("post", "/v1/plans")
    assert [plan.status_code for plan in plans] == [200, 202]
    stop([plans[1].json()["id"]])
    measured = service.succeeded(http, service.measure(http, "patterns", backbone=factories.SMALL)["id"])
    ids["profile_id"] = measured["result"]["profile"]
    experiments = [answer.json() for answer in call("post", "/v1/experiments")]
    ids["experiment_id"] = experiments[0]["id"]
    runs = [arm["job_id"] for experiment in experiments for arm in experiment["arms"].values()]
    stop(runs)
    alias = "/v1/models/{name}/aliases/{alias}"
    call("put", alias)
    moved = http.put("/v1/models/patterns/aliases/production", json={"version": 2}, headers={"If-Match": "*"})
    assert moved.is_success, moved.text
    call("post", f"{alias}/rollback")
    version = "/v1/models/{name}/versions/{number}"
    (optimising,) = call("post", f"{version}/optimise")
    service.succeeded(http, optimising.json()["id"])
    call("put", f"{version}/runtimes")
    left.pop(("get", "/v1/models/{name}/versions/{number}/evaluation/mistakes/{place}.jpg"))  # there may be no mistake
    for method, path in sorted(left, reverse=True):  # predictions first, which load what is then asked for being ready
        if method == "get" or path.endswith(("/predict", ":predict", "/infer")):
            call(method, path)

    call("delete", alias)
    recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 500}
    ids["job_id"] = service.train(http, "patterns", "patterns", **recipe)["id"]
    call("post", "/v1/jobs/{job_id}/pause")
    service.in_state(http, ids["job_id"], "paused")
    call("post", "/v1/jobs/{job_id}/resume")
    call("post", "/v1/jobs/{job_id}/cancel")
    service.in_state(http, ids["job_id"], "cancelled")
    call("post", "/v1/jobs/{job_id}/retry")
    stop([ids["job_id"]])
    for job in http.get("/v1/jobs", params={"limit": 200}).json()["data"]:
        service.finished(http, job["id"])  # a version that one works with stays
    call("delete", version)
    call("delete", "/v1/models/{name}")
    call("patch", "/v1/datasets/{dataset_id}")
    call("delete", "/v1/datasets/{dataset_id}")
    assert not left
