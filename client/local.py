"""A service on this machine, as a child of this process. It is known by its command line alone."""

import errno
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from client.api import Client
from client.errors import GraftError, Refused

HOST = "127.0.0.1"
PORT = 8000
_START_SECONDS = 120.0
_STOP_SECONDS = 45.0
_LOG_CHARACTERS = 3000
_NEEDED = ("fastapi", "lance", "torch")


def command(*, host: str, port: int) -> list[str]:
    """The command that runs the embedded service. Raises `Refused` where only the client is installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(
            f"the service cannot run here, since {', '.join(missing)} is not installed; "
            "install Graft with its extra 'worker', or use a service elsewhere with --url"
        )
    return [sys.executable, "-m", "worker.embedded", "--host", host, "--port", str(port)]


def data_dir(given: Path | None) -> Path:
    """The folder for all that the service keeps."""
    return given or Path(os.environ.get("GRAFT_DATA_DIR") or "graft-data")


def environment(data_dir: Path | None) -> dict[str, str]:
    """This process's environment, with the folder for all that the service keeps where one is given."""
    given = {} if data_dir is None else {"GRAFT_DATA_DIR": str(data_dir.absolute())}
    return {**os.environ, **given}


def check_port(host: str, port: int) -> None:
    """Raise `Refused` where nothing can listen at `port` of `host` now."""
    try:
        _listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(host, port) from error
        raise Refused(f"nothing can listen at port {port} of {host}: {error.strerror}") from error


def port_or_free(wanted: int | None) -> int:
    """`wanted`, or where it is None the usual port, or any other if that is taken. Raises `Refused`."""
    if _is_free(PORT if wanted is None else wanted):
        return PORT if wanted is None else wanted
    if wanted is not None:
        raise _taken(HOST, wanted)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Running:
    """A service that was started here."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> NoReturn:
        """Wait until it is interrupted. Raises `Refused` where the service ends by itself."""
        code = self.process.wait()
        raise _told(f"the service has ended with code {code}", self.log)


@contextmanager
def service(data_dir: Path, *, port: int) -> Iterator[Running]:
    """A service of its own that answers and has a worker; it is ended with the block.

    Raises `Refused` where it does not come up, with the end of what it logged.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "service.log"
    url = f"http://{HOST}:{port}"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command(host=HOST, port=port), env=environment(data_dir), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(url, process, log)
        yield Running(url, process, log)
    finally:
        _end(process)


def _is_free(port: int) -> bool:
    try:
        _listen(HOST, port)
    except OSError:
        return False
    return True


def _listen(host: str, port: int) -> None:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        # As a server binds it: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _taken(host: str, port: int) -> Refused:
    return Refused(f"port {port} of {host} is taken; choose another one with --port")


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with Client(url, timeout_seconds=5, attempts=1) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise _told(f"the service did not start: it ended with code {process.returncode}", log)
            if _has_worker(client):
                return
            time.sleep(0.1)
    raise _told(f"the service did not start: it was not ready after {_START_SECONDS:g} s", log)


def _has_worker(client: Client) -> bool:
    try:
        return bool(client.ready().workers)
    except GraftError:
        return False  # still starting


def _told(reason: str, log: Path) -> Refused:
    end = log.read_text(errors="replace")[-_LOG_CHARACTERS:]
    return Refused(f"{reason}. The end of {log}:\n{end}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
