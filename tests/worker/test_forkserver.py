"""Where the processes of jobs come from: what is done to the socket at which they are asked for costs no attempt."""

import gc
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests import factories
from tests.worker.conftest import Desk, on_sqlite
from tests.worker.test_runner import MANY_EPOCHS, running, until
from worker.forkserver import Forkserver, NotStarted
from worker.runner import Runner


def answer(connection: Connection, word: str, *, times: int) -> None:
    connection.send(word * times)


def test_a_process_has_begun_with_a_connection_to_who_started_it(forkserver: Forkserver) -> None:
    connection, process = forkserver.start(answer, "here ", times=2)
    assert connection.recv() == "here here "
    process.join()
    assert process.exitcode == 0


def ask_for_another(connection: Connection) -> None:
    """Tell whose child this process is, and whose the one is that it starts."""
    another = multiprocessing.get_context("forkserver").Process(target=tell_of_parent, args=(connection,))
    another.start()
    another.join()
    tell_of_parent(connection)


def tell_of_parent(connection: Connection) -> None:
    connection.send(os.getppid())


def tell_of_imports(connection: Connection) -> None:
    wanted = sys.modules["worker.preload"].MODULES
    connection.send((set(wanted) - set(sys.modules), gc.isenabled(), gc.get_freeze_count()))


def test_a_process_has_all_imported_and_searches_for_no_garbage_there(forkserver: Forkserver) -> None:
    connection, process = forkserver.start(tell_of_imports)
    missing, searches, left_out = connection.recv()
    assert not missing
    assert searches
    assert left_out > 100_000
    process.join()


def test_a_process_of_the_forkserver_has_others_from_the_same_one(forkserver: Forkserver) -> None:
    connection, process = forkserver.start(ask_for_another)
    assert connection.recv() == connection.recv()
    process.join()


@on_sqlite
def test_a_job_whose_socket_was_tidied_away_succeeds_at_its_first_attempt(
    desk: Desk, runner: Runner, forkserver: Forkserver, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(forkserver.folder)
    job = desk.submit_import(factories.photos(each=4))
    with caplog.at_level(logging.ERROR):
        assert runner.run(job.id)

    ended = desk.job(job.id)
    assert (ended.state, ended.attempt, ended.error) == ("succeeded", 1, None)
    assert desk.history(job.id).count("attempt_started") == 1
    assert f"whose socket is in {forkserver.folder}, starts no process (FileNotFoundError" in caplog.text


@on_sqlite
def test_a_job_that_runs_goes_on_when_the_forkserver_is_started_anew(
    desk: Desk, runner: Runner, forkserver: Forkserver, dataset_id: str
) -> None:
    training = desk.submit_training(dataset_id, epochs=MANY_EPOCHS, max_attempts=1)
    with running(runner, training.id):
        until(lambda: "epoch_finished" in desk.history(training.id))
        shutil.rmtree(forkserver.folder)
        other = desk.submit_import(factories.photos(each=4))
        assert runner.run(other.id)
        told = len(desk.history(training.id))
        until(lambda: len(desk.history(training.id)) > told)
        runner.stop()

    assert desk.job(other.id).state == "succeeded"
    given_back = desk.job(training.id)
    assert (given_back.state, given_back.attempt) == ("queued", 0)


@on_sqlite
def test_a_job_that_no_process_can_be_started_for_has_not_been_attempted(
    desk: Desk, runner: Runner, forkserver: Forkserver
) -> None:
    job = desk.submit_import(factories.photos(each=4), max_attempts=1)
    shutil.rmtree(forkserver.folder)
    forkserver.folder.write_bytes(b"in the way")
    with pytest.raises(NotStarted, match="FileExistsError"):
        runner.run(job.id)
    waiting = desk.job(job.id)
    assert (waiting.state, waiting.attempt) == ("queued", 0)

    forkserver.folder.unlink()
    assert runner.run(job.id)
    assert desk.job(job.id).state == "succeeded"


@pytest.mark.parametrize(("name", "is_there"), [("x", True), ("x" * 100, False)])
def test_sockets_are_in_their_folder_unless_its_path_is_too_long_for_one(
    tmp_path: Path, name: str, is_there: bool
) -> None:
    program = (
        "import pathlib, sys; from worker import forkserver as f; print(f._folder_below(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / name], capture_output=True, text=True, check=True)

    assert Path(done.stdout.strip()).is_relative_to(tmp_path / name) == is_there
    assert list((tmp_path / name).iterdir()) == []
