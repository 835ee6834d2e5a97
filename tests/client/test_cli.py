"""The command line where something is wrong: one plain line, and exit code 1."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import cli, local
from client.errors import Refused
from tests.e2e import service


def test_a_service_that_does_not_answer_is_said_with_its_address() -> None:
    url = f"http://127.0.0.1:{service.free_port()}"
    result = CliRunner().invoke(cli.app, ["models", "--url", url])

    assert result.exit_code == 1
    assert f"no answer from {url}" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_command_says_what_it_does() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])

    assert result.exit_code == 0
    for name in (
        "up",
        "demo",
        "migrate",
        "train",
        "plan",
        "rank",
        "predict",
        "jobs",
        "cancel",
        "retry",
        "models",
        "alias",
        "aliases",
        "rollback",
        "delete",
        "datasets",
        "download",
        "delete-dataset",
        "backbones",
        "optimise",
        "runtimes",
    ):
        assert name in result.stdout


def test_a_taken_port_is_refused_only_where_it_was_asked_for() -> None:
    with service.taken_port() as taken:
        with pytest.raises(Refused, match=f"port {taken} .* is taken"):
            local.port_or_free(taken)
        assert local.port_or_free(None) != taken


def test_a_service_that_does_not_start_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_LEASE_SECONDS", "never")
    expected = pytest.raises(Refused, match=r"(?s)ended with code 1.*lease_seconds")
    with expected, local.service(tmp_path / "data", port=service.free_port()):
        pass


def test_a_service_that_ends_by_itself_is_not_waited_for_and_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_text("there is no memory left")
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        running = local.Running("http://127.0.0.1:1", process, log)
        with pytest.raises(Refused, match=r"the service has ended with code 3.*service\.log:\nthere is no memory left"):
            running.wait()


def test_a_label_that_is_mapped_to_nothing_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.app, ["train", str(tmp_path), "--model", "flowers", "--base", "flowers@1", "--label-map", "rose"]
    )

    assert result.exit_code == 2
    assert "'rose' is not OLD=NEW" in result.stderr


def test_the_demo_keeps_its_files_where_the_service_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFT_DATA_DIR", raising=False)
    assert local.data_dir(None) == Path("graft-data")
    monkeypatch.setenv("GRAFT_DATA_DIR", "/srv/graft")
    assert local.data_dir(None) == Path("/srv/graft")
    assert local.data_dir(Path("other")) == Path("other")
