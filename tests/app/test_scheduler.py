"""The scheduler: who is served next, who is refused, and what becomes of those nobody waits for any more."""

import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest

from app import errors
from app.backbones import crops
from app.predictions.scheduler import Scheduler
from app.runtimes.form import Machine
from tests.app.scheduling import LIMITS, PATIENCE, PHOTO, Net, ask, grey, hold, loaded, scheduler, until

__all__ = ["scheduler"]  # a fixture


def test_answers_come_in_the_order_of_the_images(scheduler: Scheduler) -> None:
    ticket = ask(scheduler, scheduler.lane(loaded(Net())), [grey(value) for value in range(0, 80, 10)]).wait()

    reds = [answer.logits[0] * 255 for answer in ticket.answers if answer is not None]
    assert reds == pytest.approx(range(0, 80, 10), abs=1e-3)
    assert ticket.error is None


def test_an_image_that_is_none_ends_its_request_and_no_other(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    bad, good = ask(scheduler, lane, [PHOTO, b"rubbish", PHOTO]), ask(scheduler, lane)

    error = bad.wait().error
    assert isinstance(error, errors.BadImage)
    assert error.detail["image"] == 1
    assert error.message.startswith("image 1: ")
    assert good.wait().error is None


def test_a_network_that_breaks_ends_the_request_and_the_threads_live_on(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    wrong = np.zeros((8, 8), np.uint8)
    failed = [ask(scheduler, lane, [wrong]) for _ in range(4)]

    assert all(isinstance(asked.wait().error, Exception) for asked in failed)
    # By another lane, as whatever waits in one whose network has failed is told so.
    assert ask(scheduler, scheduler.lane(loaded(Net()))).wait().error is None


def test_a_full_queue_takes_no_more_and_that_of_another_model_does(scheduler: Scheduler) -> None:
    net = Net()
    full, other = scheduler.lane(loaded(net)), scheduler.lane(loaded(Net()))
    go_on = hold(scheduler, net, full)
    waiting = ask(scheduler, full, [PHOTO] * LIMITS.max_queued)
    with pytest.raises(errors.Busy, match="10 images wait"):
        ask(scheduler, full)
    taken = ask(scheduler, other)
    go_on()

    assert waiting.wait().error is None
    assert taken.wait().error is None


@pytest.mark.parametrize(
    ("seconds", "said", "retry_after"),
    [
        (3.0, r"about 6\.0 s, more than the 3\.0 s", 2),  # one image of four seconds, on two threads
        (6.5, r"about 6\.0 s, and may take more than the 6\.5 s", 1),  # less, but it is told in whole seconds
    ],
)
def test_who_could_hardly_be_answered_in_time_is_told_at_once(
    scheduler: Scheduler, seconds: float, said: str, retry_after: int
) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane)
    lane.decode_seconds, lane.pass_seconds = 1.0, 3.0
    ask(scheduler, lane, [grey(0)])
    with pytest.raises(errors.Overloaded, match=said) as refused:
        ask(scheduler, lane, seconds=seconds)
    ask(scheduler, lane, seconds=7.0)
    go_on()
    assert refused.value.retry_after_seconds == retry_after


def test_where_fewer_passes_are_made_at_once_than_there_are_threads_others_wait_for_those() -> None:
    limits = replace(LIMITS, threads=4)
    scheduler, net = Scheduler(limits), Net()
    lane = scheduler.lane(loaded(net, batch=4, machine=Machine(threads=1)))
    net.gate.clear()
    held = ask(scheduler, lane, [grey(0)])
    assert net.begun.acquire(timeout=PATIENCE)
    lane.decode_seconds, lane.pass_seconds = 0.0, 0.5
    waiting = ask(scheduler, lane, [grey(0)] * 8)
    with pytest.raises(errors.Overloaded, match=r"about 4\.5 s, and may take more than the 5\.0 s"):
        ask(scheduler, lane, [grey(0)], seconds=5.0)
    ask(scheduler, lane, [grey(0)], seconds=10.0)
    net.gate.set()
    for asked in (held, waiting):
        assert asked.wait().error is None
    scheduler.close()


def test_what_waits_for_a_network_that_failed_is_told_and_not_passed() -> None:
    scheduler, net = Scheduler(LIMITS), Net(failure=RuntimeError("the device is gone"))
    lane = scheduler.lane(loaded(Net()))
    lane.loaded.network = net
    go_on = hold(scheduler, net, lane)
    waiting = [ask(scheduler, lane) for _ in range(6)]
    go_on()
    for asked in waiting:
        error = asked.wait().error
        assert isinstance(error, errors.Unavailable)
        assert "has to be loaded anew" in str(error)
    assert len(net.batches) == 2  # those that were held
    scheduler.close()


def test_too_little_memory_to_decode_is_told_as_what_passes_by(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = scheduler.lane(loaded(Net()))

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(crops, "centre_crop", fail)
    error = ask(scheduler, lane).wait().error
    assert isinstance(error, errors.Overloaded)
    assert "too little memory" in str(error)


def test_who_has_waited_too_long_is_told_and_costs_nothing(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane)
    late = ask(scheduler, lane, seconds=0.01)
    late.ticket.deadline = time.monotonic() - 1
    go_on()

    error = late.wait().error
    assert isinstance(error, errors.Overloaded)
    assert error.code == "deadline_exceeded"
    assert len(net.batches) == 2


def test_nothing_is_computed_for_a_client_that_has_gone(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane)
    gone, stayed = ask(scheduler, lane, [PHOTO] * 3), ask(scheduler, lane)
    gone.ticket.is_gone = True
    go_on()
    stayed.wait()

    assert len(net.batches) == 3
    assert not gone.ended.is_set()


def test_what_nobody_waits_for_any_more_stands_in_nobodys_way(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane)
    gone = ask(scheduler, lane, [PHOTO] * LIMITS.max_queued)
    gone.ticket.is_gone = True
    scheduler.withdraw(lane, gone.ticket)
    assert (lane.waiting, scheduler.queued()) == (0, 0)
    stayed = ask(scheduler, lane)
    go_on()
    assert stayed.wait().error is None


def test_a_new_queue_goes_by_what_decoding_took_for_others(scheduler: Scheduler) -> None:
    first = scheduler.lane(loaded(Net()))
    assert first.decode_seconds == 0
    taken = ask(scheduler, first, [PHOTO]).wait()
    assert first.decode_seconds == taken.decode_seconds
    assert scheduler.lane(loaded(Net())).decode_seconds == taken.decode_seconds


def test_a_full_queue_says_when_there_will_be_room(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane)
    lane.decode_seconds, lane.pass_seconds = 1.0, 3.0
    ask(scheduler, lane, [grey(0)] * LIMITS.max_queued)
    with pytest.raises(errors.Busy) as refused:
        ask(scheduler, lane, [grey(0)] * 2)
    assert refused.value.retry_after_seconds == 4  # two images of four seconds, on two threads
    go_on()


def test_models_share_the_threads_however_much_waits_for_each() -> None:
    scheduler = Scheduler(replace(LIMITS, threads=1))
    busy, rare = Net(name="busy"), Net(name="rare")
    many, few = scheduler.lane(loaded(busy)), scheduler.lane(loaded(rare))
    rare.order = busy.order = []
    go_on = hold(scheduler, busy, many, threads=1)
    for lane in (many, few):
        lane.decode_seconds, lane.pass_seconds = 0.0, 100.0
    asked = [ask(scheduler, many, [grey(0)] * 8), ask(scheduler, few, [grey(0)] * 2)]
    go_on()
    for each in asked:
        each.wait()
    scheduler.close()

    # One that was held, and then in turns.
    assert [place for place, name in enumerate(busy.order) if name == "rare"][-1] <= 4


def test_what_was_taken_in_is_answered_before_the_end_and_nothing_else_is_taken_in() -> None:
    for batch in (1, 4):
        scheduler = Scheduler(LIMITS)
        net = Net()
        lane = scheduler.lane(loaded(net, batch=batch))
        go_on = hold(scheduler, net, lane) if batch == 1 else (lambda: None)
        accepted = [ask(scheduler, lane) for _ in range(5)]
        closing = threading.Thread(target=scheduler.close)
        closing.start()
        go_on()
        closing.join(PATIENCE)

        assert not closing.is_alive()
        assert all(asked.ended.is_set() and asked.ticket.error is None for asked in accepted)
        with pytest.raises(errors.Overloaded, match="stopping"):
            ask(scheduler, lane)


def test_nothing_is_taken_in_that_a_process_which_is_to_stop_could_not_finish() -> None:
    scheduler = Scheduler(replace(LIMITS, drain_seconds=3.5))
    net = Net()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane)
    lane.pass_seconds = 2.0
    for _ in range(2):
        ask(scheduler, lane, seconds=3600)
    with pytest.raises(errors.Overloaded, match=r"about 4\.0 s, more than the 3\.5 s"):
        ask(scheduler, lane, seconds=3600)
    go_on()
    scheduler.close()


def test_a_thread_that_waits_keeps_no_classifier_in_memory(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    known = weakref.ref(lane)
    ask(scheduler, lane).wait()
    del lane
    until(lambda: known() is None)  # whoever is done answers before it forgets
