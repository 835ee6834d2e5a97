"""The classifiers in memory, within a budget: loaded when they are asked for, in the order of asking as far as there is
room."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from app import errors
from app.models.service import Served
from app.predictions import faults
from app.predictions.lanes import Lane
from app.predictions.loaded import Loaded
from app.predictions.loaders import Loaders, Work
from app.predictions.needs import Need
from app.predictions.room import Room
from app.predictions.scheduler import yield_to_the_event_loop
from app.predictions.standing import Standing, named
from app.runtimes import memory

logger = logging.getLogger(__name__)

_LOADING_AT_ONCE = 2
_CLOSE_SECONDS = 5.0
"""How long what is being loaded may hold up the end."""
_PATIENCE_SECONDS = 2.0
"""How long a classifier waits for others that are not being asked; then some of the others leave for it."""
_ROOM_SECONDS = 30.0
"""How long it waits at all."""
_CONSIDERED = 8
"""For the first so many of those that wait others may go: requests must not wait while it is found out who."""
_MOST_FAILURES = 6
"""After which a version is left alone no longer than before."""


@dataclass(frozen=True)
class Opener:
    """How a model version gets into memory."""

    need: Callable[[Served], Need]
    """The memory that it will take in the first of its forms, about. Raises `Unavailable`."""
    open: Callable[[Served], Loaded]
    """Raises `Unavailable`."""
    lane: Callable[[Loaded], Lane]
    used_bytes: Callable[[], int | None]
    """What the process holds of the memory that classifiers take; None where that cannot be told."""
    fell_back: Callable[[str], None]
    """Is told the name of a form that failed in a pass, when the next one is opened in its place."""


class Shelf:
    """For any thread."""

    def __init__(
        self,
        opener: Opener,
        *,
        max_bytes: int,
        retry_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`retry_seconds`: for how long a version that could not be loaded is left alone, and twice as long each time
        that it cannot be again, up to 32 times as long; no longer than before where there was too little memory and
        nobody had left for it. By `clock`, in seconds since whenever."""
        self._opener = opener
        self._max_bytes = max_bytes
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._room = Room(max_bytes, opener.used_bytes)
        self._asked: deque[Standing] = deque()
        """Those of which it is not known yet what they need."""
        self._waiting: list[tuple[float, Standing]] = []
        """Those that there was no room for yet, the first first, each with since when."""
        self._giving_back = 0
        """How many threads give back free memory just now."""
        self._is_closed = False
        self._change = threading.Condition()
        self._loaders = Loaders(_LOADING_AT_ONCE, prepare=yield_to_the_event_loop, next_work=self._next_work)

    def want(self, version: Served, *, replacing: Served | None = None) -> Standing:
        """The version's place on the shelf; where it has none, it gets one and is loaded. Whoever wants it is a user,
        for whom it stays until `release`. `replacing`: which one answers in its place until it is loaded."""
        with self._change:
            if self._is_closed:
                raise _stopping()
            standing = self._room.standing.get(version)
            if standing is None:
                standing = self._begin(Standing(version, version))
            elif self._is_worth_another_try(standing):
                again = Standing(version, version, replaces=standing.replaces, failures=standing.failures)
                standing = self._begin(again)
            elif standing.is_broken:
                standing = self._follow(standing)
            if replacing is not None and replacing not in standing.replaces:
                standing.replaces |= {replacing}
                self._change.notify_all()
            self._room.standing.move_to_end(version)
            standing.users += 1
            # Others may go for it now if it has waited for long enough.
            if standing.users == 1 and self._waiting and not standing.settled.done():
                self._change.notify_all()
            return standing

    def release(self, standing: Standing) -> None:
        """The other end of `want`."""
        with self._change:
            standing.users -= 1
            # Not for each request, where nobody waits for that.
            is_to_go = self._room.is_overfull and standing.version not in self._room.pinned
            if not standing.users and (self._waiting or self._room.leaving or is_to_go):
                self._change.notify_all()

    @contextmanager
    def use(self, version: Served) -> Iterator[Standing]:
        """`want` it inside."""
        standing = self.want(version)
        try:
            yield standing
        finally:
            self.release(standing)

    def has(self, version: Served) -> bool:
        """Whether it is loaded, and not about to go for another one."""
        standing = self._room.standing.get(version)
        return standing is not None and standing.is_loaded

    def lane(self, version: Served) -> Lane | None:
        """Its queue, if it is loaded and not about to go. Never waits."""
        standing = self._room.standing.get(version)
        return standing.lane() if standing is not None and standing.is_loaded else None

    def was_tried(self, version: Served) -> bool:
        """Whether it is loaded, or could not be the last time. Of one that is not pinned, the latter is not known for
        long."""
        standing = self._room.standing.get(version)
        return standing is not None and standing.settled.done()

    def pin(self, versions: frozenset[Served], *, moves: Iterable[tuple[Served, Served]] = ()) -> None:
        """Keep these, each in the form that is named, and only these, whatever else is asked for. `moves`: who answers
        in the place of which one, that is to be loaded. What could not be loaded may be once this has changed."""
        with self._change:  # as one step, between whose parts nobody has to go
            self._room.pinned = versions
            self._room.let_stay(versions)
            for standing in self._room.standing.values():
                standing.failures = 0
            for before, version in moves:
                self.release(self.want(version, replacing=before))
            self._change.notify_all()

    def loaded(self) -> list[Loaded]:
        """All that is there."""
        with self._change:
            there = (*self._room.standing.values(), *self._room.leaving)
            return [standing.lane().loaded for standing in there if standing.is_loaded]

    @property
    def used_bytes(self) -> int:
        """Of the budget."""
        return self._room.used_bytes

    def close(self) -> None:
        """Begin nothing more, and wait a little for what is being loaded."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        self._loaders.join(seconds=_CLOSE_SECONDS)
        for standing in [*self._room.standing.values()]:
            if not standing.settled.done():
                standing.fail(_stopping(), self._clock())

    def _begin(self, standing: Standing) -> Standing:
        """Put it on the shelf, and have it loaded."""
        self._forget_failed()
        self._room.standing[standing.version] = standing
        self._asked.append(standing)
        self._change.notify_all()
        return standing

    def _follow(self, broken: Standing) -> Standing:
        """Put in the place of one whose network has failed the version in its next form; where it has no more, what
        says so until it is worth another try, in all of them."""
        self._room.free(broken)
        version, form = broken.version, broken.lane().loaded.form.name
        following = Standing(version, _after(form, broken.wanted))
        if following.wanted.serving.forms:
            logger.warning("%s has failed in %s; the next form is tried", named(version), form)
            self._opener.fell_back(form)
            return self._begin(following)
        following.fail(faults.failed(f"a pass in {form}"), self._clock())
        self._room.standing[version] = following
        self._change.notify_all()
        return following

    def _next_work(self) -> Work | None:
        """What a loader can do, waited for; None at the end."""
        with self._change:
            while not self._is_closed:
                work = self._possible_work()
                if work is not None:
                    return work
                self._change.wait(self._next_change_seconds())
        return None

    def _possible_work(self) -> Work | None:
        if self._room.remove_one():
            return self._begin_to_give_back()
        for place, (since, standing) in enumerate(self._waiting):
            work = self._admit(standing, since, is_considered=place < _CONSIDERED)
            if work is not None:
                return work
        return partial(self._look_up, self._asked.popleft()) if self._asked else None

    def _admit(self, standing: Standing, since: float, *, is_considered: bool) -> Work | None:
        """What is to be done for one that has waited `since`; None where it has to wait on. Where it `is_considered`,
        others may go for it."""
        now = self._clock()
        is_wanted = standing.users or standing.replaces or standing.version in self._room.pinned
        try:
            if self._room.reserve(standing):
                self._waiting.remove((since, standing))
                return partial(self._load, standing)
            if self._giving_back:
                return None  # there may be room after that
            is_late = bool(is_wanted) and now >= since + _PATIENCE_SECONDS
            if is_considered and self._room.make(standing, is_late=is_late):
                return self._begin_to_give_back()
            if now >= since + _ROOM_SECONDS:
                raise errors.Overloaded("the models that are being asked hold all memory that there is for them")
        except Exception as error:  # told to whoever waits for it
            self._waiting.remove((since, standing))
            return partial(self._fail, standing, error)
        return None

    def _begin_to_give_back(self) -> Work:
        """For outside of the lock, or the event loop would have to wait. Until that is done nobody goes for others."""
        self._giving_back += 1
        return self._give_back

    def _give_back(self) -> None:
        try:
            memory.give_back()
        finally:
            with self._change:
                self._giving_back -= 1
                self._change.notify_all()

    def _next_change_seconds(self) -> float | None:
        """When some of those that wait will have waited for as long as they do, if nothing else happens before."""
        now = self._clock()
        ends = (since + seconds for since, _ in self._waiting for seconds in (_PATIENCE_SECONDS, _ROOM_SECONDS))
        return min((end - now for end in ends if end > now), default=None)

    def _look_up(self, standing: Standing) -> None:
        try:
            need = self._opener.need(standing.wanted)
        except BaseException as error:  # told to whoever waits for it
            standing.failures += not memory.is_of_memory(error)
            self._fail(standing, error)
            return
        if need.kept > self._max_bytes:
            logger.warning("%s takes %d bytes, more than all models may together", named(standing.version), need.kept)
        with self._change:
            standing.need = need
            self._waiting.append((self._clock(), standing))
            self._change.notify_all()

    def _load(self, standing: Standing) -> None:
        try:
            try:
                loaded = self._opener.open(standing.wanted)
                standing.need = self._need_of(standing, loaded)
                lane = self._opener.lane(loaded)
            finally:
                memory.give_back()
                with self._change:
                    self._room.settle(standing)
                    self._change.notify_all()
            standing.failures = 0
            standing.succeed(lane)
            with self._change:
                standing.replaces = frozenset()
                self._change.notify_all()  # from now on it may go for others
        except BaseException as error:  # told to whoever waits for it
            if standing.has_sent_away or not memory.is_of_memory(error):  # which passes
                standing.failures += 1
            self._fail(standing, error)

    def _fail(self, standing: Standing, error: BaseException) -> None:
        with self._change:
            self._room.free(standing)
            self._room.give_up(standing)
            self._change.notify_all()
        standing.fail(_told(error, standing.version), self._clock())

    def _need_of(self, standing: Standing, loaded: Loaded) -> Need | None:
        """That of the form that was opened, where it is not the first, for which it was foretold."""
        form, wanted = loaded.form.name, standing.wanted
        return standing.need if form == wanted.serving.forms[0] else self._opener.need(_in_forms(wanted, (form,)))

    def _is_worth_another_try(self, standing: Standing) -> bool:
        """Whether it failed, and a pause ago: a request each millisecond is not to read the disk each millisecond, and
        what cannot be loaded is not to make others go again and again."""
        return self._has_failed_before(standing, self._pause_seconds(max(standing.failures, 1)))

    def _forget_failed(self) -> None:
        """What failed so long ago that it would be tried again by now however often that was, need not be known. Of
        those that are kept it is to be known that they were tried."""
        for standing in list(self._room.standing.values()):
            is_long_ago = self._has_failed_before(standing, 2 * self._pause_seconds(_MOST_FAILURES))
            if is_long_ago and standing.version not in self._room.pinned:
                del self._room.standing[standing.version]

    def _pause_seconds(self, failures: int) -> float:
        return self._retry_seconds * (1 << min(failures, _MOST_FAILURES) - 1)

    def _has_failed_before(self, standing: Standing, seconds: float) -> bool:
        """Whether it failed, longer ago than that."""
        return standing.failed_at is not None and self._clock() - standing.failed_at > seconds


def _after(form: str, wanted: Served) -> Served:
    """The version with those of its forms that come after one; with none after the plain one where that was not among
    them, for then it was the last."""
    forms = wanted.serving.forms
    return _in_forms(wanted, forms[forms.index(form) + 1 :] if form in forms else ())


def _in_forms(wanted: Served, forms: tuple[str, ...]) -> Served:
    return replace(wanted, serving=replace(wanted.serving, forms=forms))


def _stopping() -> errors.Overloaded:
    return errors.Overloaded("the service is stopping; send this to another one")


def _told(error: BaseException, version: Served) -> errors.GraftError:
    """What is said of a version that could not be loaded."""
    if isinstance(error, errors.GraftError):
        return error
    if memory.is_of_memory(error):
        logger.warning("too little memory to load %s: %s", named(version), error)
        return faults.no_memory()
    logger.error("%s could not be loaded", named(version), exc_info=error)
    return errors.Unavailable(f"{named(version)} could not be loaded: {error}", code="runtime_unavailable")
