"""The shelf: what becomes of classifiers that cannot be loaded, fail later, or are loaded in another form."""

import weakref
from dataclasses import replace

import pytest
import torch

from app import errors
from app.models.service import Served
from app.optimisation import Serving
from app.predictions.lanes import Lane
from app.predictions.loaded import Loaded
from app.predictions.needs import Need
from app.predictions.shelf import Opener, Shelf
from tests.app.shelves import (
    BUDGET,
    FIRST,
    FOURTH,
    PATIENCE,
    SECOND,
    THIRD,
    Machine,
    break_down,
    falling_back,
    lane_of,
    load,
    machine,
    on,
    shelf,
    wait_for,
)

__all__ = ["machine", "shelf"]  # fixtures


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
    opener = Opener(need, machine.open, lane_of, machine.used_bytes, machine.fallen_back.append)
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

    opener = Opener(lambda version: needs[version.serving.forms[0]], fallen_back, lane_of, lambda: None, print)
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

    shelf = Shelf(Opener(lambda _version: machine.need, opened, lane_of, lambda: None, print), max_bytes=BUDGET)
    with shelf.use(FIRST) as standing, pytest.raises(errors.Overloaded, match="too little memory"):
        standing.lane(PATIENCE)
    shelf.close()
