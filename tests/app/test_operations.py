"""Health, docs, and what the API process loads."""

import json
import subprocess
import sys

from fastapi.testclient import TestClient

from app.doorbell import SilentDoorbell
from app.main import assemble
from app.settings import Settings
from tests.problems import problem


def test_a_running_service_is_alive_and_ready(http: TestClient) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ok", "workers": []}


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


def test_importing_the_application_loads_no_worker_and_opens_nothing() -> None:
    program = (
        "import sys, json, threading, app.main\n"
        "app.main.create()\n"
        "print(json.dumps({'modules': sorted(sys.modules), 'threads': threading.active_count()}))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = json.loads(output)

    for module in loaded["modules"]:
        assert module.split(".")[0] not in ("worker", "celery", "lance", "client"), module
    assert loaded["threads"] == 1
