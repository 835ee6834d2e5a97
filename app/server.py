"""A process that answers requests: `python -m app.server`, with everything that it serves or a part of it."""

import argparse
import asyncio
import gc
import logging
import math
import resource
import selectors
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from app import address, connections, problems
from app import main as applications
from app.arrivals import Arrivals
from app.endings import Ending
from app.predictions.desk import DRAIN_SECONDS
from app.predictions.shortcut import Shortcut

logger = logging.getLogger(__name__)

_OPEN_FILES = 65_536
"""Not without end, which some take for a number of files to close."""

_ANSWERED = 0.95
"""The part of the time there is to stop after which predictions that are not answered are told so."""

_ACCEPT_SECONDS = 2.0
"""How long a process that is to stop accepts connections if there are always more."""
_TURNS = 3
"""Of the event loop, in which it makes a connection of what it has accepted, and reads what that brought."""

_PARTS: dict[str, Callable[[], FastAPI]] = {
    "all": applications.create,
    "api": applications.create_api,
    "predict": applications.create_predict,
}


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m app.server", description=__doc__)
    parser.add_argument(
        "part",
        nargs="?",
        choices=_PARTS,
        default="all",
        help="predict: predictions alone, in as many processes as there are devices; api: the rest, beside such "
        "processes; all: both in one process (default)",
    )
    address.add_to(parser)
    arguments = parser.parse_args()
    serve(_PARTS[arguments.part](), host=arguments.host, port=arguments.port)


def serve(app: FastAPI, *, host: str, port: int) -> None:
    """Answer requests to `app` until a signal ends it, which is raised again when what was accepted is answered."""
    allow_many_connections()
    server = build(app, host=host, port=port)
    try:
        with suppress(KeyboardInterrupt):
            server.run()
    finally:
        # The interpreter ends with a search for garbage among all objects, of which torch and its like have a million:
        # on a busy machine it took ten seconds.
        gc.freeze()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def allow_many_connections() -> None:
    """Each is an open file, of which a process may have more than it begins with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # macOS has a limit of its own below the hard one
        logger.warning("no more than %d files can be open at once: %s", soft, error)


class Server(uvicorn.Server):
    """One that gives up what it cannot finish while there is still time to say so: at once what its start waits for,
    then bodies that do not arrive, so that there is time to answer what has, and at last what is not answered."""

    def __init__(
        self, config: uvicorn.Config, start: Ending, arrivals: Arrivals, answers: Ending, *, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._start = start
        self._arrivals = arrivals
        self._answers = answers
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        # The signal alone does not wake the event loop.
        asyncio.get_running_loop().call_soon_threadsafe(self._start.end_in, 0.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._arrivals.end_in(self._drain_seconds / 2)
        self._answers.end_in(self._drain_seconds * _ANSWERED)
        await self._take_in_what_waits()
        await super().shutdown(sockets)

    async def _take_in_what_waits(self) -> None:
        """Read what the system has taken for a process that was busy: it would reset the connections."""
        now = asyncio.get_running_loop().time
        end = now() + _ACCEPT_SECONDS
        with selectors.DefaultSelector() as waiting:
            for listener in chain.from_iterable(server.sockets for server in self.servers):
                waiting.register(listener, selectors.EVENT_READ)
            while waiting.select(timeout=0) and now() < end:
                await asyncio.sleep(0)  # in which one is accepted
        for server in self.servers:
            server.close()
        for _ in range(_TURNS):
            await asyncio.sleep(0)


def build(app: FastAPI, *, host: str = address.HOST, port: int = 0, drain_seconds: int = DRAIN_SECONDS) -> Server:
    """What serves `app` as `assemble` makes it, and takes `drain_seconds` to answer what it has accepted when it is to
    stop: half of them for what has yet to arrive."""
    head_seconds: float = app.state.settings.request_head_seconds
    config = uvicorn.Config(
        Shortcut(app, problems.HANDLERS),
        host=host,
        port=port,
        http=connections.waiting(head_seconds=head_seconds),
        # Later than connections end by themselves: uvicorn would close those between two requests after five seconds.
        timeout_keep_alive=math.ceil(head_seconds) + 1,
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=drain_seconds,
    )
    state = app.state
    return Server(config, state.start, state.arrivals, state.answers, drain_seconds=drain_seconds)


if __name__ == "__main__":
    main()
