"""What a request for predictions is to those who work on it."""

from collections.abc import Callable, Sequence

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
        self._left = len(images)
        self._done = done

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


def too_late() -> errors.Overloaded:
    """What a request is told whose time has run out."""
    return errors.Overloaded("the request waited for longer than it had time", code="deadline_exceeded")
