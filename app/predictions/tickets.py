"""What a request for predictions is to those who work on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app import errors
from app.predictions.loaded import Answer, Given


class Ticket:
    """One request: its images, and the answers to them as they come."""

    def __init__(
        self, images: Sequence[Given], *, deadline: float, now: float, done: Callable[["Ticket"], None]
    ) -> None:
        self.images = images
        self.deadline = deadline
        """On the clock of `time.monotonic`."""
        self.arrived = now
        self.answers: list[Answer | None] = [None] * len(images)
        self.error: Exception | None = None
        self.is_gone = False
        """Whether nobody waits for it any more."""
        self.waited_seconds = 0.0
        self.decode_seconds = 0.0
        self.pass_seconds = 0.0
        self.taken = 0
        """How many images were taken to be worked on, in their order."""
        self.decoded = 0
        self._left = len(images)
        self._done = done

    @property
    def waiting(self) -> int:
        """How many images were not taken yet."""
        return len(self.images) - self.taken

    @property
    def spent_seconds(self) -> float:
        """What its images have taken of the threads."""
        return self.decode_seconds + self.pass_seconds

    @property
    def each_seconds(self) -> float:
        """What each of those took that were decoded; more than 0 where there are any."""
        return max(self.spent_seconds / max(self.decoded, 1), 1e-9)

    @property
    def begun_seconds(self) -> float:
        """What its images have taken, with what those will that are worked on."""
        return self.spent_seconds + (self.taken - self.decoded) * self.each_seconds

    def is_wanted(self, now: float) -> bool:
        """Whether somebody still waits for it; not who has waited for too long, which is told."""
        if not self.is_gone and now > self.deadline:
            self.end(too_late())
        return not self.is_gone

    def take(self) -> "Item":
        """The next image."""
        self.taken += 1
        return Item(self, self.taken - 1)

    def answer(self, place: int, answer: Answer) -> bool:
        """Take in the answer to one image; whether it was the last."""
        self.answers[place] = answer
        self._left -= 1
        return self._left == 0

    def end(self, error: Exception | None = None) -> None:
        """Tell whoever waits, once."""
        if not self.is_gone:
            self.is_gone = True
            self.error = error
            self._done(self)


@dataclass(frozen=True)
class Item:
    """One image of a request."""

    ticket: Ticket
    place: int

    @property
    def image(self) -> Given:
        return self.ticket.images[self.place]

    def is_wanted(self, now: float) -> bool:
        """As that of its request."""
        return self.ticket.is_wanted(now)


def too_late() -> errors.Overloaded:
    """What a request is told whose time has run out."""
    return errors.Overloaded("the request waited for longer than it had time", code="deadline_exceeded")
