"""Shelves for classifiers that take so much memory as is said of them."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from app import errors
from app.models.service import Served
from app.predictions.lanes import Lane
from app.predictions.loaded import Loaded
from app.predictions.needs import Need
from app.predictions.shelf import Opener, Shelf
from app.predictions.waiting import Waiting
from app.runtimes import form
from tests.app.scheduling import Net, loaded

PATIENCE = 60.0
BUDGET = 100
FIRST, SECOND, THIRD, FOURTH, SMALL = (
    Served(name, name, 1) for name in ("first", "second", "third", "fourth", "small")
)


def lane_of(loaded: Loaded) -> Lane:
    """A queue for `loaded`, where nobody asks anything."""
    return Lane(loaded, Waiting(threads=1))


@dataclass
class Machine:
    """Where classifiers take so much memory as is said here, whatever was foretold."""

    need: Need = field(default_factory=lambda: Need(30, 40))
    needs: dict[Served, Need] = field(default_factory=lambda: {SMALL: Need(5, 5)})
    """Of those for which it is another one."""
    really: int | None = None
    """By what the process grows with each; None where the system does not tell."""
    spare: int = 0
    """What it holds beside that and nobody uses."""
    there: "weakref.WeakSet[Loaded]" = field(default_factory=weakref.WeakSet)
    most_at_once: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    opened: list[tuple[str, ...]] = field(default_factory=list)
    """Each time, the forms that were wanted."""
    fallen_back: list[str] = field(default_factory=list)
    breaks: Callable[[], Exception] = lambda: errors.Unavailable("it is broken")
    """What the fourth cannot be loaded for."""
    thread: threading.Thread | None = None
    """Where one was opened last."""
    _opening: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def open(self, version: Served) -> Loaded:
        self.opened.append(version.serving.forms)
        self.thread = threading.current_thread()
        self._opening += 1
        self.most_at_once = max(self.most_at_once, self._opening)
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        self._opening -= 1
        if version == FOURTH:
            raise self.breaks()
        found = loaded(Net(), form=form.named(version.serving.forms[0]))
        self.there.add(found)
        return found

    def used_bytes(self) -> int | None:
        return None if self.really is None else 1000 + self.really * len(self.there) + self.spare

    def shelf(self, *, retry_seconds: float = PATIENCE, clock: Callable[[], float] = time.monotonic) -> Shelf:
        def need(version: Served) -> Need:
            return self.needs.get(version, self.need)

        opener = Opener(need, self.open, lane_of, self.used_bytes, self.fallen_back.append)
        return Shelf(opener, max_bytes=BUDGET, retry_seconds=retry_seconds, clock=clock)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no room waits for nobody to be asked no more."""
    monkeypatch.setattr("app.predictions.shelf._PATIENCE_SECONDS", 0.0)


@pytest.fixture
def shelf(machine: Machine) -> Iterator[Shelf]:
    shelf = machine.shelf()
    yield shelf
    shelf.close()


def load(shelf: Shelf, *versions: Served) -> None:
    for version in versions:
        with shelf.use(version) as standing:
            standing.lane(PATIENCE)


def on(shelf: Shelf) -> list[Served]:
    return [version for version in (FIRST, SECOND, THIRD) if shelf.has(version)]


def break_down(shelf: Shelf, version: Served) -> None:
    lane = shelf.lane(version)
    assert lane is not None
    lane.is_broken = True


def falling_back(machine: Machine) -> Opener:
    """Opens no first form where there is another one, which takes more."""
    needs = {"openvino-int8": Need(10, 20), "onnxruntime-fp32": Need(70, 80), "torch-fp32": Need(40, 40)}

    def opened(version: Served) -> Loaded:
        forms = version.serving.forms
        return machine.open(replace(version, serving=replace(version.serving, forms=forms[1:] or forms)))

    return Opener(
        lambda version: needs[version.serving.forms[0]], opened, lane_of, lambda: None, machine.fallen_back.append
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it does not come to pass")
