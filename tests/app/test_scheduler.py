"""The scheduler: who is served next, who is refused, and what becomes of those nobody waits for any more."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from app import errors
from app.backbones import crops
from app.backbones.preprocess import Preprocessing
from app.predictions.lanes import Lane
from app.predictions.loaded import Loaded, Pace
from app.predictions.scheduler import Limits, Scheduler
from app.predictions.tickets import Ticket
from app.runtimes.form import PLAIN, Form, Images, Machine, Passed
from tests import factories

PREPROCESSING = Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PHOTO = factories.image(factories.COLOURS["red"])
LIMITS = Limits(threads=2, max_queued=10, batch_wait_seconds=0.005, max_image_pixels=1_000_000, drain_seconds=60)
PATIENCE = 60.0
TWO_THREADS = Machine(threads=2)


@dataclass
class Net:
    """A network whose logits are the mean of the red channel, that can be held up, and that tells what it was given."""

    batches: list[int] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    name: str = ""
    failure: Exception | None = None
    """What a pass raises."""
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        self.batches.append(len(images))
        self.alone.append(alone)
        self.order.append(self.name)
        if self.failure is not None:
            raise self.failure
        red = images[..., 0].astype(np.float32).mean(axis=(1, 2))
        logits = (np.stack([red, -red], axis=1) / 255).astype(np.float32)
        return Passed(features=logits, logits=logits)

    def widen(self) -> None:
        raise AssertionError("a network as quick as this needs no second copy")

    def settle(self) -> None:
        pass


def loaded(net: Net, *, batch: int = 1, form: Form = PLAIN, machine: Machine = TWO_THREADS) -> Loaded:
    found = Loaded(net, form, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=machine)
    found.measure(batch=batch)
    for told in (net.batches, net.alone, net.order):
        told.clear()
    net.begun = threading.Semaphore(0)
    return found


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(LIMITS)
    yield scheduler
    scheduler.close()


@dataclass
class Asked:
    """A ticket, and the moment it ended."""

    ticket: Ticket
    ended: threading.Event

    def wait(self) -> Ticket:
        assert self.ended.wait(PATIENCE)
        return self.ticket


def ask(
    scheduler: Scheduler, lane: Lane, images: Sequence[bytes | Images] = (PHOTO,), *, seconds: float = PATIENCE
) -> Asked:
    ended = threading.Event()
    now = time.monotonic()
    ticket = Ticket(images, deadline=now + seconds, now=now, done=lambda _ticket: ended.set())
    scheduler.submit(lane, ticket)
    return Asked(ticket, ended)


def grey(value: int) -> Images:
    return np.full((8, 8, 3), value, np.uint8)


def hold(scheduler: Scheduler, net: Net, lane: Lane, *, threads: int = 2) -> Callable[[], None]:
    """Keep all threads busy with `net` until the function returned is called."""
    net.gate.clear()
    held = [ask(scheduler, lane) for _ in range(threads)]
    for _ in held:
        assert net.begun.acquire(timeout=PATIENCE)

    def go_on() -> None:
        net.gate.set()
        for asked in held:
            asked.wait()

    return go_on


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come to pass")


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


@dataclass
class Slow(Net):
    """One that takes its time for each image."""

    seconds: float = 0.0

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        time.sleep(self.seconds * len(images))
        return super().run(images, alone=alone)

    def widen(self) -> None:
        pass
