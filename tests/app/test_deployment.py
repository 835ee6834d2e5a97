"""What is written down for operators agrees with the settings that there are."""

import re
from pathlib import Path

from app import server
from app.doorbell import SilentDoorbell
from app.main import assemble
from app.predictions.desk import DRAIN_SECONDS, WARM_SECONDS
from app.settings import Settings

ROOT = Path(__file__).parents[2]
FIXED_BY_COMPOSE = {"GRAFT_DATABASE_URL", "GRAFT_BROKER_URL", "GRAFT_WEIGHTS_DIR"}
FIXED_BY_ITS_IMAGE = {"GRAFT_DATA_DIR"}
SETTINGS = {f"GRAFT_{name.upper()}" for name in Settings.model_fields}


def test_compose_fixes_a_setting_or_passes_it_on() -> None:
    shared = (ROOT / "docker-compose.yml").read_text().partition("\nservices:")[0]
    entries = dict(re.findall(r"^    (GRAFT_\w+):(.*)$", shared, re.MULTILINE))
    assert {name for name, value in entries.items() if value} == FIXED_BY_COMPOSE
    assert entries.keys() == SETTINGS - FIXED_BY_ITS_IMAGE


def test_models_are_served_on_the_device_that_they_are_optimised_for() -> None:
    services = (ROOT / "docker-compose.gpu.yml").read_text().partition("\nservices:")[2]
    counts = re.findall(r"^  (\w+):\n    deploy:\n(?:     .*\n)*? +count: (\w+)$", services, re.MULTILINE)
    assert dict(counts) == {"worker": "1", "predict": "all"}


def test_an_upload_does_not_wait_until_a_training_is_done() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"^      - --queues=(\S+)$", compose, re.MULTILINE) == ["gpu", "cpu"]


def test_the_image_has_what_torch_compiles_by() -> None:
    installed = re.search(r"apt-get install .*--no-install-recommends (.*) \\", (ROOT / "Dockerfile").read_text())
    assert installed is not None
    assert {"g++", "gcc", "libc6-dev"} <= set(installed[1].split())


def test_servers_that_are_stopped_finish_what_they_accepted(tmp_path: Path) -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    image = (ROOT / "Dockerfile").read_text()
    app = assemble(Settings(data_dir=tmp_path), SilentDoorbell())
    assert server.build(app).config.timeout_graceful_shutdown == DRAIN_SECONDS
    assert image.count('"app.server"') == 1
    assert compose.count("- app.server\n") == 2
    for name in ("proxy", "api"):  # `predict` has what `api` has
        service = re.search(rf"^  {name}:.*\n(?:    .*\n|\n)*?    stop_grace_period: (\d+)s$", compose, re.MULTILINE)
        assert service is not None
        assert int(service[1]) > DRAIN_SECONDS


def test_who_sends_a_body_too_slowly_is_told_so_by_the_service_before_the_proxy_ends_the_connection(
    tmp_path: Path,
) -> None:
    patience = re.search(r"^client_body_timeout (\d+)s;$", (ROOT / "proxy.conf").read_text(), re.MULTILINE)
    assert patience is not None
    assert int(patience[1]) >= Settings(data_dir=tmp_path).predict_body_seconds + 15


def test_a_container_for_predictions_is_healthy_once_it_has_what_it_keeps_in_memory() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    service = re.search(r"^  predict:\n((?:    .*\n)+)", compose, re.MULTILINE)
    assert service is not None
    assert "http://127.0.0.1:8000/v2/health/ready" in service[1]
    start = re.search(r"^      start_period: (\d+)m$", service[1], re.MULTILINE)
    assert start is not None
    assert 60 * int(start[1]) > WARM_SECONDS


def test_every_setting_is_described() -> None:
    section = (ROOT / "docs" / "deployment.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    table = re.findall(r"^\|(.*?)\|", section, re.MULTILINE)
    assert {name for row in table for name in re.findall(r"`(GRAFT_\w+)`", row)} == SETTINGS
