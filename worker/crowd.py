"""Whether others wait for a worker whose job may give way to them."""

import time
from collections.abc import Sequence

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.db import Database
from app.jobs import leases
from app.jobs.leases import Claim

AWAY = (OperationalError, InterfaceError, PoolTimeout)
"""How it looks when the database does not answer."""


class Crowd:
    """The jobs of the `queues` of a worker that wait while it works on `claim`; looked for every so many `seconds`, and
    only where that gives way."""

    def __init__(self, database: Database, claim: Claim, queues: Sequence[str], *, seconds: float) -> None:
        self.database = database
        self._claim = claim
        self._queues = queues if claim.kind in leases.GIVING_WAY else ()
        self._seconds = seconds
        self._seen: set[str] = set()
        self._looked = time.monotonic()
        self.was_waiting = False

    def is_waiting(self) -> bool:
        """Whether one was there at two looks: a worker that is free and has heard of it has taken it by then."""
        if self._queues and not self.was_waiting and time.monotonic() - self._looked > self._seconds:
            before, self._seen = self._seen, self._look()
            self._looked = time.monotonic()
            self.was_waiting = not before.isdisjoint(self._seen)
        return self.was_waiting

    def _look(self) -> set[str]:
        try:
            with self.database.read() as session:
                now = self.database.now(session)
                waiting = leases.pressing(session, self._queues, now=now)
                # Each of the jobs that give way and came later makes room for one of them.
                return set(waiting[leases.giving_way_after(session, self._claim, self._queues) :])
        except AWAY:
            return set()
