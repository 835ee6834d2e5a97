"""The process that answers requests."""

import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app import server


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
from app.settings import Settings

@asynccontextmanager
async def lifespan(app):
    os.kill(os.getpid(), signal.SIGINT)
    yield

app = FastAPI(lifespan=lifespan)
app.state.settings, app.state.arrivals = Settings(), Arrivals(max_seconds=1)
atexit.register(lambda: print(gc.get_freeze_count() > 0))
server.serve(app, host=server.HOST, port=0)
"""


def test_a_process_that_ends_does_not_look_for_garbage_among_all_that_it_has() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr
