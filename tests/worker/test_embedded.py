"""The embedded service: how it ends its worker, and itself while it still imports."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from worker import embedded
from worker.embedded import LocalWorker

STARTED = "print(flush=True)\n"
PATIENCE = 60.0


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stopped(program: str, monkeypatch: pytest.MonkeyPatch, *, stop_seconds: float = PATIENCE) -> int:
    """With what code a worker that is this program ends when it is stopped."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr(embedded, "_spawn", lambda: process)
        worker = LocalWorker(stop_seconds=stop_seconds)
        worker.start()
        worker.stop()
    return process.returncode


def test_a_worker_that_still_imports_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would not look at its standard input for a long time.
    assert stopped(f"import time\n{STARTED}time.sleep(1000)", monkeypatch) == -signal.SIGTERM


def test_a_worker_in_which_a_signal_is_lost_ends_with_its_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_HEARD_SECONDS", 0.1)
    program = f"import signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{STARTED}sys.stdin.read()"
    assert stopped(program, monkeypatch) == 0


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_HEARD_SECONDS", 0.1)
    program = f"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{STARTED}time.sleep(1000)"
    assert stopped(program, monkeypatch, stop_seconds=0.1) == -signal.SIGKILL


IMPORTING = """
import signal, sys
from worker import embedded

class Compiled:
    def __del__(self):  # of which what is raised is printed and goes no further, as of much compiled code
        signal.raise_signal(int(sys.argv[1]))

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
asked = embedded._AskedToEnd()
def clear_up():
    print("cleared up", flush=True)
    raise RuntimeError

with asked.ends_at_once(clear_up):
    Compiled()
    print("goes on")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_told_to_end_while_it_imports_does_so_though_nothing_can_be_raised(
    number: signal.Signals,
) -> None:
    command = [sys.executable, "-c", IMPORTING, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert (done.stdout, done.stderr) == ("cleared up\n", "")


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_told_to_end_afterwards_takes_what_is_raised(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    asked = embedded._AskedToEnd()
    with asked.ends_at_once(lambda: None):
        pass
    with pytest.raises(SystemExit):
        signal.raise_signal(number)


@pytest.mark.usefixtures("handlers")
def test_what_runs_in_the_background_does_not_hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    embedded._AskedToEnd()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
