"""The images that wait to be decoded for one model, and whose turn is next."""

from collections import deque
from collections.abc import Iterator

from app.predictions.tickets import Item, Ticket

AT_ONCE_SECONDS = 0.1
"""Of a thread's time, which a request has as if it were a single image. What it takes beyond that, others who came
meanwhile have first: of photos from a phone, or of images of many pixels, a few may take seconds."""

QUICK_SECONDS = 0.01
"""In which an image is decoded of those that others may wait for, to be passed together with them."""


class Waiting:
    """The requests whose images wait, for `threads` that decode them.

    First come, first served; but requests that have taken long already stand in a row of their own, in which one is
    finished after the other, and go on as if each of their images had come when all threads together could have done
    the one before. So they take no longer where nobody else asks, nobody waits for all of their slow images, and they
    do not wait for ever, whoever comes later.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._usual: deque[Ticket] = deque()
        self._long: deque[Ticket] = deque()
        self._count = 0
        self._turn_began = 0.0
        """When the first of those that have taken long became the first."""
        self._begun_before = 0.0
        """What it had taken by then, with what the images would that were worked on."""

    def __len__(self) -> int:
        """Images that wait."""
        return self._count

    @property
    def quick(self) -> int:
        """Those of them that are decoded in a moment, as far as that is known."""
        slow = (ticket for ticket in self._long if ticket.decode_seconds > QUICK_SECONDS * ticket.decoded)
        return self._count - sum(ticket.waiting for ticket in slow)

    def add(self, ticket: Ticket) -> None:
        self._usual.append(ticket)
        self._count += ticket.waiting

    def take(self, now: float) -> Item | None:
        """Take the first image that is still wanted."""
        self._sort(now)
        row = self._long if self._is_turn_of_long() else self._usual
        if not row:
            return None
        item = row[0].take()
        self._count -= 1
        if not row[0].waiting:
            self._end_first(row, now)
        return item

    def is_before(self, ticket: Ticket) -> bool:
        """Whether an image of a request that does not wait here any more comes before all that do."""
        return self._is_before_usual(ticket.arrived + max(0.0, ticket.spent_seconds - AT_ONCE_SECONDS) / self._threads)

    def ahead(self, usual_seconds: float, now: float) -> tuple[float, float]:
        """How many images would come before one that came now, and the seconds of one thread that they take, where
        those of most requests take `usual_seconds` each."""
        usual = self._usual_images()
        if not self._long or self._due() > now:
            return usual, usual * usual_seconds
        each = self._long[0].each_seconds
        overdue = min(self._long[0].waiting, 1 + (now - self._due()) * self._threads / each)
        return usual + overdue, usual * usual_seconds + overdue * each

    def seconds(self, usual_seconds: float) -> float:
        """What all take of one thread."""
        return self._usual_images() * usual_seconds + sum(ticket.waiting * ticket.each_seconds for ticket in self._long)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Take out the images of a request."""
        for row in (self._usual, self._long):
            if ticket in row:
                self._count -= ticket.waiting
                if row[0] is ticket:
                    self._end_first(row, now)
                else:
                    row.remove(ticket)

    def clear(self) -> Iterator[Ticket]:
        """Take all out."""
        taken = [*self._usual, *self._long]
        self._usual.clear()
        self._long.clear()
        self._count = 0
        return iter(taken)

    def _usual_images(self) -> int:
        return self._count - sum(ticket.waiting for ticket in self._long)

    def _sort(self, now: float) -> None:
        """Let wanted ones be the first of both rows, each in its own."""
        while self._usual:
            ticket = self._usual[0]
            if not ticket.is_wanted(now):
                self._count -= ticket.waiting
                self._usual.popleft()
            elif ticket.spent_seconds > AT_ONCE_SECONDS:
                self._long.append(self._usual.popleft())
                if len(self._long) == 1:
                    self._begin_turn(now)
            else:
                break
        while self._long and not self._long[0].is_wanted(now):
            self._count -= self._long[0].waiting
            self._end_first(self._long, now)

    def _is_turn_of_long(self) -> bool:
        return bool(self._long) and self._is_before_usual(self._due())

    def _is_before_usual(self, due: float) -> bool:
        return not self._usual or due <= self._usual[0].arrived

    def _due(self) -> float:
        """When the next image of the first that has taken long is due."""
        return self._turn_began + (self._long[0].begun_seconds - self._begun_before) / self._threads

    def _begin_turn(self, now: float) -> None:
        self._turn_began, self._begun_before = now, self._long[0].begun_seconds

    def _end_first(self, row: deque[Ticket], now: float) -> None:
        row.popleft()
        if row is self._long and row:
            self._begin_turn(now)
