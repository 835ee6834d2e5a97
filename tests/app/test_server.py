"""The process that answers requests."""

import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from app import server
from app.arrivals import Arrivals
from app.doorbell import SilentDoorbell
from app.endings import Ending
from app.main import assemble
from app.settings import Settings
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.backbones.pictures import encode
from tests.problems import problem


@pytest.fixture
def hard() -> Iterator[int]:
    """How many files may be open at most, where few may be for now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_may_have_as_many_connections_as_the_system_allows(hard: int) -> None:
    server.allow_many_connections()

    soft, still = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert still == hard
    assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536))


ENDING = """
import atexit, gc, os, signal
from contextlib import asynccontextmanager
from fastapi import FastAPI
from app import server
from app.arrivals import Arrivals
from app.endings import Ending
from app.settings import Settings

@asynccontextmanager
async def lifespan(app):
    os.kill(os.getpid(), signal.SIGINT)
    yield

app = FastAPI(lifespan=lifespan)
app.state.settings, app.state.arrivals = Settings(), Arrivals(max_seconds=1)
app.state.start, app.state.answers = Ending(), Ending()
atexit.register(lambda: print(gc.get_freeze_count() > 0))
server.serve(app, host="127.0.0.1", port=0)
"""


def test_a_process_that_ends_does_not_look_for_garbage_among_all_that_it_has() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


@pytest.mark.parametrize("seconds", [0.5, 30.0])
def test_a_connection_waits_for_its_next_request_as_long_as_for_any_head(tmp_path: Path, seconds: float) -> None:
    settings = Settings(data_dir=tmp_path, request_head_seconds=seconds)

    assert server.build(assemble(settings, SilentDoorbell())).config.timeout_keep_alive > seconds


def test_requests_that_the_system_has_taken_for_a_busy_process_are_answered_when_it_stops(tmp_path: Path) -> None:
    app, is_busy, is_over = FastAPI(), threading.Event(), threading.Event()
    app.state.settings, app.state.arrivals = Settings(data_dir=tmp_path), Arrivals(max_seconds=60)
    app.state.start, app.state.answers = Ending(), Ending()

    @app.get("/busy")
    async def busy() -> None:  # keeps the event loop to itself
        is_busy.set()
        assert is_over.wait(60)
        time.sleep(0.2)  # twice as long as servers take to look whether they are to stop

    @app.get("/")
    async def answer() -> None:
        """Nothing."""

    running = server.build(app, drain_seconds=60)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as open_:

        def ask(path: str) -> socket.socket:
            asked = open_.enter_context(socket.create_connection(listener.getsockname(), timeout=60))
            asked.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            return asked

        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        asked = [ask("/busy")]
        assert is_busy.wait(60)
        asked += [ask("/") for _ in range(20)]
        running.should_exit = True
        is_over.set()
        assert {each.recv(12) for each in asked} == {b"HTTP/1.1 200"}
        thread.join()


def test_what_cannot_be_answered_before_the_end_is_told_so(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=1)
    png = encode(Image.new("RGB", (4000, 3900)), "PNG")
    with ThreadPoolExecutor() as pool:
        with serving.listening(settings, drain_seconds=1) as here:
            asked = pool.submit(
                httpx.post,
                f"{here.url}/v1/models/insects/predict",
                files=[("file", ("a.png", png))] * 64,
                headers={"X-Request-Timeout": "300"},
                timeout=60,
            )
            while "graft_queued_images 0.0" in httpx.get(f"{here.url}/metrics").text:
                time.sleep(0.01)
        told = asked.result()
    assert "stopping" in problem(told, 503)["detail"]
    assert told.headers["retry-after"]
