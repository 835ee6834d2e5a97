"""The queue of one model: the images of its requests, and what is known of how long they take."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from app import errors
from app.predictions.loaded import Loaded
from app.predictions.tickets import Item, Ticket
from app.predictions.waiting import AT_ONCE_SECONDS, Waiting
from app.runtimes.form import Images

_SMOOTHING = 0.05
"""Weight of the newest of what images took: by the last twenty or so, one that takes long moves no estimate by much."""
_READY_BATCHES = 2
"""So many batches for each pass that is made at once may be decoded and wait."""


@dataclass(eq=False)
class Lane:
    """The queue of one model."""

    loaded: Loaded
    encoded: Waiting
    decode_seconds: float = 0.0
    """What an image took lately to be decoded, on one thread; large ones aside, and those of requests that have taken
    long."""
    pass_seconds: float = 0.0
    """And to be passed through the network."""
    several_seconds: float = 0.0
    """What an image of requests with several took to be decoded; 0 where there were none."""
    together_seconds: float = 0.0
    """And each of several that were passed together; 0 where none were."""
    timed: float = 0.0
    """When an image was last, by the clock of `time.monotonic`."""
    large: deque[tuple[Item, int]] = field(default_factory=deque)
    """Those that were found to be large, each with its pixels: they are decoded one after the other."""
    ready: deque[tuple[Item, Images]] = field(default_factory=deque)
    """Decoded, and waiting for others to make up a batch."""
    ready_since: float = 0.0
    decoding: int = 0
    passing: int = 0
    """How many threads do that."""
    is_broken: bool = False
    """Whether its network failed in a pass, and is not to be asked again."""
    used: float = 0.0
    """How much of the threads it has had, by a clock that stands still while nobody asks for it."""

    @property
    def waiting(self) -> int:
        return len(self.encoded) + len(self.large) + len(self.ready)

    @property
    def small_seconds(self) -> float:
        """What those that wait take of one thread, those aside that were found to be large."""
        return self.encoded.seconds(self.seconds) + len(self.ready) * self.seconds

    def ahead(self, count: int, now: float) -> tuple[float, float]:
        """What would be done before the end of a request of so many images that came now, its own work aside: seconds
        of one thread, and seconds of one pass after the other. One that takes long shares the threads with all that
        waits."""
        if count * self.seconds_of(count) > AT_ONCE_SECONDS:
            images, seconds = float(len(self.encoded)), self.encoded.seconds(self.seconds)
        else:
            images, seconds = self.encoded.ahead(self.seconds, now)
        passes = (images + len(self.ready)) * (self.together_seconds or self.pass_seconds)
        return seconds + len(self.ready) * self.seconds, passes

    @property
    def large_pixels(self) -> int:
        """Of those that wait and were found to be large."""
        return sum(pixels for item, pixels in self.large if not item.ticket.is_gone)

    @property
    def seconds(self) -> float:
        """What an image takes of a thread."""
        return self.decode_seconds + self.pass_seconds

    def seconds_of(self, count: int) -> float:
        """What an image of a request of so many takes of a thread."""
        decode = self.several_seconds if count > 1 and self.several_seconds else self.decode_seconds
        return decode + self.pass_seconds

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.decoding)

    @property
    def makes_batches(self) -> bool:
        return self.loaded.batch > 1

    def passes_at_once(self, threads: int) -> int:
        """How many of so many threads may pass images of this lane at the same time. Where each passes what it has
        decoded, all of them: if they wait for each other then, a pass is seen to take so much longer."""
        return min(threads, self.loaded.passes_at_once) if self.makes_batches else threads

    @property
    def together(self) -> int:
        """How many images are to be passed together now: where several passes are made side by side, as many as are
        best only if so many are there, or will be in a moment, that no thread is left without, and else each by
        itself."""
        batch, passes = self.loaded.batch, self.loaded.passes_at_once
        is_deep = passes == 1 or self.encoded.quick + len(self.ready) >= batch * passes
        return batch if is_deep else 1

    @property
    def has_enough_ready(self) -> bool:
        """Whether so many are decoded that no more should be: they take memory, and their time may run out."""
        return len(self.ready) >= _READY_BATCHES * self.loaded.batch * self.loaded.passes_at_once

    @property
    def waits_for_others(self) -> bool:
        """Whether what is decoded waits a moment for others to make up a batch. Side by side nothing needs to: either
        so many wait that the batch fills while others are decoded, or there is none."""
        return self.loaded.passes_at_once == 1

    def learn(self, seconds: float, *, are_several: bool) -> None:
        """What an image took in a pass, maybe of several together."""
        # What it was foretold to take was measured while it was loaded, maybe on a busy machine.
        self.pass_seconds = smoothed(self.pass_seconds, seconds) if self.timed else seconds
        if are_several:
            self.together_seconds = smoothed(self.together_seconds, seconds)
        else:
            self.loaded.pace.took(seconds)
        self.timed = time.monotonic()

    def learn_decoding(self, ticket: Ticket, seconds: float) -> bool:
        """What an image of a request took to be decoded; whether that says something of others' as well. What takes
        long is foretold of those alone that have several images, and photos one by one are let in as before."""
        if len(ticket.images) > 1:
            self.several_seconds = smoothed(self.several_seconds, seconds)
        is_telling = ticket.spent_seconds <= max(seconds, AT_ONCE_SECONDS)
        if is_telling:
            self.decode_seconds = smoothed(self.decode_seconds, seconds)
        return is_telling

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Take out the images of a request."""
        self.encoded.withdraw(ticket, now)
        self.large = deque(pair for pair in self.large if pair[0].ticket is not ticket)
        self.ready = deque(pair for pair in self.ready if pair[0].ticket is not ticket)

    def end(self, error: errors.GraftError) -> None:
        """Tell all that wait, and take them out."""
        for ticket in (*self.encoded.clear(), *(item.ticket for item, _ in (*self.large, *self.ready))):
            ticket.end(error.anew())
        for waiting in (self.large, self.ready):
            waiting.clear()

    def next_large(self, now: float) -> tuple[Item, int] | None:
        """Take the first of the large ones that is still wanted, unless others are due before it."""
        while self.large and self.encoded.is_before(self.large[0][0].ticket):
            item, pixels = self.large.popleft()
            if item.is_wanted(now):
                return item, pixels
        return None

    def next_batch(self, now: float, count: int) -> Sequence[tuple[Item, Images]]:
        """Take the first `count` decoded ones that are still wanted, or fewer."""
        batch: list[tuple[Item, Images]] = []
        while self.ready and len(batch) < count:
            item, image = self.ready.popleft()
            if item.is_wanted(now):
                batch.append((item, image))
        return batch


def smoothed(before: float, now: float) -> float:
    """What images take, by what it was `before` and what the newest took; by that alone where before it is 0."""
    return before + _SMOOTHING * (now - before) if before else now
