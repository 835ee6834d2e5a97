"""Where the processes of jobs come from: a forkserver that has imported what they need, and is started anew where its
socket is gone."""

import logging
import multiprocessing
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver as servers
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Started = tuple[Connection, ForkServerProcess]
_LIKE_A_SOCKET = "listener-12345678"


class NotStarted(Exception):
    """No process can be started, not by a new forkserver either."""


class Forkserver:
    """Starts processes, one at a time. Whoever makes a second one in a process shares the first one's server."""

    def __init__(self, sockets: Path) -> None:
        """Returns when all is imported; without that the first job would wait for it. The socket lies below the folder
        `sockets` if it can: those who tidy up where temporary files are would take it for left."""
        # Lance would warn of every new table that it is new.
        os.environ.setdefault("LANCE_LOG", "error")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["worker.preload"])
        self._lock = threading.Lock()
        self.folder = _folder_below(sockets)
        connection, first = self.start(_nothing)
        first.join()
        connection.close()

    def start(self, target: Callable[..., None], *arguments: Any, name: str | None = None, **options: Any) -> Started:
        """A process that has begun with `target(connection, *arguments, **options)`, and the other end of that
        connection. Raises `NotStarted`."""

        def start() -> Started:
            ours, theirs = self.context.Pipe()
            process = self.context.Process(target=_begin, args=(target, theirs, *arguments), kwargs=options, name=name)
            process.start()
            theirs.close()
            return ours, process

        with self._lock:
            try:
                return start()
            except (OSError, EOFError) as error:
                logger.error(
                    "the forkserver, whose socket is in %s, starts no process (%s: %s) and is started anew",
                    self.folder,
                    type(error).__name__,
                    error,
                )
            try:
                self._renew()
                return start()
            except (OSError, EOFError) as error:
                raise NotStarted(f"no process can be started ({type(error).__name__}: {error})") from error

    def touch(self) -> None:
        """Make the socket young: by that it is told from those that were left by workers which were killed."""
        with suppress(OSError):  # gone, which the next start mends
            for path in (self.folder, *self.folder.iterdir()):
                os.utime(path)

    def _renew(self) -> None:
        """Forget the forkserver, so that the next start makes one, and see to it that its socket has a folder.

        The processes that it has made may still run, and it stays until they are gone: it alone can tell how they
        ended. Nothing public does this: `multiprocessing` looks whether its server lives, not whether it is reached.
        """
        known: Any = servers._forkserver
        with known._lock:
            if known._forkserver_pid is not None:
                os.close(known._forkserver_alive_fd)
                threading.Thread(target=_reap, args=(known._forkserver_pid,), name="reap", daemon=True).start()
            known._forkserver_address = known._forkserver_alive_fd = known._forkserver_pid = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # refused where somebody else was faster


def _begin(target: Callable[..., None], connection: Connection, *arguments: Any, **options: Any) -> None:
    """Run `target`, in a process that has just been forked. Processes that it starts by way of a forkserver are forked
    from the same one, with all that is imported; `multiprocessing` would start it one of its own, and from Python 3.14
    on does, since there its server is reached with a key that processes do not have from it."""
    known: Any = servers._forkserver
    if not hasattr(known, "_forkserver_authkey"):
        known.ensure_running = _is_running
    target(connection, *arguments, **options)


def _is_running() -> None:
    """Whoever asks a forkserver that is gone gets an `OSError`."""


def _folder_below(sockets: Path) -> Path:
    """The folder of this process's sockets: below `sockets`, or where temporary files are if no socket can be there,
    as where its path would be too long or the file system knows none."""
    before = tempfile.tempdir
    try:
        _try_a_socket(sockets)
        tempfile.tempdir = str(sockets)
    except OSError as error:
        logger.info("no socket can be in %s (%s); it will be where temporary files are", sockets, error)
    try:
        folder = Path(util.get_temp_dir())  # which multiprocessing chooses once
    finally:
        tempfile.tempdir = before
    # Removing it is the last that multiprocessing does, which would trip over one that is gone.
    util.Finalize(None, _make, args=(folder,), exitpriority=-99)
    return folder


def _try_a_socket(sockets: Path) -> None:
    sockets.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pymp-", dir=sockets) as folder, socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(Path(folder) / _LIKE_A_SOCKET))


def _make(folder: Path) -> None:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)


def _reap(process_id: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(process_id, 0)


def _nothing(_connection: Connection) -> None:
    """The first process of a forkserver waits for its imports."""
