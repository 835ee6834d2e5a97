"""Who is served next: a queue of images for each model, and the threads that decode them and pass them through it.

What waits is bounded, and nobody waits who could not be answered in time. Models that are asked for at the same time
share the threads evenly, however many images each has waiting, and nobody waits for all of a request that takes long.
Large images take much memory while they are decoded: there is one of them at a time, for which no thread waits.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from app import errors
from app.predictions import admission, faults
from app.predictions.lanes import Lane, smoothed
from app.predictions.loaded import Answer, Loaded
from app.predictions.tickets import Item, Ticket
from app.predictions.waiting import Waiting
from app.runtimes import memory
from app.runtimes.form import Images

logger = logging.getLogger(__name__)

_NICENESS = 5
_BELIEVED_SECONDS = 10.0
"""For so long it is believed what images took, where nobody waits: whoever is refused by it tells nothing newer."""
_PIXEL_SECONDS = 5e-9
"""What a pixel of a large image takes at the least, until one was decoded."""


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how it is taken from the queues."""

    threads: int
    max_queued: int
    """Images that may wait for one model."""
    batch_wait_seconds: float
    """How long an image may wait for others to make up a batch, where batches help at all."""
    max_image_pixels: int
    drain_seconds: float
    """Nothing is accepted that would not be answered by then, however long it may take: it could not be finished where
    the process is to stop."""


@dataclass(frozen=True)
class _Step:
    """What a thread does next: it decodes an image, passes a batch, or both where images are passed one by one."""

    lane: Lane
    item: Item | None
    has_turn: bool
    """Whether the image is one that was found to be large, whose turn it is."""
    batch: Sequence[tuple[Item, Images]]
    alone: bool
    charged: float
    """What it should take, which counts as used from its beginning."""


class Scheduler:
    """The queues of all models of this process and the threads that work on them, until `close`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lanes: list[Lane] = []
        """Those that have something waiting."""
        self._busy = 0
        self._decode_seconds = 0.0
        """What an image took lately, whatever model it was for: what a new queue goes by."""
        self._large_pixels = 0
        """Of the large image that is being decoded."""
        self._pixel_seconds = 0.0
        """What a pixel of such took lately; 0 where there was none."""
        self._clock = 0.0
        self._is_closed = False
        self._change = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"predict-{number}", daemon=True)
            for number in range(limits.threads)
        ]
        for thread in self._threads:
            thread.start()

    def lane(self, loaded: Loaded) -> Lane:
        """A queue for `loaded`."""
        return Lane(loaded, Waiting(self._limits.threads), self._decode_seconds, loaded.pace.seconds)

    def submit(self, lane: Lane, ticket: Ticket) -> None:
        """Queue all images of `ticket`. Raises `Overloaded` where the queue is full or there is no time left."""
        count = len(ticket.images)
        with self._change:
            if self._is_closed:
                raise errors.Overloaded("the service is stopping; send this to another one")
            self._admit(lane, ticket, count)
            if lane not in self._lanes:
                lane.used = max(lane.used, self._clock)
                self._lanes.append(lane)
            lane.encoded.add(ticket)
            self._change.notify(count)

    def withdraw(self, lane: Lane, ticket: Ticket) -> None:
        """Take out what nobody waits for any more, so that it stands in nobody's way."""
        with self._change:
            lane.withdraw(ticket, time.monotonic())
            self._change.notify()

    def check(self, lane: Lane, timeout_seconds: float) -> None:
        """Raise `Overloaded` where an image that came now could not be answered in time."""
        with self._change:
            self._refuse_late(self._expected_wait(lane), 0.0, timeout_seconds)

    def queued(self) -> int:
        """Images that wait, of all models."""
        with self._change:
            return sum(lane.waiting for lane in self._lanes)

    def close(self) -> None:
        """Finish what was taken in, and end."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _admit(self, lane: Lane, ticket: Ticket, count: int) -> None:
        wait = self._expected_wait(lane, count)
        admission.refuse_full(lane, count, most=self._limits.max_queued, threads=self._limits.threads)
        # Whoever finds nobody waiting, and would keep nobody waiting, is let in, whatever the estimate says.
        if wait > 0 or count > self._limits.threads:
            is_believed = wait > 0 or time.monotonic() - lane.timed < _BELIEVED_SECONDS
            work = admission.work_seconds(lane, count, threads=self._limits.threads, is_believed=is_believed)
            self._refuse_late(wait, work, ticket.deadline - ticket.arrived, count=count)

    def _refuse_late(self, wait: float, work: float, timeout_seconds: float, *, count: int = 1) -> None:
        admission.refuse_late(wait, work, left=min(timeout_seconds, self._limits.drain_seconds), count=count)

    def _expected_wait(self, lane: Lane, count: int = 1) -> float:
        now, threads = time.monotonic(), self._limits.threads
        return admission.expected_wait(lane, self._lanes, now, threads=threads, count=count)

    def _expected_turn(self, lane: Lane) -> float:
        """How long a large image would wait that came to `lane` now."""
        others = [other.large_pixels for other in self._lanes if other is not lane and other.large]
        return self._seconds_of(self._large_pixels) + self._seconds_of(admission.shared(lane.large_pixels, others))

    def _seconds_of(self, large_pixels: float) -> float:
        return large_pixels * (self._pixel_seconds or _PIXEL_SECONDS)

    def _work(self) -> None:
        yield_to_the_event_loop()
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """One step, waited for; whether there was one. Whoever waits for the next is not to know the last one's lane:
        its classifier would stay in memory."""
        step = self._take()
        if step is None:
            return False
        started = time.monotonic()
        try:
            self._carry_out(step)
        except Exception as error:  # the thread must live on, whatever happens
            _end(step, _told_of_step(error))
        finally:
            with self._change:
                self._busy -= 1
                # One photo may take a hundred times as long as the next.
                step.lane.used += time.monotonic() - started - step.charged
        return True

    def _take(self) -> _Step | None:
        """The next step, waited for; None at the end."""
        with self._change:
            while True:
                step, wait_seconds = self._next(time.monotonic())
                if step is not None:
                    self._busy += 1
                    return step
                if self._is_closed and not self._lanes:
                    self._change.notify_all()
                    return None
                self._change.wait(wait_seconds)

    def _next(self, now: float) -> tuple[_Step | None, float | None]:
        """A step of the model that has had least, or else how long until there may be one."""
        soonest: float | None = None
        for lane in sorted(self._lanes, key=lambda lane: lane.used):
            step, wait_seconds = self._next_of(lane, now)
            if lane.is_idle:
                self._lanes.remove(lane)
            if step is not None:
                self._clock = max(self._clock, lane.used)
                lane.used += step.charged
                return step, None
            if wait_seconds is not None:
                soonest = wait_seconds if soonest is None else min(soonest, wait_seconds)
        return None, soonest

    def _next_of(self, lane: Lane, now: float) -> tuple[_Step | None, float | None]:
        wait_seconds: float | None = None
        if lane.is_broken:
            lane.end(faults.failed(f"a pass in {lane.loaded.form.name}"))
        if lane.ready and lane.passing < lane.loaded.passes_at_once:
            count = lane.together
            if lane.waits_for_others:
                wait_seconds = max(0.0, lane.ready_since + self._limits.batch_wait_seconds - now)
            # Whoever is being decoded will be there in a moment; if nobody is, there is nobody to wait for.
            is_all = not lane.encoded and not lane.decoding
            if len(lane.ready) >= count or is_all or wait_seconds == 0:
                batch = lane.next_batch(now, count)
                lane.ready_since = now
                if batch:
                    lane.passing += 1
                    charged = lane.pass_seconds * len(batch)
                    # Where one pass is made at a time, one alone is as any other, and says what others take.
                    alone = lane.loaded.passes_at_once > 1 and len(batch) == 1 and self._is_alone(lane)
                    return _Step(lane, None, False, batch, alone, charged), None
                wait_seconds = None
        if lane.has_enough_ready:  # whoever ends a pass goes on with them
            return None, wait_seconds
        large = None if self._large_pixels else lane.next_large(now)
        if large is not None:
            item, self._large_pixels = large
            return self._step_of(lane, item, has_turn=True), None
        was_empty = not lane.encoded
        small = lane.encoded.take(now)
        if small is not None:
            return self._step_of(lane, small, has_turn=False), None
        # If nobody waits any more for those that were left, there may be nothing for the decoded ones to wait for.
        return (None, wait_seconds) if was_empty else self._next_of(lane, now)

    def _step_of(self, lane: Lane, item: Item, *, has_turn: bool) -> _Step:
        alone = self._is_alone(lane)
        lane.decoding += 1
        charged = lane.decode_seconds + (0.0 if lane.makes_batches else lane.pass_seconds)
        return _Step(lane, item, has_turn, (), alone, charged)

    def _is_alone(self, lane: Lane) -> bool:
        """Whether nobody else is at work, and nothing else waits, but what was just taken from `lane`."""
        return self._busy == 0 and len(self._lanes) == 1 and lane.waiting == 0

    def _carry_out(self, step: _Step) -> None:
        lane = step.lane
        if step.item is None:
            try:
                self._pass(lane, step.batch, alone=step.alone)
            finally:
                with self._change:
                    lane.passing -= 1
                    self._change.notify()
            return
        image: Images | None = None
        try:
            image = self._decoded(lane, step.item, has_turn=step.has_turn)
            if image is not None and not lane.makes_batches and step.item.is_wanted(time.monotonic()):
                self._pass(lane, [(step.item, image)], alone=step.alone)
        finally:
            with self._change:
                lane.decoding -= 1
                if image is not None and lane.makes_batches:
                    self._stand_ready(lane, step.item, image)

    def _stand_ready(self, lane: Lane, item: Item, image: Images) -> None:
        if not item.is_wanted(time.monotonic()):
            return  # it was withdrawn while it was decoded
        if not lane.ready:
            lane.ready_since = time.monotonic()
        lane.ready.append((item, image))
        if lane not in self._lanes:
            self._lanes.append(lane)
        self._change.notify()

    def _decoded(self, lane: Lane, item: Item, *, has_turn: bool) -> Images | None:
        """The pixels of an image; None for one that is none, which is told, and for a large one that has to wait for
        its turn. Raises `Overloaded`."""
        ticket, started = item.ticket, time.monotonic()
        try:
            opened = lane.loaded.opened(item.image, max_pixels=self._limits.max_image_pixels)
            if opened.large_pixels and not has_turn:
                has_turn = self._takes_turn(lane, item, opened.large_pixels)
                if not has_turn:
                    return None
            ticket.waited_seconds = max(ticket.waited_seconds, started - ticket.arrived)
            pixels = opened.pixels()
        except errors.BadImage as error:
            ticket.end(error.of(item.place, count=len(ticket.images)))
            return None
        finally:
            if has_turn:
                self._end_turn()
        seconds = time.monotonic() - started
        ticket.decode_seconds += seconds
        ticket.decoded += 1
        self._learn(lane, ticket, opened.large_pixels, seconds)
        return pixels

    def _takes_turn(self, lane: Lane, item: Item, pixels: int) -> bool:
        """Whether a large image is to be decoded now; else it waits apart. Raises `Overloaded` where it could not be
        decoded in time."""
        with self._change:
            if not item.is_wanted(time.monotonic()):
                return False  # it was withdrawn while it was opened
            if not self._large_pixels and not any(other.large for other in self._lanes):
                self._large_pixels = pixels
                return True
            left = item.ticket.deadline - time.monotonic()
            self._refuse_late(self._expected_turn(lane), self._seconds_of(pixels), left)
            lane.large.append((item, pixels))
            return False

    def _end_turn(self) -> None:
        with self._change:
            self._large_pixels = 0
            self._change.notify()

    def _learn(self, lane: Lane, ticket: Ticket, large_pixels: int, seconds: float) -> None:
        """What it took to decode an image."""
        if large_pixels:
            self._pixel_seconds = smoothed(self._pixel_seconds, seconds / large_pixels)
        elif lane.learn_decoding(ticket, seconds):
            self._decode_seconds = smoothed(self._decode_seconds, seconds)

    def _pass(self, lane: Lane, batch: Sequence[tuple[Item, Images]], *, alone: bool) -> None:
        started = time.monotonic()
        answers = _answers(lane, batch, alone=alone)
        if answers is None:
            self._pass_apart(lane, batch)
            return
        each = (time.monotonic() - started) / len(batch)
        if not alone:
            lane.learn(each, are_several=len(batch) > 1)
        elif lane.loaded.pace.lone is None:  # or it may be on all threads, where it takes a part of what one needs
            lane.loaded.pace.took(each)
        for (item, _), answer in zip(batch, answers, strict=True):
            with self._change:
                item.ticket.pass_seconds += each
                is_last = item.ticket.answer(item.place, answer)
            if is_last:
                item.ticket.end()

    def _pass_apart(self, lane: Lane, batch: Sequence[tuple[Item, Images]]) -> None:
        """One by one, for which there may be memory where there was too little for all: each has its own answer."""
        for item, image in batch:
            if item.is_wanted(time.monotonic()):
                try:
                    self._pass(lane, [(item, image)], alone=False)
                except errors.Overloaded as error:
                    item.ticket.end(error)


def _answers(lane: Lane, batch: Sequence[tuple[Item, Images]], *, alone: bool) -> Sequence[Answer] | None:
    """What is said of the images; None where there was too little memory for several of them. Raises `Unavailable`."""
    try:
        return lane.loaded.answers([image for _, image in batch], alone=alone)
    except Exception as error:  # runtimes raise what they like
        if len(batch) == 1 or not memory.is_of_memory(error):
            raise _told(error, lane) from error
        logger.warning("too little memory to pass %d images together in %s", len(batch), lane.loaded.form.name)
    return None  # and not from where the error is handled, which keeps what the pass had in memory


def _end(step: _Step, error: Exception) -> None:
    for item in (*([step.item] if step.item else []), *(item for item, _ in step.batch)):
        item.ticket.end(error)


def _told_of_step(error: Exception) -> Exception:
    """What is said of a step that failed."""
    if isinstance(error, errors.GraftError):
        return error
    if memory.is_of_memory(error):
        logger.warning("too little memory to decode an image: %s", error)
        return faults.no_memory()
    logger.error("a prediction failed unexpectedly", exc_info=error)
    return error


def _told(error: Exception, lane: Lane) -> errors.Unavailable:
    """What is said of a pass that failed, after which only a network that had too little memory goes on."""
    form = lane.loaded.form.name
    if memory.is_of_memory(error):
        logger.warning("too little memory for a pass in %s: %s", form, error)
        return faults.no_memory()
    logger.error("a pass in %s failed", form, exc_info=error)
    lane.is_broken = True
    return faults.failed(f"a pass in {form}")


def yield_to_the_event_loop() -> None:
    """Let this thread be second where there are more threads than cores: whoever cannot be served is to be told soon,
    and a thread that waits for its core meanwhile would have waited in the queue."""
    with suppress(AttributeError, OSError):  # not everywhere have threads a priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
