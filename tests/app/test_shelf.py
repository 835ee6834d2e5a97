"""The shelf: what classifiers take of the memory that there is for them."""

import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest

from app import errors
from app.models.service import Served
from app.optimisation import Serving
from app.predictions.needs import Need
from app.predictions.shelf import Shelf
from app.runtimes import activations
from tests.app.scheduling import until
from tests.app.shelves import (
    FIRST,
    PATIENCE,
    SECOND,
    SMALL,
    THIRD,
    Machine,
    impatient,
    load,
    machine,
    on,
    shelf,
    wait_for,
)

__all__ = ["impatient", "machine", "shelf"]  # fixtures


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
