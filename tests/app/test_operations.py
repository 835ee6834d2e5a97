"""Health, docs, and what the API process loads."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import cores
from app.db import Database
from app.doorbell import SilentDoorbell
from app.jobs import leases
from app.main import assemble
from app.settings import Settings
from tests.problems import problem

NOT_LOADED = ("worker", "celery", "lance", "client", "torchvision", "timm", "triton")
"""Packages that an API process does without, the last three until it builds a network."""


def test_a_running_service_is_alive_and_ready(http: TestClient) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ok", "workers": []}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_process_whose_clock_is_ahead_of_the_databases_loses_no_worker(
    http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        now = database.now(session)
        heard = now + timedelta(seconds=30)  # so that it does not matter how long this test takes
        leases.saw_worker(session, "worker_1", ["gpu"], weights=None, started_at=now, now=heard)
    for module in ("app.db", "app.operations", "app.dashboard.routes"):
        monkeypatch.setattr(f"{module}.utc_now", lambda: now + timedelta(minutes=1), raising=False)

    assert [worker["id"] for worker in http.get("/readyz").json()["workers"]] == ["worker_1"]
    assert "1 worker is there" in http.get("/", headers={"Accept": "text/html"}).text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"])
def test_a_probe_may_have_parameters_of_its_own(http: TestClient, path: str) -> None:
    assert http.get(f"{path}?t=1764000000&t=2").status_code == 200


def test_what_is_in_fp32_is_computed_so_on_every_device(api: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with TestClient(api):
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


def test_predictions_are_made_in_as_many_threads_as_there_are_cores_to_use(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: 3)
    threads = torch.get_num_threads()
    try:
        with TestClient(assemble(settings.model_copy(update={"threads": 0}), SilentDoorbell())) as http:
            assert http.app.state.desk.parsing.total_tokens == 3  # type: ignore[attr-defined]
    finally:
        torch.set_num_threads(threads)


def test_a_database_without_tables_is_not_ready(settings: Settings) -> None:
    empty = settings.model_copy(update={"database_url": f"sqlite:///{settings.data_dir / 'empty.db'}"})
    with TestClient(assemble(empty, SilentDoorbell())) as http:
        assert problem(http.get("/readyz"), 503)["code"] == "database_unavailable"


def test_the_docs_need_no_other_host(http: TestClient) -> None:
    page = http.get("/docs").text

    assert "http://" not in page
    assert "https://" not in page
    script = page.split('<script src="')[1].split('"')[0]
    assert http.get(script).status_code == 200
    assert http.get("/", follow_redirects=False).headers["location"] == "/docs"


def test_what_networks_are_built_with_is_imported_from_the_start_where_predictions_are_answered(
    tmp_path: Path,
) -> None:
    program = (
        "import sys, threading\n"
        "from fastapi.testclient import TestClient\n"
        "import migrations\n"
        "from app.db import Database\n"
        "from app.doorbell import SilentDoorbell\n"
        "from app.main import assemble\n"
        "from app.settings import Settings\n"
        "migrations.upgrade(Database(Settings().sqlalchemy_url))\n"
        "for keeps_loaded in (False, True):\n"
        "    with TestClient(assemble(Settings(), SilentDoorbell(), keeps_loaded=keeps_loaded)):\n"
        "        for thread in threading.enumerate():\n"
        "            if thread.name == 'import':\n"
        "                thread.join()\n"
        "    print(keeps_loaded, 'torchvision' in sys.modules)\n"
    )
    environment = {**os.environ, "GRAFT_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert told.splitlines() == ["False False", "True True"]


def test_importing_the_application_loads_no_worker_and_no_compiler_and_opens_nothing() -> None:
    program = (
        "import sys, json, threading, app.main\n"
        "app.main.create()\n"
        "print(json.dumps({'modules': sorted(sys.modules), 'threads': threading.active_count()}))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = json.loads(output)

    for module in loaded["modules"]:
        assert module.split(".")[0] not in ("worker", "celery", "lance", "client", "torchvision", "timm", "triton"), (
            module
        )
    assert loaded["threads"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/datasets/%00",
        "/v1/datasets?after=%00",
        "/v1/datasets/photos/imports/%00",
        "/v1/jobs/a%00b/events",
        "/v1/jobs?dataset=%00",
        "/v1/models/%00/versions",
    ],
)
def test_an_address_with_nul_is_a_problem_of_its_own(http: TestClient, path: str) -> None:
    assert problem(http.get(path), 422)["code"] == "nul_character"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/datasets", {"name": "a\0b"}),
        ("/v1/datasets", {"name": "a", "description": "\0"}),
        ("/v1/jobs", {"dataset": "\0", "model": "m", "recipe": {"backbone": "tinynet"}}),
    ],
)
def test_nul_in_a_body_is_told_with_its_place(http: TestClient, path: str, body: dict[str, object]) -> None:
    (place,) = problem(http.post(path, json=body), 422)["errors"]
    assert place["location"][0] == "body"
    assert place["code"] in ("string_pattern_mismatch", "value_error")


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_a_process_whose_gpu_does_not_compute_any_more_asks_to_be_started_anew(
    api: FastAPI, http: TestClient, path: str
) -> None:
    assert http.get(path).status_code == 200
    # One that is not there fails as one does that was lost.
    api.state.desk = replace(api.state.desk, device=f"cuda:{torch.cuda.device_count()}")
    said = problem(http.get(path), 503)
    assert said["code"] == "device_failed"
    assert "started anew" in said["detail"]
