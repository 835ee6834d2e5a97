"""Load by wrk: a fixed number of callers, each of which sends its next photo when it has the answer to the last."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CALLERS = 32
"""At once, where there are many."""

_SCRIPT = Path(__file__).with_name("load.lua")
_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Load:
    """What came of it."""

    seconds: float
    requests: int
    """Answered, whatever the answer."""
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers with a status of 400 or more."""
    broken: int
    """No answer: connections refused or reset, and timeouts."""

    @property
    def rate(self) -> float:
        """Photos answered well, per second."""
        return (self.requests - self.refused) / self.seconds

    @property
    def errors(self) -> int:
        return self.refused + self.broken


def require() -> None:
    """Raises `SystemExit` where wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk makes the load, and is not installed; on Debian: apt-get install wrk")


def run(url: str, body: Path, content_type: str, *, callers: int, seconds: float) -> Load:
    """Post the file `body` from so many connections, in one thread of wrk."""
    command = ["wrk", "--threads", "1", "--connections", str(callers), "--duration", f"{max(1, round(seconds))}s"]
    command += ["--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(_SCRIPT), url, "--", str(body), content_type]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    reports = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not reports:
        raise SystemExit(f"wrk failed: {done.stderr or done.stdout}")
    return Load(**json.loads(reports[-1]))
