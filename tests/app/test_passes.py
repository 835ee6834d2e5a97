"""Passes: which images are passed together, on how many threads, and what is learnt of how long that takes."""

import time
from dataclasses import replace

import pytest

from app import errors
from app.predictions.loaded import Loaded, Pace
from app.predictions.scheduler import Scheduler
from app.runtimes.form import PLAIN, Machine
from tests.app.scheduling import (
    LIMITS,
    PATIENCE,
    PREPROCESSING,
    TWO_THREADS,
    Net,
    Slow,
    ask,
    grey,
    hold,
    loaded,
    scheduler,
    until,
)

__all__ = ["scheduler"]  # a fixture


def test_what_images_take_together_counts_where_several_come(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4, machine=Machine(threads=1)))
    lane.loaded.pace.seconds = lane.pass_seconds = 1.0
    with pytest.raises(errors.Overloaded, match=r"about 8\.0 s if nobody else asked"):
        ask(scheduler, lane, [grey(0)] * 8, seconds=6.0)
    # A pass of several says how long they take.
    net.gate.clear()
    held = [ask(scheduler, lane, [grey(0)])]
    assert net.begun.acquire(timeout=PATIENCE)
    held.append(ask(scheduler, lane, [grey(0)] * 4))
    net.gate.set()
    for asked in held:
        assert asked.wait().error is None
    assert 0 < lane.together_seconds < 0.5
    lane.decode_seconds, lane.loaded.pace.seconds, lane.pass_seconds, lane.timed = 0.0, 1.0, 1.0, 0.0
    assert ask(scheduler, lane, [grey(0)] * 8, seconds=6.0).wait().error is None


def test_of_what_is_decoded_for_a_batch_only_what_is_still_wanted_is_passed() -> None:
    scheduler = Scheduler(replace(LIMITS, threads=3, batch_wait_seconds=PATIENCE))
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4))
    net.gate.clear()
    held = [ask(scheduler, lane, [grey(0)])]
    assert net.begun.acquire(timeout=PATIENCE)  # alone, as nobody else was there
    held.append(ask(scheduler, lane, [grey(1)]))
    assert net.begun.acquire(timeout=PATIENCE)
    gone = ask(scheduler, lane, [grey(2)])
    late = ask(scheduler, lane, [grey(3)])
    until(lambda: len(lane.ready) == 2)  # as no more than two passes are made at once
    gone.ticket.is_gone = True
    late.ticket.deadline = time.monotonic() - 1
    net.gate.set()

    error = late.wait().error
    assert isinstance(error, errors.Overloaded)
    assert error.code == "deadline_exceeded"
    assert all(asked.wait().error is None for asked in (*held, ask(scheduler, lane, [grey(4)])))
    assert sum(net.batches) == 3
    scheduler.close()


def test_a_pass_on_all_threads_says_nothing_of_one_on_a_single_one(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    lane.pass_seconds = 5.0
    ask(scheduler, lane).wait()  # nobody else is there
    assert lane.pass_seconds == 5.0


@pytest.mark.parametrize(("batch", "first"), [(1, 1), (4, 1), (1, 3)])
@pytest.mark.parametrize("machine", [TWO_THREADS, Machine(threads=1)], ids=["two threads", "one thread"])
def test_a_network_that_was_timed_while_the_machine_was_busy_is_known_to_be_quicker_once_images_were_passed(
    scheduler: Scheduler, machine: Machine, batch: int, first: int
) -> None:
    lane = scheduler.lane(loaded(Net(), batch=batch, machine=machine))
    lane.loaded.pace.seconds = lane.pass_seconds = 1.0
    with pytest.raises(errors.Overloaded, match=r"about (32|64)\.0 s if nobody else asked"):
        ask(scheduler, lane, [grey(0)] * 64, seconds=10.0)
    ask(scheduler, lane, [grey(0)] * first).wait()
    assert ask(scheduler, lane, [grey(0)] * 64, seconds=10.0).wait().error is None


@pytest.mark.parametrize(("waiting", "sizes"), [(10, {1, 4}), (7, {1})], ids=["many", "few"])
def test_images_of_different_requests_are_passed_together_where_many_wait_and_answered_alike(
    scheduler: Scheduler, waiting: int, sizes: set[int]
) -> None:
    values = range(10, 10 + waiting)
    other = scheduler.lane(loaded(Net()))
    alone = [ask(scheduler, other, [grey(value)]).wait() for value in values]
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4))
    go_on = hold(scheduler, net, lane)
    together = [ask(scheduler, lane, [grey(value)]) for value in values]
    net.batches.clear()
    go_on()
    found = [asked.wait() for asked in together]

    assert set(net.batches) == sizes
    for ours, theirs in zip(found, alone, strict=True):
        assert ours.answers[0] is not None
        assert theirs.answers[0] is not None
        assert ours.answers[0].logits == pytest.approx(theirs.answers[0].logits, abs=1e-6)


def test_what_is_decoded_is_passed_where_nobody_waits_for_the_others_any_more() -> None:
    scheduler = Scheduler(replace(LIMITS, threads=1))  # no other thread would come round and see it
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4))
    go_on = hold(scheduler, net, lane, threads=1)
    stays, late = ask(scheduler, lane, [grey(0)]), ask(scheduler, lane, [grey(0)] * 8)
    late.ticket.deadline = time.monotonic() - 1
    go_on()
    assert stays.wait().error is None
    assert late.wait().error is not None
    scheduler.close()


def test_one_alone_says_what_a_pass_takes_where_no_more_are_made_at_a_time(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4, machine=Machine(1, "cuda")))
    lane.pass_seconds = 5.0
    ask(scheduler, lane).wait()
    assert net.alone == [False]
    until(lambda: lane.pass_seconds < 5.0)


def test_no_more_is_decoded_than_can_be_passed_soon() -> None:
    scheduler = Scheduler(replace(LIMITS, threads=3, max_queued=100))
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4))
    go_on = hold(scheduler, net, lane)  # no more than two passes are made at once, and the third thread decodes
    asked = [ask(scheduler, lane, [grey(0)]) for _ in range(40)]
    until(lambda: len(lane.ready) == 16)
    time.sleep(0.05)
    assert (len(lane.ready), len(lane.encoded)) == (16, 24)
    go_on()
    assert all(each.wait().error is None for each in asked)
    scheduler.close()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_lone_image_is_passed_on_all_threads(scheduler: Scheduler, batch: int) -> None:
    net = Net()
    ask(scheduler, scheduler.lane(loaded(net, batch=batch))).wait()
    assert net.alone == [True]


def test_what_is_passed_side_by_side_with_others_is_not_passed_on_all_threads(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4))
    go_on = hold(scheduler, net, lane)
    asked = ask(scheduler, lane, [grey(0)] * 3)
    go_on()
    asked.wait()
    assert not any(net.alone[1:])


@pytest.mark.parametrize("threads", [1, 2])
def test_no_batch_is_tried_that_would_take_long(threads: int) -> None:
    net = Slow(seconds=0.04)
    found = Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(threads=threads)
    )
    assert found.measure(batch=None).batch == 1
    assert set(net.batches) == {1}
    # No more than tell what one takes, and on all threads, with those that make it ready.
    assert len(net.batches) <= (6 if threads == 1 else 10)


def test_a_network_whose_pace_is_known_is_not_timed_again() -> None:
    net = Net()
    found = Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(threads=1)
    )
    found.warm_up(Pace(seconds=0.001, batch=8))
    assert (found.pace.seconds, found.batch, net.batches) == (0.001, 8, [1, 8])
