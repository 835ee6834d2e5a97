"""The engine: which classifiers it keeps, who waits for one that is being loaded, and who answers meanwhile."""

import asyncio
import gc
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from app import errors
from app.metrics import Metrics
from app.models.service import Served
from app.optimisation import Serving
from app.predictions.engine import Answered, Engine
from app.predictions.lanes import Lane
from app.predictions.loaded import Given
from app.predictions.opener import FromStorage
from app.predictions.scheduler import Scheduler
from app.predictions.shelf import Opener, Shelf
from app.predictions.tickets import Ticket
from app.runtimes import in_torch
from app.runtimes.form import PLAIN, Images, Machine, Passed
from tests.app.engines import LIMITS, PHOTO, Versions, ask, engine, one, scheduler, shelf, versions
from tests.app.scheduling import Net, hold, loaded, until

__all__ = ["engine", "scheduler", "shelf", "versions"]  # fixtures


def test_a_model_that_takes_long_to_load_holds_up_no_other_and_is_loaded_once(
    versions: Versions, engine: Engine
) -> None:
    slow, other = versions.add("slow"), versions.add("other")
    go_on = versions.stall(slow)

    async def scene() -> None:
        waiting = [asyncio.ensure_future(ask(engine, slow)) for _ in range(2)]
        await ask(engine, other)
        assert not any(task.done() for task in waiting)
        await asyncio.to_thread(go_on)
        first, second = await asyncio.gather(*waiting)
        assert first.loaded is second.loaded

    asyncio.run(scene())


def test_the_models_used_last_are_kept(versions: Versions, engine: Engine) -> None:
    all_three = [versions.add(name) for name in ("first", "second", "third")]
    for version in (all_three[0], all_three[1], all_three[0], all_three[2]):
        one(engine, version)
    for version in all_three:
        versions.remove(version)

    one(engine, all_three[0])
    one(engine, all_three[2])
    with pytest.raises(errors.Unavailable):
        one(engine, all_three[1])


def test_what_is_pinned_stays_and_the_budget_is_kept(versions: Versions, engine: Engine, shelf: Shelf) -> None:
    all_four = [versions.add(name) for name in ("first", "second", "third", "fourth")]
    shelf.pin(frozenset({all_four[0]}))
    for version in all_four:
        one(engine, version)

    assert [engine.has(version) for version in all_four] == [True, False, False, True]


def test_whoever_is_not_answered_in_time_is_told_though_every_thread_is_at_work(
    versions: Versions, engine: Engine, scheduler: Scheduler
) -> None:
    busy, version = Net(), versions.add("model")
    one(engine, version)
    go_on = hold(scheduler, busy, scheduler.lane(loaded(busy)), threads=LIMITS.threads)

    async def scene() -> None:
        with pytest.raises(errors.Overloaded) as told:
            await engine.classify("model", version, [PHOTO], timeout_seconds=0.05)
        assert told.value.code == "deadline_exceeded"
        leaving = asyncio.ensure_future(ask(engine, version))
        await asyncio.sleep(0)
        assert scheduler.queued() == 1
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving

    asyncio.run(scene())
    assert scheduler.queued() == 0
    go_on()


@pytest.mark.parametrize("image", [b"no image", np.zeros((3, 5, 3), np.uint8)], ids=["refused", "failed"])
def test_a_request_that_failed_is_forgotten_at_once(
    image: Given, versions: Versions, engine: Engine, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = versions.add("model")
    one(engine, version)
    known: list[weakref.ref[Ticket]] = []
    submit = scheduler.submit

    def submitted(lane: Lane, ticket: Ticket) -> None:
        known.append(weakref.ref(ticket))
        submit(lane, ticket)

    monkeypatch.setattr(scheduler, "submit", submitted)

    async def scene() -> None:
        with pytest.raises(errors.GraftError):
            await engine.classify("model", version, [image], timeout_seconds=60)

    gc.disable()  # which would find it in a while
    try:
        asyncio.run(scene())
        until(lambda: known[0]() is None)
    finally:
        gc.enable()


def test_an_event_loop_that_ended_before_the_answer_costs_no_thread(
    versions: Versions, engine: Engine, scheduler: Scheduler
) -> None:
    busy, version = Net(), versions.add("model")
    one(engine, version)
    lane = scheduler.lane(loaded(busy))
    go_on = hold(scheduler, busy, lane, threads=LIMITS.threads)
    loop = asyncio.new_event_loop()
    left = loop.create_task(engine.classify("model", version, [PHOTO], timeout_seconds=0.05))
    loop.run_until_complete(asyncio.sleep(0))
    assert scheduler.queued() == 1
    loop.close()
    time.sleep(0.1)  # by then it is too late, which a thread is to tell
    go_on()
    until(lambda: scheduler.queued() == 0)

    hold(scheduler, busy, lane, threads=LIMITS.threads)()  # all threads are there
    assert not left.done()


def test_a_form_that_cannot_be_run_is_followed_by_the_next(
    versions: Versions, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = replace(versions.add("model"), serving=Serving(None, ("torch-compiled-fp32", "torch-fp32")))
    run = in_torch.InTorch.run
    networks: list[in_torch.InTorch] = []

    def broken(network: in_torch.InTorch, images: Images, *, alone: bool = False) -> Passed:
        networks.append(network)
        if network is networks[0]:
            raise torch.OutOfMemoryError("no room for a batch")
        return run(network, images, alone=alone)

    monkeypatch.setattr(in_torch.InTorch, "run", broken)

    async def asked() -> Answered:
        return await ask(engine, version)

    assert asyncio.run(asked()).loaded.form == PLAIN


def test_a_model_that_failed_in_a_pass_is_not_ready_until_it_is_loaded_in_its_next_form(
    versions: Versions, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    version = replace(versions.add("model"), serving=Serving(None, ("torch-bf16", "torch-fp32")))
    run = in_torch.InTorch.run
    failing: set[in_torch.InTorch] = set()

    def fragile(network: in_torch.InTorch, images: Images, *, alone: bool = False) -> Passed:
        if network in failing:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return run(network, images, alone=alone)

    def break_down(found: Answered) -> None:
        assert isinstance(found.loaded.network, in_torch.InTorch)
        failing.add(found.loaded.network)

    async def fails() -> None:
        with pytest.raises(errors.Unavailable, match="failed") as told:
            await ask(engine, version)
        assert told.value.code == "runtime_unavailable"

    async def scene() -> None:
        break_down(await ask(engine, version))
        assert engine.is_ready("model", version)
        await fails()
        assert not engine.is_ready("model", version)
        second = await ask(engine, version)
        assert second.loaded.form == PLAIN
        assert engine.is_ready("model", version)

        break_down(second)
        monkeypatch.setattr(in_torch, "_restored", lambda _files: pytest.fail("the device is lost"))
        await fails()
        with pytest.raises(errors.Unavailable):
            engine.is_ready("model", version)

    monkeypatch.setattr(in_torch.InTorch, "run", fragile)
    asyncio.run(scene())


def test_a_process_is_warm_once_what_it_keeps_was_loaded_or_cannot_be(versions: Versions, engine: Engine) -> None:
    slow, missing, late = versions.add("slow"), Served("missing", "missing", 1), versions.add("late")
    assert not engine.is_warm([slow, missing])
    go_on = versions.stall(slow)
    engine.follow({}, [slow, missing])
    with pytest.raises(errors.Unavailable):
        one(engine, missing)
    assert not engine.is_warm([slow, missing])

    go_on()
    one(engine, slow)
    assert engine.is_warm([slow, missing])
    assert engine.is_warm([slow, missing, late])


def test_a_model_that_could_not_be_loaded_is_tried_again(versions: Versions, engine: Engine) -> None:
    missing = Served("missing", "missing", 1)
    with pytest.raises(errors.Unavailable):
        one(engine, missing)
    versions.add("missing")

    assert one(engine, missing).labels == ("ants", "bees")


def test_requests_that_were_refused_for_a_model_keep_nothing_of_their_images(
    versions: Versions, scheduler: Scheduler
) -> None:
    source = FromStorage(versions.storage, Machine(threads=2), 1, Metrics())
    shelf = Shelf(
        Opener(source.need, source.open, scheduler.lane, lambda: None, lambda _form: None),
        max_bytes=1,
        retry_seconds=60,
    )
    engine, missing = Engine(shelf, scheduler), Served("missing", "missing", 1)
    given: list[weakref.ref[Images]] = []

    async def refused() -> None:
        image = np.zeros((8, 8, 3), np.uint8)
        given.append(weakref.ref(image))
        with pytest.raises(errors.Unavailable, match="is missing"):
            await engine.classify("missing", missing, [image], timeout_seconds=60)

    async def scene() -> None:
        await asyncio.gather(refused(), refused())
        await refused()

    asyncio.run(scene())
    gc.collect()
    assert len(given) == 3
    assert all(image() is None for image in given)
    shelf.close()


def test_who_answered_before_goes_on_until_the_next_one_is_loaded(versions: Versions, engine: Engine) -> None:
    old, new = versions.add("old"), versions.add("new")
    go_on = versions.stall(new)

    async def scene() -> None:
        assert (await ask(engine, old, reference="m:production")).version == old
        assert (await ask(engine, new, reference="m:production")).version == old
        assert (await ask(engine, old, reference="m@1")).version == old
        await asyncio.to_thread(go_on)
        await engine.prepare(new)
        assert (await ask(engine, new, reference="m:production")).version == new

    asyncio.run(scene())


def test_a_new_version_that_cannot_be_loaded_takes_nobodys_place(versions: Versions, engine: Engine) -> None:
    old, broken = versions.add("old"), Served("gone", "gone", 2)

    async def scene() -> None:
        await ask(engine, old, reference="m")
        for _ in range(3):
            assert (await ask(engine, broken, reference="m")).version == old

    asyncio.run(scene())


def test_a_deleted_version_answers_no_more_while_the_one_in_its_place_is_loaded(
    versions: Versions, engine: Engine
) -> None:
    old, new = versions.add("old"), versions.add("new")

    async def scene() -> None:
        assert (await ask(engine, old, reference="m")).version == old
        go_on = versions.stall(new)
        engine.follow({"m": new, "m@2": new}, [])
        asked = asyncio.ensure_future(ask(engine, new, reference="m"))
        await asyncio.to_thread(go_on)
        assert (await asked).version == new

    asyncio.run(scene())


def test_a_request_whose_client_goes_away_while_a_model_loads_ends_no_other(versions: Versions, engine: Engine) -> None:
    slow = versions.add("slow")
    go_on = versions.stall(slow)

    async def scene() -> None:
        impatient, patient = (asyncio.ensure_future(ask(engine, slow)) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        threading.Thread(target=go_on).start()
        assert (await patient).version == slow

    asyncio.run(scene())
