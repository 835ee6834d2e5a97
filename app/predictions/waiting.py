"""The images that wait to be decoded for one model, and whose turn is next."""

import heapq
import itertools
from collections.abc import Callable, Iterator

from app.predictions.tickets import Item, Ticket

AT_ONCE_SECONDS = 0.1
"""Of a thread's time, which a request has as if it were a single image. What it takes beyond that, others who came
meanwhile have first: of photos from a phone, or of images of many pixels, a few may take seconds."""


class Waiting:
    """The requests whose images wait, for `threads` that decode them.

    First come, first served; but a request that has taken long already goes on as if each of its further images had
    come when all threads together could have done those before it. So it takes no longer where nobody else asks, no
    request waits for all of another's slow images, and none waits for ever, whoever comes later.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._due: list[tuple[float, int, Ticket]] = []
        """A heap of requests, each with when its next image is due, or was when that was looked at last."""
        self._numbers = itertools.count()
        self._paced: set[Ticket] = set()
        """Those that have had what they have at once."""
        self._count = 0

    def __len__(self) -> int:
        """Images that wait."""
        return self._count

    def add(self, ticket: Ticket) -> None:
        heapq.heappush(self._due, (ticket.arrived, next(self._numbers), ticket))
        self._count += ticket.waiting

    def first_due(self) -> float:
        """When the next image is due; infinite where none waits."""
        return self._due[0][0] if self._due else float("inf")

    def due(self, ticket: Ticket) -> float:
        """When the next image of a request is due, by the clock of `time.monotonic`."""
        return ticket.arrived + max(0.0, ticket.spent_seconds - AT_ONCE_SECONDS) / self._threads

    def take(self, now: float) -> Item | None:
        """Take the first image that is still wanted."""
        while self._due:
            due, number, ticket = self._due[0]
            if not ticket.is_wanted(now):
                self._drop_first()
                continue
            if self.due(ticket) > due:
                self._paced.add(ticket)
                heapq.heapreplace(self._due, (self.due(ticket), number, ticket))
                continue
            item = ticket.take()
            self._count -= 1
            if not ticket.waiting:
                self._drop_first()
            return item
        return None

    def ahead(self, usual_seconds: float, now: float) -> tuple[float, float]:
        """How many images would come before one that came now, and the seconds of one thread that they take, where
        those of most requests take `usual_seconds` each."""
        return self._summed(usual_seconds, lambda ticket: self._before(ticket, usual_seconds, now))

    def seconds(self, usual_seconds: float) -> float:
        """What all take of one thread."""
        return self._summed(usual_seconds, lambda ticket: ticket.waiting)[1]

    def withdraw(self, ticket: Ticket) -> None:
        """Take out the images of a request."""
        kept = [entry for entry in self._due if entry[2] is not ticket]
        if len(kept) < len(self._due):
            heapq.heapify(kept)
            self._due = kept
            self._count -= ticket.waiting
            self._paced.discard(ticket)

    def clear(self) -> Iterator[Ticket]:
        """Take all out."""
        taken, self._due, self._count = self._due, [], 0
        self._paced.clear()
        return (ticket for _, _, ticket in taken)

    def _drop_first(self) -> None:
        _, _, ticket = heapq.heappop(self._due)
        self._count -= ticket.waiting
        self._paced.discard(ticket)

    def _summed(self, usual_seconds: float, counted: Callable[[Ticket], float]) -> tuple[float, float]:
        """So many images of each request that is paced, and all others', with their seconds."""
        others = self._count - sum(ticket.waiting for ticket in self._paced)
        paced = [(counted(ticket), _each(ticket, usual_seconds)) for ticket in self._paced]
        seconds = others * usual_seconds + sum(count * each for count, each in paced)
        return others + sum(count for count, _ in paced), seconds

    def _before(self, ticket: Ticket, usual_seconds: float, now: float) -> float:
        """How many images of a request that is paced are due before `now`."""
        late = (now - self.due(ticket)) * self._threads
        return 0.0 if late < 0 else min(ticket.waiting, 1 + late / max(_each(ticket, usual_seconds), 1e-9))


def _each(ticket: Ticket, usual_seconds: float) -> float:
    """What an image of a request takes, by those that it has had."""
    return ticket.spent_seconds / ticket.taken if ticket.taken else usual_seconds
