"""Images that are decoded one after the other, and requests of many images: who waits for them, and what is refused."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from PIL import Image

from app import errors
from app.backbones import preprocess
from app.predictions import admission
from app.predictions.loaded import Given, Loaded, Opened
from app.predictions.scheduler import Scheduler
from app.predictions.tickets import Item, Ticket
from app.runtimes.form import PLAIN, Images, Machine, Passed
from tests.app.scheduling import LIMITS, PATIENCE, PHOTO, PREPROCESSING, Net, ask, grey, hold, loaded, until
from tests.backbones.pictures import encode

MEGAPIXELS = 1_000_000


class Slow(Loaded):
    """Takes pixels for large image files, which are decoded when the gate is opened."""

    def __init__(self, large_pixels: int, *, batch: int = 1) -> None:
        self.net = Net()
        super().__init__(
            self.net,
            PLAIN,
            labels=("a", "b"),
            preprocessing=PREPROCESSING,
            calibration=None,
            machine=Machine(threads=2),
        )
        self.measure(batch=batch)
        self.net.batches.clear()
        self.large_pixels = large_pixels
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.at_once = 0
        self.most_at_once = 0

    def opened(self, image: Given, *, max_pixels: int) -> Opened:
        found = super().opened(image, max_pixels=max_pixels)
        return Opened(self.large_pixels, partial(self._wait, found.pixels))

    def _wait(self, pixels: Callable[[], Images]) -> Images:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        self.at_once -= 1
        return pixels()


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(LIMITS)
    yield scheduler
    scheduler.close()


def test_no_thread_waits_for_the_turn_of_a_large_image(scheduler: Scheduler) -> None:
    slow = Slow(20 * MEGAPIXELS)
    large, small = scheduler.lane(slow), scheduler.lane(loaded(Net()))
    asked = [ask(scheduler, large, [grey(value)]) for value in (10, 20, 30, 40)]
    assert slow.begun.acquire(timeout=PATIENCE)
    for _ in range(4):  # by the one thread that there is beside
        assert ask(scheduler, small).wait().error is None
    assert scheduler.queued() == 3
    slow.gate.set()

    reds = [answer.logits[0] * 255 for one in asked for answer in one.wait().answers if answer is not None]
    assert reds == pytest.approx([10, 20, 30, 40], abs=1e-3)
    assert slow.most_at_once == 1


def test_large_images_of_two_models_take_turns(scheduler: Scheduler) -> None:
    first, second = Slow(20 * MEGAPIXELS), Slow(20 * MEGAPIXELS)
    busy, rare = scheduler.lane(first), scheduler.lane(second)
    many = [ask(scheduler, busy, [grey(0)]) for _ in range(4)]
    assert first.begun.acquire(timeout=PATIENCE)
    one = ask(scheduler, rare, [grey(0)])
    until(lambda: len(busy.large) == 3 and len(rare.large) == 1)
    second.gate.set()
    first.gate.set()
    one.wait()
    assert all(asked.wait().error is None for asked in many)


def test_a_large_image_for_which_nobody_waits_any_more_is_not_decoded(scheduler: Scheduler) -> None:
    slow = Slow(20 * MEGAPIXELS)
    lane = scheduler.lane(slow)
    held, gone, stayed = (ask(scheduler, lane, [grey(value)]) for value in (0, 1, 2))
    until(lambda: len(lane.large) == 2)
    gone.ticket.is_gone = True
    scheduler.withdraw(lane, gone.ticket)
    slow.gate.set()
    held.wait()
    stayed.wait()
    assert not gone.ended.is_set()
    assert gone.ticket.decode_seconds == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_what_is_withdrawn_while_it_is_decoded_is_neither_passed_nor_waits(scheduler: Scheduler, batch: int) -> None:
    slow = Slow(0, batch=batch)
    lane = scheduler.lane(slow)
    gone = [ask(scheduler, lane, [grey(value)]) for value in (1, 2)]
    for asked in gone:
        assert slow.begun.acquire(timeout=PATIENCE)
        asked.ticket.is_gone = True
        scheduler.withdraw(lane, asked.ticket)
    stood_ready: list[int] = []
    lane.ready = Seen(stood_ready)
    slow.gate.set()
    until(lambda: not lane.decoding)

    assert ask(scheduler, lane, [grey(3)]).wait().error is None
    assert slow.net.batches == [1]
    assert scheduler.queued() == 0
    assert stood_ready == ([] if batch == 1 else [3])


class Seen(deque[tuple[Item, Images]]):
    """Tells what was put into it, by its pixels."""

    def __init__(self, told: list[int]) -> None:
        super().__init__()
        self.told = told

    def append(self, pair: tuple[Item, Images], /) -> None:
        self.told.append(int(pair[1].flat[0]))
        super().append(pair)


def test_large_images_that_could_not_be_decoded_in_time_are_refused_at_once() -> None:
    scheduler = Scheduler(replace(LIMITS, drain_seconds=20.0, max_queued=100))
    slow = Slow(79 * MEGAPIXELS)
    lane = scheduler.lane(slow)
    asked = ask(scheduler, lane, [grey(0)] * 64, seconds=300)
    error = asked.wait().error  # though none was decoded yet
    assert isinstance(error, errors.Overloaded)
    assert error.code == "overloaded"
    assert "more than the 20.0 s that there are" in error.message
    few = ask(scheduler, lane, [grey(0)] * 4, seconds=300)
    scheduler.withdraw(lane, asked.ticket)
    slow.gate.set()
    assert few.wait().error is None
    scheduler.close()


def test_what_large_images_take_says_nothing_of_others() -> None:
    scheduler = Scheduler(replace(LIMITS, max_image_pixels=2 * preprocess.LARGE_PIXELS))
    lane = scheduler.lane(loaded(Net()))
    photo = encode(Image.new("RGB", (4200, 1 + preprocess.LARGE_PIXELS // 4200)), "PNG")
    found = ask(scheduler, lane, [photo]).wait()
    assert found.error is None
    assert found.decode_seconds > 0
    assert lane.decode_seconds == 0
    scheduler.close()


def test_a_lone_request_of_more_images_than_can_be_answered_in_time_is_refused_at_once(scheduler: Scheduler) -> None:
    classifier = loaded(Net())
    classifier.pace.seconds = 1.0  # as it was timed when it was loaded
    lane = scheduler.lane(classifier)
    said = r"about 4\.0 s if nobody else asked, more than the 3\.0 s that there are; fewer images"
    with pytest.raises(errors.Overloaded, match=said) as refused:
        ask(scheduler, lane, [PHOTO] * 8, seconds=3)
    assert refused.value.retry_after_seconds == 4  # nobody has to go first: to come again at once would help nothing
    assert ask(scheduler, lane, [PHOTO] * 8, seconds=5).wait().error is None


def test_short_times_are_told_as_what_they_are(scheduler: Scheduler) -> None:
    classifier = loaded(Net())
    classifier.pace.seconds = 0.0311
    with pytest.raises(errors.Overloaded, match=r"about 0\.12 s .* more than the 0\.05 s"):
        ask(scheduler, scheduler.lane(classifier), [PHOTO] * 8, seconds=0.05)


def test_what_images_took_some_time_ago_refuses_nobody_who_is_alone(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    ask(scheduler, lane, [PHOTO] * 4).wait()
    lane.pass_seconds = 60.0
    with pytest.raises(errors.Overloaded):
        ask(scheduler, lane, [PHOTO] * 8, seconds=30)
    lane.timed -= 10
    assert ask(scheduler, lane, [PHOTO] * 8, seconds=30).wait().error is None


def test_few_images_are_let_in_where_nobody_waits_whatever_others_took(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane)
    lane.pass_seconds = 60.0
    asked = ask(scheduler, lane, [PHOTO] * 2, seconds=30)
    go_on()
    assert asked.wait().error is None


@dataclass
class Reds(Net):
    """Tells the mean of the red channel of all that it was given."""

    reds: list[int] = field(default_factory=list)

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        passed = super().run(images, alone=alone)
        self.reds += [int(image[..., 0].mean()) for image in images]
        return passed


def test_nobody_waits_for_all_images_of_a_request_that_takes_long() -> None:
    scheduler = Scheduler(replace(LIMITS, threads=1))
    net = Reds()
    lane = scheduler.lane(loaded(net))
    go_on = hold(scheduler, net, lane, threads=1)
    net.reds.clear()
    many = ask(scheduler, lane, [grey(10)] * 4)
    many.ticket.decode_seconds = 30.0  # as if it had had some that are decoded slowly
    one = ask(scheduler, lane, [grey(200)])
    go_on()
    assert [asked.wait().error for asked in (many, one)] == [None, None]
    scheduler.close()

    assert net.reds[1:] == [200, 10, 10, 10, 10]  # after the one that was held


def test_a_large_image_waits_for_small_ones_where_its_request_has_taken_long(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    many, one = (Ticket([PHOTO], deadline=100.0, now=moment, done=lambda _: None) for moment in (0.0, 1.0))
    lane.large.append((many.take(), 20 * MEGAPIXELS))
    lane.encoded.add(one)
    many.decode_seconds = 30.0

    assert lane.next_large(2.0) is None
    assert lane.encoded.take(2.0) == Item(one, 0)
    assert lane.next_large(2.0) == (Item(many, 0), 20 * MEGAPIXELS)


def test_a_request_of_several_images_is_judged_by_what_those_of_others_took(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    ask(scheduler, lane, [PHOTO]).wait()
    assert lane.several_seconds == 0
    ask(scheduler, lane, [PHOTO] * 2).wait()
    assert 0 < lane.several_seconds < 1

    lane.several_seconds = 1.0  # as of photos from a phone
    with pytest.raises(errors.Overloaded, match=r"about 4\.0 s if nobody else asked"):
        ask(scheduler, lane, [PHOTO] * 8, seconds=3)
    assert ask(scheduler, lane, seconds=3).wait().error is None


def test_a_request_that_takes_long_waits_for_all_that_waits(scheduler: Scheduler) -> None:
    lane = scheduler.lane(loaded(Net()))
    lane.decode_seconds, lane.pass_seconds, lane.several_seconds = 0.001, 0.0, 1.0
    slow = Ticket([PHOTO] * 21, deadline=100.0, now=0.0, done=lambda _: None)
    lane.encoded.add(slow)
    lane.encoded.take(0.0)
    slow.decode_seconds, slow.decoded = 2.0, 1
    lane.encoded.take(0.0)  # so it is seen to have taken long
    slow.decode_seconds, slow.decoded = 4.0, 2

    def wait(count: int, *, now: float) -> float:
        return admission.expected_wait(lane, [lane], now, threads=2, count=count)

    assert wait(1, now=0.5) == 0  # the next of 19 is due at 1.0
    assert wait(1, now=1.0) == 1.0
    assert wait(2, now=0.5) == 19.0


def test_what_an_image_of_a_request_that_takes_long_took_is_not_foretold_of_photos_one_by_one(
    scheduler: Scheduler,
) -> None:
    lane = scheduler.lane(loaded(Net()))
    lane.decode_seconds = 0.001
    many = Ticket([PHOTO] * 4, deadline=100.0, now=0.0, done=lambda _: None)
    many.decode_seconds = 5.0
    assert not lane.learn_decoding(many, 2.5)
    assert (lane.decode_seconds, lane.several_seconds) == (0.001, 2.5)

    few = Ticket([PHOTO] * 4, deadline=100.0, now=0.0, done=lambda _: None)
    few.decode_seconds = 0.05
    assert lane.learn_decoding(few, 0.05)
    assert lane.decode_seconds > 0.001
