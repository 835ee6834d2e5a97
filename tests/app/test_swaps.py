"""Swaps: who answers while a new version is loaded, where there is room for both only once that is done."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from app import errors
from app.models.service import Served
from app.predictions.engine import Answered, Engine
from app.predictions.needs import Need
from app.predictions.scheduler import Scheduler
from app.predictions.shelf import Shelf
from tests.app.scheduling import LIMITS, PHOTO
from tests.app.shelves import FIRST, FOURTH, PATIENCE, SECOND, SMALL, THIRD, Machine, load, on, wait_for

PRODUCTION = "insects:production"
VERSIONS = {f"{version.model_name}@1": version for version in (FIRST, SECOND, THIRD, FOURTH, SMALL)}


@pytest.fixture
def machine() -> Machine:
    """With room for two that are loaded, and for one and a half while one of them is being loaded."""
    return Machine(Need(40, 70))


@pytest.fixture
def shelf(machine: Machine) -> Iterator[Shelf]:
    shelf = machine.shelf(retry_seconds=0)
    yield shelf
    machine.gate.set()
    shelf.close()


@pytest.fixture
def engine(shelf: Shelf) -> Iterator[Engine]:
    scheduler = Scheduler(LIMITS)
    yield Engine(shelf, scheduler)
    scheduler.close()


def who(engine: Engine, target: Served, *, reference: str = PRODUCTION, seconds: float = PATIENCE) -> Served:
    """Which version answers."""

    async def asked() -> Answered:
        return await engine.classify(reference, target, [PHOTO], timeout_seconds=seconds)

    return asyncio.run(asked()).version


def begin_move(machine: Machine, engine: Engine, target: Served, *, is_kept: bool) -> None:
    """Move the alias, and return when its new target is being loaded, which goes on with the machine's gate."""
    machine.gate.clear()
    while machine.begun.acquire(blocking=False):
        pass
    engine.follow({PRODUCTION: target, **VERSIONS}, [target] if is_kept else [])
    assert machine.begun.acquire(timeout=PATIENCE)


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_old_target_of_an_alias_answers_until_the_new_one_is_loaded(
    machine: Machine, shelf: Shelf, engine: Engine, *, is_kept: bool
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [FIRST] if is_kept else [])
    assert who(engine, FIRST) == FIRST
    begin_move(machine, engine, SECOND, is_kept=is_kept)

    assert who(engine, SECOND, seconds=1) == FIRST
    machine.gate.set()
    load(shelf, SECOND)
    assert who(engine, SECOND) == SECOND
    assert shelf.used_bytes == 80


def test_what_is_kept_answers_until_the_new_target_is_loaded_though_nobody_has_asked_for_it_before(
    machine: Machine, shelf: Shelf, engine: Engine
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [FIRST])
    load(shelf, FIRST)
    begin_move(machine, engine, SECOND, is_kept=True)
    assert who(engine, SECOND, seconds=1) == FIRST
    machine.gate.set()
    load(shelf, SECOND)

    begin_move(machine, engine, THIRD, is_kept=True)
    assert who(engine, THIRD, seconds=1) == SECOND


@pytest.mark.parametrize("is_kept", [False, True])
def test_where_the_new_target_cannot_be_loaded_the_old_one_goes_on(
    machine: Machine, shelf: Shelf, engine: Engine, *, is_kept: bool
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [])
    assert who(engine, FIRST) == FIRST
    begin_move(machine, engine, FOURTH, is_kept=is_kept)
    machine.gate.set()
    with shelf.use(FOURTH) as standing, pytest.raises(errors.Unavailable):
        standing.lane(PATIENCE)
    assert who(engine, FOURTH) == FIRST
    if is_kept:  # it takes the place of what has to be in memory, whoever else is asked for
        load(shelf, SECOND, THIRD)
        assert who(engine, FOURTH) == FIRST


def leave_unasked(machine: Machine, shelf: Shelf) -> None:
    """Let the second go for the third, while the first is asked for by another name."""
    machine.need = Need(40, 40)
    load(shelf, FIRST, THIRD)
    assert (shelf.has(FIRST), shelf.has(SECOND)) == (True, False)


@pytest.mark.parametrize("is_there", [False, True])
def test_the_old_target_answers_no_more_once_the_new_one_was_loaded_though_it_had_to_go_before_it_was_asked(
    machine: Machine, shelf: Shelf, engine: Engine, *, is_there: bool
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [])
    assert who(engine, FIRST) == FIRST
    if is_there:
        load(shelf, SECOND)
    engine.follow({PRODUCTION: SECOND, **VERSIONS}, [])
    load(shelf, SECOND)
    leave_unasked(machine, shelf)
    machine.gate.clear()
    for _ in range(2):
        with pytest.raises(errors.Overloaded, match="still being loaded"):
            who(engine, SECOND, seconds=0.1)
        engine.follow({PRODUCTION: SECOND, **VERSIONS}, [])  # for another change
    machine.gate.set()
    assert who(engine, SECOND) == SECOND


def test_a_target_before_the_last_one_answers_no_more_though_the_last_one_had_to_go_before_it_was_asked(
    machine: Machine, shelf: Shelf, engine: Engine
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [])
    assert who(engine, FIRST) == FIRST
    engine.follow({PRODUCTION: SECOND, **VERSIONS}, [])
    load(shelf, SECOND)
    leave_unasked(machine, shelf)
    machine.gate.clear()
    engine.follow({PRODUCTION: SMALL, **VERSIONS}, [])
    with pytest.raises(errors.Overloaded, match="still being loaded"):
        who(engine, SMALL, seconds=0.1)
    machine.gate.set()
    assert who(engine, SMALL) == SMALL


def test_the_old_target_answers_again_where_it_is_left_and_come_back_to(
    machine: Machine, shelf: Shelf, engine: Engine
) -> None:
    for target in (FIRST, SECOND):
        engine.follow({PRODUCTION: target, **VERSIONS}, [])
        load(shelf, target)
        assert who(engine, target) == target
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [])
    assert who(engine, FIRST) == FIRST
    leave_unasked(machine, shelf)
    begin_move(machine, engine, SECOND, is_kept=False)
    assert who(engine, SECOND, seconds=1) == FIRST


@pytest.mark.parametrize("changes", [0, 1])
@pytest.mark.parametrize(("need", "expected"), [(Need(40, 40), FIRST), (Need(60, 60), SECOND)], ids=["there", "gone"])
def test_who_asked_before_the_alias_was_moved_is_answered_by_its_old_target_while_that_is_there(
    machine: Machine,
    shelf: Shelf,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    changes: int,
    need: Need,
    expected: Served,
) -> None:
    machine.need = need
    for target in (FIRST, SECOND):
        engine.follow({PRODUCTION: target, **VERSIONS}, [])
        load(shelf, target)
        assert who(engine, target) == target
    for _ in range(changes):  # of something else
        engine.follow({PRODUCTION: SECOND, **VERSIONS}, [])
    machine.opened.clear()
    caplog.clear()
    assert who(engine, FIRST) == expected
    assert who(engine, SECOND) == SECOND
    assert (machine.opened, caplog.text) == ([], "")


def test_who_asked_before_an_alias_was_moved_and_removed_is_answered_by_its_old_target(
    machine: Machine, shelf: Shelf, engine: Engine
) -> None:
    machine.need = Need(40, 40)
    for target in (FIRST, SECOND):
        engine.follow({PRODUCTION: target, **VERSIONS}, [])
        load(shelf, target)
        assert who(engine, target) == target
    engine.follow(VERSIONS, [])
    load(shelf, THIRD)
    assert on(shelf) == [SECOND, THIRD]
    assert who(engine, FIRST) == FIRST


def test_who_asked_before_a_target_that_cannot_be_loaded_was_given_up_is_answered_by_the_one_before(
    shelf: Shelf, engine: Engine
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [])
    assert who(engine, FIRST) == FIRST
    for target in (FOURTH, SECOND):
        engine.follow({PRODUCTION: target, **VERSIONS}, [])
    assert who(engine, FOURTH) == FIRST


@pytest.mark.parametrize("then", [{PRODUCTION: FIRST}, {}], ids=["moved back", "removed"])
def test_who_asked_before_a_target_was_given_up_for_nothing_new_is_answered_by_who_answered_in_its_place(
    machine: Machine, shelf: Shelf, engine: Engine, then: dict[str, Served]
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [])
    assert who(engine, FIRST) == FIRST
    begin_move(machine, engine, SECOND, is_kept=False)
    engine.follow({**then, **VERSIONS}, [])
    assert who(engine, SECOND, seconds=1) == FIRST
    engine.follow({**then, **VERSIONS}, [])
    assert who(engine, SECOND, seconds=1) == FIRST


def test_who_asked_before_a_target_was_given_up_for_a_third_one_is_answered_after_other_changes_too(
    shelf: Shelf, engine: Engine
) -> None:
    engine.follow({PRODUCTION: FIRST, **VERSIONS}, [])
    assert who(engine, FIRST) == FIRST
    for target in (FOURTH, SECOND):
        engine.follow({PRODUCTION: target, **VERSIONS}, [])
    load(shelf, SECOND)
    assert who(engine, SECOND) == SECOND
    engine.follow({PRODUCTION: SECOND, **VERSIONS}, [])
    assert who(engine, FOURTH) == FIRST


def test_nobody_is_loaded_for_a_name_that_was_asked_for_while_its_version_was_there(
    machine: Machine, shelf: Shelf, engine: Engine
) -> None:
    machine.need = Need(40, 40)
    names = {version.model_name: version for version in (FIRST, SECOND, THIRD)}
    engine.follow(names | VERSIONS, [])
    for name, version in names.items():
        assert who(engine, version, reference=name) == version
    assert on(shelf) == [SECOND, THIRD]
    machine.opened.clear()
    engine.follow(names | VERSIONS | {FIRST.model_name: Served("first-2", "first", 2)}, [])
    load(shelf, SMALL)  # after all that came before
    assert on(shelf) == [SECOND, THIRD]
    assert len(machine.opened) == 1


def test_others_make_room_before_who_answers_in_the_place_of_the_new_one(
    machine: Machine, shelf: Shelf, engine: Engine
) -> None:
    machine.need = Need(40, 40)
    assert who(engine, FIRST) == FIRST
    load(shelf, THIRD)  # used after the old target
    machine.need = Need(40, 70)
    begin_move(machine, engine, SECOND, is_kept=False)
    assert (shelf.has(FIRST), shelf.has(THIRD)) == (True, False)


def test_nobody_else_takes_the_place_of_who_answers_meanwhile(machine: Machine, shelf: Shelf, engine: Engine) -> None:
    assert who(engine, FIRST) == FIRST
    begin_move(machine, engine, SECOND, is_kept=True)
    with shelf.use(THIRD) as third:
        assert who(engine, SECOND, seconds=1) == FIRST
        machine.gate.set()
        third.lane(PATIENCE)
    assert (shelf.has(FIRST), shelf.has(SECOND)) == (False, True)


def test_who_has_no_room_beside_the_new_one_leaves_as_soon_as_it_has_answered(
    machine: Machine, shelf: Shelf, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.need = Need(60, 70)
    assert who(engine, FIRST) == FIRST
    with shelf.use(FIRST):  # whoever comes now is not to keep it here for ever
        engine.follow({PRODUCTION: SECOND, **VERSIONS}, [])
        wait_for(lambda: not shelf.has(FIRST))
        assert shelf.used_bytes == 60
        asking = threading.Thread(target=who, args=(engine, SECOND))
        asking.start()
    asking.join(PATIENCE)
    assert who(engine, SECOND) == SECOND
    assert "first@1 leaves before second@1 is loaded" in caplog.text


def test_who_was_to_leave_stays_where_the_new_one_has_no_room_after_all(
    machine: Machine, shelf: Shelf, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.predictions.shelf._ROOM_SECONDS", 0.1)
    machine.need = Need(60, 70)
    assert who(engine, FIRST) == FIRST
    with shelf.use(FIRST), shelf.use(SECOND) as second:
        engine.follow({PRODUCTION: SECOND, **VERSIONS}, [])
        with pytest.raises(errors.Overloaded):
            second.lane(PATIENCE)
        assert shelf.has(FIRST)


def test_two_swaps_at_once_end_both(machine: Machine, shelf: Shelf, engine: Engine) -> None:
    load(shelf, FIRST, THIRD)
    again = {version: Served(f"{version.version_id}-2", version.model_name, 2) for version in (FIRST, THIRD)}
    names = {version.model_name: version for version in (FIRST, THIRD)}
    engine.follow(names | VERSIONS, [])
    for name, version in names.items():
        assert who(engine, version, reference=name) == version
    engine.follow({name: again[version] for name, version in names.items()} | VERSIONS, [])
    load(shelf, *again.values())
    assert {who(engine, again[version], reference=name) for name, version in names.items()} == {*again.values()}
