"""Servers as processes of their own, on the cores they are given."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench.serving.subjects import Labelled

HOST = "127.0.0.1"
_REPOSITORY = Path(__file__).parents[2]
_START_SECONDS = 900.0
"""A network that is compiled takes its time."""
_STOP_SECONDS = 20.0
_LOG_CHARACTERS = 3000
_READY = "/readyz"
_NOT_YET = 500
"""Statuses from here on are those of a server that is not ready yet."""
_BOUNDARY = "graft-bench-boundary"
_OWN = ("GRAFT_", "OMP_", "MKL_", "OPENBLAS_")
"""Variables that would change how a server computes, and which none is to inherit."""


class DidNotStart(Exception):
    """A server that gave no answer, with the end of its log."""


@dataclass(frozen=True)
class Posting:
    """How a server takes a photo."""

    path: str
    field: str | None = None
    """Of a form; None where the photo is the body."""

    @property
    def content_type(self) -> str:
        return "image/jpeg" if self.field is None else f"multipart/form-data; boundary={_BOUNDARY}"

    def body(self, photo: bytes) -> bytes:
        """What is sent of it."""
        if self.field is None:
            return photo
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{self.field}"; filename="photo.jpg"\r\n'
        return b"".join(
            (head.encode(), b"Content-Type: image/jpeg\r\n\r\n", photo, f"\r\n--{_BOUNDARY}--\r\n".encode())
        )


@dataclass(frozen=True)
class Server:
    """How a server is started."""

    name: str
    command: tuple[str, ...]
    posting: Posting
    port: int
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A server that has answered."""

    url: str
    """To which photos are posted."""
    posting: Posting
    process_id: int

    def label(self, photo: bytes, *, http: httpx.Client) -> Labelled:
        """What it says of the photo."""
        answer = http.post(
            self.url, content=self.posting.body(photo), headers={"Content-Type": self.posting.content_type}
        )
        answer.raise_for_status()
        (prediction,) = answer.json()["predictions"]
        return [(entry["label"], entry["probability"]) for entry in prediction["labels"]]

    def cpu_seconds(self) -> float:
        """Of CPU time that it and its processes have taken so far."""
        process = psutil.Process(self.process_id)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    def catch_up(self, photo: bytes) -> None:
        """Return once it has answered a photo, behind all that callers have left in its queues when they went."""
        with httpx.Client(timeout=_START_SECONDS) as http:
            self.label(photo, http=http)


def add_cores(parser: argparse.ArgumentParser) -> None:
    """The option that names the cores of servers and load."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    parser.add_argument("--cores", nargs="+", type=int, default=cores, help="of this machine (default: the first two)")


def add_setting(parser: argparse.ArgumentParser) -> None:
    """The option, as often as wanted, that is a setting of the service."""
    parser.add_argument("--setting", type=_setting, action="append", default=[], metavar="NAME=VALUE", help="of Graft")


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return f"GRAFT_{name.upper()}", value


def graft(model: str, data_dir: Path, settings: dict[str, str]) -> Server:
    """The service's HTTP process, as the image starts it."""
    port = free_port()
    command = (sys.executable, "-m", "app.server", "--host", HOST, "--port", str(port))
    environment = {"GRAFT_DATA_DIR": str(data_dir), "GRAFT_DOWNLOAD_WEIGHTS": "false", **settings}
    return Server("graft", command, Posting(f"/v1/models/{model}/predict"), port, environment)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def end_tidily() -> None:
    """Have SIGTERM end this process as Ctrl-C does: with its servers and its files."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


@contextmanager
def running(server: Server, photo: bytes | None, *, cores: Sequence[int], log: Path) -> Iterator[Running]:
    """The server once it has answered `photo`, or for None says that it is ready; it is ended with the block, and all
    processes it has started."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    command = ("taskset", "--cpu-list", ",".join(map(str, cores)), *server.command)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**kept, "PYTHONPATH": str(_REPOSITORY), **server.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=_REPOSITORY,
        )
    found = Running(f"http://{HOST}:{server.port}{server.posting.path}", server.posting, process.pid)
    try:
        _wait(found, photo, process, f"{server.name}: {' '.join(server.command)}", log)
        yield found
    finally:
        _end(process)


def _wait(found: Running, photo: bytes | None, process: subprocess.Popen[bytes], told: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    with httpx.Client(timeout=_START_SECONDS) as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if photo is None:
                    http.get(found.url.partition("/v1/")[0] + _READY).raise_for_status()
                else:
                    found.label(photo, http=http)
            except httpx.HTTPStatusError as error:
                if error.response.status_code < _NOT_YET:
                    raise DidNotStart(f"{told} answers {error.response.text}") from error
            except httpx.TransportError:
                pass  # not listening yet
            else:
                return
            time.sleep(0.1)
    end = log.read_text(errors="replace")[-_LOG_CHARACTERS:]
    raise DidNotStart(f"{told} did not come up; the end of its log:\n{end}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own, so these are its processes alone
    process.wait()
