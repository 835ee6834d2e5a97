"""The shelf: what classifiers take of the memory that there is for them."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pytest
import torch

from app import errors
from app.models.service import Served
from app.optimisation import Serving
from app.predictions.lanes import Lane
from app.predictions.loaded import Loaded
from app.predictions.needs import Need
from app.predictions.shelf import Opener, Shelf
from app.runtimes import activations, form
from tests.app.scheduling import Net, loaded, until

PATIENCE = 60.0
BUDGET = 100
FIRST, SECOND, THIRD, FOURTH, SMALL = (
    Served(name, name, 1) for name in ("first", "second", "third", "fourth", "small")
)


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

        opener = Opener(need, self.open, Lane, self.used_bytes, self.fallen_back.append)
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


def test_what_was_needed_to_load_is_free_once_it_is_loaded(shelf: Shelf) -> None:
    load(shelf, FIRST, SECOND)
    assert on(shelf) == [FIRST, SECOND]
    assert shelf.used_bytes == 60
    load(shelf, THIRD)
    assert on(shelf) == [FIRST, SECOND, THIRD]


def test_who_has_left_is_in_memory_no_more_though_whoever_loaded_it_waits_for_others(
    machine: Machine, shelf: Shelf
) -> None:
    machine.need = Need(60, 60)
    load(shelf, FIRST)
    load(shelf, SECOND)
    assert on(shelf) == [SECOND]
    until(lambda: len(machine.there) == 1)


def test_what_loading_takes_counts_while_it_lasts(machine: Machine, shelf: Shelf) -> None:
    machine.need = Need(30, 45)
    load(shelf, FIRST, SECOND, THIRD)
    assert on(shelf) == [SECOND, THIRD]
    assert shelf.used_bytes == 60


def test_two_are_not_loaded_at_once_where_there_is_no_room_for_that(machine: Machine, shelf: Shelf) -> None:
    machine.need = Need(30, 60)
    machine.gate.clear()
    with shelf.use(FIRST) as first, shelf.use(SECOND) as second:
        assert machine.begun.acquire(timeout=PATIENCE)
        assert shelf.used_bytes == 60
        machine.gate.set()
        first.lane(PATIENCE)
        second.lane(PATIENCE)
    assert machine.most_at_once == 1
    assert on(shelf) == [FIRST, SECOND]


def test_a_need_that_passes_by_keeps_nobody_out_for_whom_there_is_room(machine: Machine, shelf: Shelf) -> None:
    machine.need = Need(40, 90)
    with shelf.use(FIRST) as standing:
        standing.lane(PATIENCE)
        load(shelf, SECOND)
        assert on(shelf) == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("really", "kept"),
    [(10, [FIRST, SECOND, THIRD]), (30, [FIRST, SECOND, THIRD]), (50, [SECOND, THIRD]), (None, [FIRST, SECOND, THIRD])],
)
def test_memory_that_was_not_foretold_counts(
    machine: Machine, shelf: Shelf, really: int | None, kept: list[Served]
) -> None:
    machine.really = really
    load(shelf, FIRST, SECOND, THIRD)
    assert on(shelf) == kept


def test_memory_that_is_not_of_classifiers_leaves_room_for_half_of_them(machine: Machine, shelf: Shelf) -> None:
    machine.really = 1_000_000
    load(shelf, FIRST, SECOND, THIRD)
    assert on(shelf) == [SECOND, THIRD]


def test_nobody_goes_for_memory_that_nobody_uses(
    machine: Machine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.really = 20
    machine.needs[THIRD] = Need(30, 35)
    load(shelf, FIRST, SECOND)
    machine.spare = 50
    looked: list[Served] = []

    def forget() -> None:
        if not looked:
            looked.append(SMALL)
            load(shelf, SMALL)  # for which another thread looks who has room, and before this has given anything back
        machine.spare = 0

    monkeypatch.setattr(activations, "forget", forget)
    load(shelf, THIRD)
    assert looked
    assert on(shelf) == [FIRST, SECOND, THIRD]


def test_what_failed_to_load_takes_no_room(shelf: Shelf) -> None:
    with shelf.use(FOURTH) as standing, pytest.raises(errors.Unavailable, match="it is broken"):
        standing.lane(PATIENCE)
    wait_for(lambda: shelf.used_bytes == 0)
    load(shelf, FIRST, SECOND, THIRD)
    assert on(shelf) == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("is_kept", [False, True])
def test_what_failed_to_load_is_forgotten_unless_it_is_to_be_kept(machine: Machine, *, is_kept: bool) -> None:
    shelf = machine.shelf(retry_seconds=0)
    shelf.pin(frozenset({FOURTH} if is_kept else ()))
    with shelf.use(FOURTH) as standing, pytest.raises(errors.Unavailable):
        standing.lane(PATIENCE)
    assert shelf.was_tried(FOURTH)
    load(shelf, FIRST)
    assert shelf.was_tried(FOURTH) == is_kept
    shelf.close()


def test_what_failed_is_left_alone_for_longer_each_time_though_others_were_loaded_long_after_that(
    machine: Machine,
) -> None:
    now = [0.0]
    shelf = machine.shelf(retry_seconds=2, clock=lambda: now[0])
    opened = []
    for _ in range(8):
        load(shelf, FIRST, SECOND, THIRD)
        before = len(machine.opened)
        with shelf.use(FOURTH) as standing, pytest.raises(errors.Unavailable, match="it is broken"):
            standing.lane(PATIENCE)
        opened.append(len(machine.opened) - before)
        now[0] += 9
    assert opened == [1, 1, 1, 1, 0, 1, 0, 0]
    shelf.close()


@pytest.mark.parametrize("has_changed", [False, True])
def test_what_could_not_be_loaded_again_is_left_alone_for_longer_unless_the_registry_has_changed(
    machine: Machine, *, has_changed: bool
) -> None:
    now = [0.0]
    shelf = machine.shelf(retry_seconds=2, clock=lambda: now[0])

    def ask_after(seconds: float) -> int:
        """How many are opened for that, with all others loaded before."""
        load(shelf, FIRST, SECOND, THIRD)
        before = len(machine.opened)
        now[0] += seconds
        with shelf.use(FOURTH) as standing, pytest.raises(errors.Unavailable, match="it is broken"):
            standing.lane(PATIENCE)
        return len(machine.opened) - before

    assert [ask_after(seconds) for seconds in (0, 1, 2)] == [1, 0, 1]
    assert on(shelf) == [SECOND, THIRD]
    if has_changed:
        shelf.pin(frozenset())
    assert [ask_after(seconds) for seconds in (2.5, 2)] == ([1, 0] if has_changed else [0, 1])
    shelf.close()


def test_what_cannot_even_be_looked_up_is_left_alone_for_longer_each_time() -> None:
    now, looked_up = [0.0], []

    def need(version: Served) -> Need:
        looked_up.append(version)
        raise errors.Unavailable("its manifest is damaged")

    machine = Machine()
    opener = Opener(need, machine.open, Lane, machine.used_bytes, machine.fallen_back.append)
    shelf = Shelf(opener, max_bytes=BUDGET, retry_seconds=2, clock=lambda: now[0])
    for seconds in (0, 2.5, 2.5, 2.5, 2.5):
        now[0] += seconds
        with shelf.use(FIRST) as standing, pytest.raises(errors.Unavailable, match="damaged"):
            standing.lane(PATIENCE)
    assert len(looked_up) == 3
    shelf.close()


def test_what_had_too_little_memory_is_tried_again_after_no_longer_each_time(machine: Machine) -> None:
    now = [0.0]
    machine.breaks = lambda: torch.OutOfMemoryError("CUDA out of memory")
    shelf = machine.shelf(retry_seconds=2, clock=lambda: now[0])
    for seconds in (0, 1, 1.5, 2.5, 2.5):
        now[0] += seconds
        with shelf.use(FOURTH) as standing, pytest.raises(errors.Overloaded, match="too little memory"):
            standing.lane(PATIENCE)
    assert len(machine.opened) == 4
    shelf.close()


@pytest.mark.parametrize("is_asked", [False, True])
def test_what_had_too_little_memory_when_others_had_gone_for_it_is_left_alone_for_longer(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, *, is_asked: bool
) -> None:
    monkeypatch.setattr("app.predictions.shelf._PATIENCE_SECONDS", 0.0)
    now = [0.0]
    machine.need = Need(60, 60)
    machine.breaks = lambda: torch.OutOfMemoryError("CUDA out of memory")
    shelf = machine.shelf(retry_seconds=2, clock=lambda: now[0])

    def ask_after(seconds: float) -> bool:
        """Whether another one had to go for that."""
        load(shelf, FIRST)
        now[0] += seconds
        first = shelf.want(FIRST)
        if not is_asked:
            shelf.release(first)
        with shelf.use(FOURTH) as standing:
            if is_asked:
                wait_for(lambda: standing.settled.done() or not shelf.has(FIRST))
                shelf.release(first)
            with pytest.raises(errors.Overloaded, match="too little memory"):
                standing.lane(PATIENCE)
        return not shelf.has(FIRST)

    assert [ask_after(seconds) for seconds in (0, 2.5, 2.5, 2.5, 2.5, 2.5)] == [True, True, False, True, False, False]
    shelf.close()


def test_a_form_that_is_not_served_any_more_is_not_kept(shelf: Shelf) -> None:
    again = replace(FIRST, serving=Serving("opt_1", ("onnxruntime-fp32", "torch-fp32")))
    shelf.pin(frozenset({FIRST}))
    load(shelf, FIRST)
    shelf.pin(frozenset({again}))
    load(shelf, again, SECOND, THIRD)
    assert not shelf.has(FIRST)
    assert shelf.has(again)
    assert on(shelf) == [SECOND, THIRD]


def test_who_waits_for_room_has_it_as_soon_as_another_is_loaded_and_not_asked(machine: Machine, shelf: Shelf) -> None:
    machine.need = Need(60, 60)
    machine.gate.clear()
    shelf.release(shelf.want(FIRST))
    assert machine.begun.acquire(timeout=PATIENCE)
    with shelf.use(SECOND) as second:
        machine.gate.set()
        second.lane(PATIENCE / 4)
    assert on(shelf) == [SECOND]


def test_where_all_memory_is_kept_for_others_nobody_waits_for_it(machine: Machine, shelf: Shelf) -> None:
    machine.need = Need(60, 60)
    shelf.pin(frozenset({FIRST}))
    load(shelf, FIRST)
    with shelf.use(SECOND) as standing, pytest.raises(errors.Overloaded, match="kept loaded leave too little"):
        standing.lane(PATIENCE / 4)


def test_who_waits_for_room_holds_up_nobody_for_whom_there_is_some(machine: Machine, shelf: Shelf) -> None:
    machine.need = Need(60, 60)
    load(shelf, FIRST)
    with shelf.use(FIRST), shelf.use(SECOND), shelf.use(THIRD), shelf.use(SMALL) as small:
        small.lane(PATIENCE / 4)
        assert shelf.used_bytes == 65


def test_nobody_goes_for_one_that_has_no_room_all_the_same(machine: Machine, shelf: Shelf) -> None:
    machine.needs |= {SECOND: Need(60, 60), THIRD: Need(60, 60)}
    load(shelf, FIRST, SECOND)
    with shelf.use(SECOND), shelf.use(THIRD):
        load(shelf, SMALL)
        assert on(shelf) == [FIRST, SECOND]


def test_many_that_wait_for_room_hold_up_nobody_for_whom_there_is_some(machine: Machine) -> None:
    shelf = machine.shelf(clock=lambda: 0.0)
    machine.need = Need(60, 60)
    load(shelf, FIRST)
    with ExitStack() as asked:
        for version in (FIRST, *(Served(f"large {number}", f"large {number}", 1) for number in range(20)), SMALL):
            standing = asked.enter_context(shelf.use(version))
        standing.lane(PATIENCE / 4)
        assert shelf.used_bytes == 65
    shelf.close()


@pytest.mark.usefixtures("impatient")
def test_who_is_asked_without_a_pause_leaves_for_one_that_has_waited(
    machine: Machine, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    machine.need = Need(60, 60)
    load(shelf, FIRST)
    first = shelf.want(FIRST)
    with shelf.use(SECOND) as second:
        wait_for(lambda: not shelf.has(FIRST))
        with shelf.use(FIRST) as again:  # whoever comes now is not to keep it here for ever
            assert (again.settled.done(), shelf.used_bytes) == (False, 60)
            shelf.release(first)
            second.lane(PATIENCE / 4)
    load(shelf, FIRST)
    assert shelf.used_bytes == 60
    assert "first@1 leaves before second@1 is loaded" in caplog.text


def test_who_is_asked_leaves_for_nobody_whose_callers_have_gone(machine: Machine) -> None:
    now, looking = [0.0], set[int]()

    def clock() -> float:
        looking.add(threading.get_ident())
        return now[0]

    shelf = machine.shelf(clock=clock)
    machine.need = Need(60, 60)
    load(shelf, FIRST)
    with shelf.use(FIRST):
        second = shelf.want(SECOND)
        wait_for(lambda: second.need is not None)
        shelf.release(second)  # when it waits
        now[0] += 10
        load(shelf, SMALL)
        looking.clear()
        shelf.pin(frozenset())  # at which both threads that load look who has room
        wait_for(lambda: len(looking) == 2)
        assert len(shelf.loaded()) == 2  # told once they have
        assert shelf.has(FIRST)
        with shelf.use(SECOND):  # one of them has come again
            wait_for(lambda: not shelf.has(FIRST))
    wait_for(lambda: on(shelf) == [SECOND])
    shelf.close()


@pytest.mark.usefixtures("impatient")
def test_what_those_who_leave_give_back_is_not_for_those_who_come_later(machine: Machine, shelf: Shelf) -> None:
    machine.need, machine.needs[THIRD] = Need(50, 50), Need(100, 100)
    load(shelf, FIRST, SECOND)
    first, second = shelf.want(FIRST), shelf.want(SECOND)
    with shelf.use(THIRD) as third:
        wait_for(lambda: on(shelf) == [])
        with shelf.use(FIRST):
            shelf.release(first)
            wait_for(lambda: shelf.used_bytes == 50)
            shelf.release(second)
            third.lane(PATIENCE / 4)


def test_who_waits_for_room_does_not_hold_up_the_end(machine: Machine, shelf: Shelf) -> None:
    machine.need = Need(60, 60)
    load(shelf, FIRST)
    with shelf.use(FIRST), shelf.use(SECOND) as second:
        closing = threading.Thread(target=shelf.close)
        closing.start()
        with pytest.raises(errors.Overloaded, match="stopping"):
            second.lane(PATIENCE / 4)
        closing.join(PATIENCE)
        assert not closing.is_alive()


def test_what_is_still_being_loaded_does_not_hold_up_the_end(
    machine: Machine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.predictions.shelf._CLOSE_SECONDS", 0.1)
    machine.gate.clear()
    with shelf.use(FIRST) as first:
        assert machine.begun.acquire(timeout=PATIENCE)
        shelf.close()
        loading = machine.thread
        assert loading is not None
        assert loading.daemon  # or the interpreter would wait for it
        with pytest.raises(errors.Overloaded, match="stopping"):
            first.lane(0)
    machine.gate.set()
    loading.join(PATIENCE)
    assert not loading.is_alive()


def test_what_failed_to_load_keeps_nothing_that_it_had_made(machine: Machine) -> None:
    made: list[weakref.ref[Loaded]] = []

    def lane(found: Loaded) -> Lane:
        made.append(weakref.ref(found))
        raise errors.Unavailable("no room for its queue")

    opener = Opener(lambda _version: machine.need, machine.open, lane, machine.used_bytes, machine.fallen_back.append)
    failing = Shelf(opener, max_bytes=BUDGET)
    with failing.use(FIRST) as standing:
        with pytest.raises(errors.Unavailable, match="no room for its queue"):
            standing.lane(PATIENCE)
        wait_for(lambda: made[0]() is None)
    failing.close()


def break_down(shelf: Shelf, version: Served) -> None:
    lane = shelf.lane(version)
    assert lane is not None
    lane.is_broken = True


def test_a_version_whose_network_failed_is_loaded_in_the_next_of_its_forms(machine: Machine, shelf: Shelf) -> None:
    version = replace(FIRST, serving=Serving("opt_1", ("openvino-int8", "onnxruntime-fp32", "torch-fp32")))
    load(shelf, version)
    break_down(shelf, version)
    assert not shelf.has(version)
    assert shelf.loaded() == []
    load(shelf, version)
    load(shelf, version)

    assert machine.opened == [version.serving.forms, version.serving.forms[1:]]
    assert machine.fallen_back == ["openvino-int8"]
    assert [found.form.name for found in shelf.loaded()] == ["onnxruntime-fp32"]
    assert shelf.used_bytes == machine.need.kept


def test_what_is_opened_in_another_form_than_was_foretold_counts_as_that(machine: Machine) -> None:
    needs = {"openvino-int8": Need(10, 20), "onnxruntime-fp32": Need(40, 60)}

    def fallen_back(version: Served) -> Loaded:
        return machine.open(replace(version, serving=replace(version.serving, forms=version.serving.forms[1:])))

    opener = Opener(lambda version: needs[version.serving.forms[0]], fallen_back, Lane, lambda: None, print)
    shelf = Shelf(opener, max_bytes=BUDGET)
    load(shelf, replace(FIRST, serving=Serving("opt_1", tuple(needs))))
    assert shelf.used_bytes == 40
    shelf.close()


def test_who_has_no_room_beside_one_that_takes_more_than_was_foretold_goes(machine: Machine) -> None:
    shelf = Shelf(falling_back(machine), max_bytes=BUDGET)
    load(shelf, SECOND)
    load(shelf, replace(FIRST, serving=Serving("opt_1", ("openvino-int8", "onnxruntime-fp32"))))
    wait_for(lambda: shelf.used_bytes == 70)
    assert not shelf.has(SECOND)
    shelf.close()


def test_who_is_asked_when_another_takes_more_than_was_foretold_goes_after_that(machine: Machine) -> None:
    large = replace(FIRST, serving=Serving("opt_1", ("openvino-int8", "onnxruntime-fp32")))
    shelf = Shelf(falling_back(machine), max_bytes=BUDGET)
    second = shelf.want(SECOND)
    second.lane(PATIENCE)
    with shelf.use(large) as standing:
        standing.lane(PATIENCE)
        assert (shelf.used_bytes, shelf.has(SECOND)) == (110, True)
        shelf.release(second)
        wait_for(lambda: shelf.used_bytes == 70)
        assert (shelf.has(large), shelf.has(SECOND)) == (True, False)
    shelf.close()


def test_a_version_that_failed_in_the_last_of_its_forms_cannot_be_had_for_a_while(
    machine: Machine, shelf: Shelf
) -> None:
    load(shelf, FIRST)
    break_down(shelf, FIRST)
    for _ in range(2):
        with shelf.use(FIRST) as standing, pytest.raises(errors.Unavailable, match="a pass in torch-fp32 failed"):
            standing.lane(PATIENCE)
    assert len(machine.opened) == 1
    assert machine.fallen_back == []
    assert shelf.used_bytes == 0
    assert shelf.was_tried(FIRST)


def test_a_version_that_failed_in_all_of_its_forms_is_then_tried_in_all_of_them(machine: Machine) -> None:
    shelf = machine.shelf(retry_seconds=0)
    version = replace(FIRST, serving=Serving("opt_1", ("onnxruntime-fp32", "torch-fp32")))
    load(shelf, version)
    break_down(shelf, version)
    load(shelf, version)
    break_down(shelf, version)
    with shelf.use(version) as standing, pytest.raises(errors.Unavailable, match="loaded anew"):
        standing.lane(PATIENCE)
    load(shelf, version)
    assert machine.opened == [version.serving.forms, version.serving.forms[1:], version.serving.forms]
    shelf.close()


def test_too_little_memory_to_load_is_told_as_what_passes(machine: Machine) -> None:
    def opened(_version: Served) -> Loaded:
        raise torch.OutOfMemoryError("CUDA out of memory")

    shelf = Shelf(Opener(lambda _version: machine.need, opened, Lane, lambda: None, print), max_bytes=BUDGET)
    with shelf.use(FIRST) as standing, pytest.raises(errors.Overloaded, match="too little memory"):
        standing.lane(PATIENCE)
    shelf.close()


def falling_back(machine: Machine) -> Opener:
    """Opens no first form where there is another one, which takes more."""
    needs = {"openvino-int8": Need(10, 20), "onnxruntime-fp32": Need(70, 80), "torch-fp32": Need(40, 40)}

    def opened(version: Served) -> Loaded:
        forms = version.serving.forms
        return machine.open(replace(version, serving=replace(version.serving, forms=forms[1:] or forms)))

    return Opener(
        lambda version: needs[version.serving.forms[0]], opened, Lane, lambda: None, machine.fallen_back.append
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it does not come to pass")
