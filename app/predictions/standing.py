"""A model version's place in memory, from when it is asked for until it goes."""

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from app import errors
from app.models.service import Served
from app.predictions.lanes import Lane
from app.predictions.needs import Need


@dataclass(eq=False)
class Standing:
    """A model version that is loaded, or on its way."""

    version: Served
    wanted: Served
    """The same, with those of its forms that are tried: all until one of them has failed in a pass."""
    settled: Future[bool] = field(default_factory=Future)
    """Done once it is loaded or could not be, which it tells; never an error."""
    need: Need | None = None
    """Known before there is room for it."""
    memory_bytes: int = 0
    users: int = 0
    failed_at: float | None = None
    failures: int = 0
    """How often in a row it could not be loaded, since the registry changed; not counted are those times when there was
    too little memory and nobody had left for it."""
    replaces: frozenset[Served] = frozenset()
    """Those that answer in its place until it is loaded."""
    sends_away: frozenset[Served] = frozenset()
    """Those that leave so that it has room."""
    has_sent_away: bool = False
    """Whether any has left, or was to leave, so that it has room."""
    has_had_free_memory: bool = False
    """Whether free memory was given back for it alone, with nobody gone."""
    _lane: Lane | None = None
    _failure: errors.GraftError | None = None

    @property
    def is_loaded(self) -> bool:
        return self._lane is not None and not self._lane.is_broken

    @property
    def is_broken(self) -> bool:
        return self._lane is not None and self._lane.is_broken

    @property
    def lasting_bytes(self) -> int:
        """Of its memory, what it keeps once it is loaded."""
        return min(self.memory_bytes, self.need.kept) if self.need is not None else 0

    def lane(self, timeout_seconds: float | None = None) -> Lane:
        """Its queue, once it is settled. Raises `Unavailable`, for each caller anew."""
        self.settled.result(timeout_seconds)
        if self._failure is not None:
            raise self._failure.anew()
        assert self._lane is not None
        return self._lane

    def succeed(self, lane: Lane) -> None:
        self._lane = lane
        self._settle()

    def fail(self, failure: errors.GraftError, now: float) -> None:
        """`failure` is what its callers are told from `now` on, by the clock of the shelf. What its frames and causes
        hold, a network among it, is not kept."""
        self._failure, self.failed_at = failure.anew(), now
        self._settle()

    def _settle(self) -> None:
        with suppress(InvalidStateError):  # the shelf was closed while it was loaded
            self.settled.set_result(self._lane is not None)


def named(version: Served) -> str:
    """As people say it."""
    return f"{version.model_name}@{version.number}"
