"""The command line where something is wrong: one plain line, and exit code 1."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from client import cli, local, steps, terminal
from client.api import Client
from client.errors import Refused
from tests.client import answering
from tests.e2e import service


def plainly_refused(*command: str) -> str:
    """What `graft` says as it refuses this in one line."""
    result = CliRunner().invoke(cli.app, command)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit), result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_service_that_does_not_answer_is_said_with_its_address() -> None:
    url = f"http://127.0.0.1:{service.free_port()}"
    result = CliRunner().invoke(cli.app, ["models", "--url", url])

    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: nothing answers at {url}; start the service with `graft up`, or say where it is with --url\n"
    )
    assert "Traceback" not in result.stderr


class _Website(answering.Handler):
    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        self.answer(200, b"<!doctype html><title>Welcome</title>", Content_Type="text/html")


@pytest.mark.parametrize("command", ["models", "backbones", "jobs"])
def test_what_answers_in_place_of_the_service_is_told_with_its_address(command: str) -> None:
    with answering.serving(answering.Server(_Website)) as website:
        told = plainly_refused(command, "--url", website.url)
    assert f"what answers at {website.url}/v1/{command}" in told
    assert "is not Graft" in told


@pytest.mark.parametrize("end", ["/", "/v1", "/v1/"])
def test_an_address_may_be_given_with_what_its_routes_begin_with(end: str) -> None:
    with Client(f"http://host:8000/graft{end}") as client:
        assert client.url == "http://host:8000/graft"


def test_what_makes_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_URL", "http://host:port")
    assert "no address of a service, such as http://127.0.0.1:8000: http://host:port" in plainly_refused("models")


class _Empty(answering.Handler):
    """Has no data set."""

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(404, msgspec.json.encode({"detail": "no dataset", "code": "dataset_not_found"}))


def refused_training_of(photos: Path) -> str:
    """What `graft train` says where nothing is wrong but the photos."""
    with answering.serving(answering.Server(_Empty)) as empty:
        return plainly_refused("train", str(photos), "--model", "ants", "--url", empty.url)


def test_a_photo_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    photo = tmp_path / "ants" / "1.jpg"
    photo.parent.mkdir()
    photo.symlink_to("/proc/self/mem")  # which nobody can read from its beginning
    assert f"{tmp_path} cannot be packed for the upload" in refused_training_of(tmp_path)
    assert f"{photo} cannot be read: " in plainly_refused("predict", "insects", str(photo))


def test_names_of_photos_that_are_no_text_are_refused_only_where_they_have_to_be(tmp_path: Path) -> None:
    photo = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn.jpg"))
    photo.write_bytes(b"ant")
    assert "gr\\udcfcn.jpg has a name that is not UTF-8" in refused_training_of(tmp_path)

    with answering.serving(answering.Server(_Oracle)) as oracle:
        result = CliRunner().invoke(cli.app, ["predict", "insects", str(photo), "--url", oracle.url])
    assert result.exit_code == 0, result.output
    assert "gr\\udcfcn.jpg: ants 100.0 %" in result.stdout


class _Oracle(answering.Handler):
    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self.rfile.read(int(self.headers["Content-Length"]))
        labels = [{"label": "ants", "probability": 1.0}]
        self.answer(200, msgspec.json.encode({"model": "insects", "version": 1, "predictions": [{"labels": labels}]}))


NAMES = ["photos [old]", "[/red]", "a :bee: b", "[link=x]"]


class _Shelf(answering.Handler):
    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        rows = [{"id": name, "name": name, "latest_version": 1, "created_at": "2026-01-02T03:04:05Z"} for name in NAMES]
        self.answer(200, msgspec.json.encode({"data": rows, "has_more": False}))

    def do_DELETE(self) -> None:  # noqa: N802 -- as http.server calls it
        self.answer(200, b"")


def test_names_are_printed_as_they_are_also_where_they_look_like_markup() -> None:
    with answering.serving(answering.Server(_Shelf)) as shelf:
        listed = CliRunner().invoke(cli.app, ["datasets", "--url", shelf.url])
        deleted = [CliRunner().invoke(cli.app, ["delete-dataset", name, "--yes", "--url", shelf.url]) for name in NAMES]

    assert listed.exit_code == 0, listed.output
    assert [line.partition("  ")[0] for line in listed.stdout.splitlines()[1:]] == NAMES
    assert [result.stdout for result in deleted] == [f"{name} is deleted\n" for name in NAMES]


def test_steps_are_printed_as_they_are_also_where_they_look_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with steps.step(terminal.console, "rank backbones on photos [old]") as step:
        step.outcome = "data set '[/red]' has them all"
    assert re.fullmatch(
        r"✓ +\d+\.\d s +rank backbones on photos \[old\]: data set '\[/red\]' has them all",
        capsys.readouterr().out.strip(),
    )


class _NoDataset(answering.Handler):
    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        self.answer(404, msgspec.json.encode({"detail": "no dataset insectz", "code": "dataset_not_found"}))


def test_nobody_is_asked_whether_to_delete_what_is_not_there() -> None:
    with answering.serving(answering.Server(_NoDataset)) as empty:
        told = plainly_refused("delete-dataset", "insectz", "--url", empty.url)
    assert told == "Error: no dataset insectz\n"


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"graft {metadata.version('graft')}\n")


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


def test_a_service_that_cannot_start_is_not_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_LEASE_SECONDS", "never")
    up = [sys.executable, "-m", "client", "up", "--data-dir", str(tmp_path)]

    def told(*options: str) -> tuple[int, str, str]:
        ended = subprocess.run([*up, *options], capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout, ended.stderr

    code, out, err = told("--port", str(service.free_port()))
    assert (code, out) == (2, "")
    assert err.startswith("GRAFT_LEASE_SECONDS=never: ")
    with service.taken_port() as taken:
        said = f"Error: port {taken} of 127.0.0.1 is taken; choose another one with --port\n"
        assert told("--port", str(taken)) == (1, "", said)
    nowhere = told("--host", "203.0.113.1", "--port", "8000")
    assert nowhere == (
        1,
        "",
        "Error: nothing can listen at port 8000 of 203.0.113.1: Cannot assign requested address\n",
    )


def test_a_service_that_does_not_start_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_LEASE_SECONDS", "never")
    expected = pytest.raises(Refused, match=r"(?s)ended with code 2.*GRAFT_LEASE_SECONDS=never: ")
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
