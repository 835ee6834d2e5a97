"""The classifiers in memory, within a budget: loaded when they are asked for, the least recently used ones going first.

Those that must stay are pinned, whoever is being asked stays until it has answered, and whoever answers in the place of
one that is being loaded stays until that is done, where there is room for both.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from app import errors
from app.models.service import Served
from app.predictions import faults
from app.predictions.lanes import Lane
from app.predictions.loaded import Loaded
from app.predictions.loaders import Loaders
from app.predictions.needs import Need
from app.predictions.scheduler import yield_to_the_event_loop
from app.runtimes import memory

logger = logging.getLogger(__name__)

_LOADING_AT_ONCE = 2
_DISTRUST = 2
_CLOSE_SECONDS = 5.0
"""How long what is being loaded may hold up the end."""
_ROOM_SECONDS = 30.0
"""How long a classifier waits for others to have answered, when they hold all memory that there is."""


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


@dataclass(eq=False)
class Standing:
    """A model version on the shelf, or on its way."""

    version: Served
    wanted: Served
    """The same, with those of its forms that are tried: all until one of them has failed in a pass."""
    settled: Future[bool] = field(default_factory=Future)
    """Done once it is loaded or could not be, which it tells; never an error."""
    memory_bytes: int = 0
    users: int = 0
    failed_at: float | None = None
    replaces: frozenset[Served] = frozenset()
    """Those that answer in its place until it is loaded."""
    is_leaving: bool = False
    """Whether it is to go as soon as it has answered, so that one that replaces it has room."""
    _lane: Lane | None = None
    _failure: errors.GraftError | None = None

    @property
    def is_loaded(self) -> bool:
        return self._lane is not None and not self._lane.is_broken

    @property
    def is_broken(self) -> bool:
        return self._lane is not None and self._lane.is_broken

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
        """`failure` is what its callers are told from `now` on, by the clock of `time.monotonic`. What its frames and
        causes hold, a network among it, is not kept."""
        self._failure, self.failed_at = failure.anew(), now
        self._settle()

    def _settle(self) -> None:
        with suppress(InvalidStateError):  # the shelf was closed while it was loaded
            self.settled.set_result(self._lane is not None)


class Shelf:
    """For any thread."""

    def __init__(self, opener: Opener, *, max_bytes: int, retry_seconds: float = 2.0) -> None:
        self._opener = opener
        self._max_bytes = max_bytes
        self._retry_seconds = retry_seconds
        self._standing: OrderedDict[Served, Standing] = OrderedDict()
        self._pinned: frozenset[Served] = frozenset()
        self._is_closed = False
        self._used_bytes = 0
        self._loading = 0
        """How many are being loaded, and hold more than they will."""
        self._without_bytes: int | None = None
        """What the process held when there was no classifier."""
        self._change = threading.Condition()
        self._loaders = Loaders(_LOADING_AT_ONCE, prepare=yield_to_the_event_loop)

    def want(self, version: Served, *, replacing: Served | None = None) -> Standing:
        """The version's place on the shelf; where it has none, it gets one and is loaded. Whoever wants it is a user,
        for whom it stays until `release`. `replacing`: which one answers in its place until it is loaded."""
        with self._change:
            if self._is_closed:
                raise _stopping()
            standing = self._standing.get(version)
            if standing is None:
                standing = self._begin(Standing(version, version))
            elif self._is_worth_another_try(standing):
                standing = self._begin(Standing(version, version, replaces=standing.replaces))
            elif standing.is_broken:
                standing = self._follow(standing)
            if replacing is not None:
                standing.replaces |= {replacing}
            self._standing.move_to_end(version)
            standing.users += 1
            return standing

    def release(self, standing: Standing) -> None:
        """The other end of `want`."""
        with self._change:
            standing.users -= 1
            if not standing.users:
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
        """Whether it is loaded, and not about to go for one that replaces it."""
        standing = self._standing.get(version)
        return standing is not None and standing.is_loaded and not standing.is_leaving

    def lane(self, version: Served) -> Lane | None:
        """Its queue, if it is loaded. Never waits."""
        standing = self._standing.get(version)
        return standing.lane() if standing is not None and standing.is_loaded else None

    def was_tried(self, version: Served) -> bool:
        """Whether it is loaded, or could not be the last time. Of one that is not pinned, the latter is not known for
        long."""
        standing = self._standing.get(version)
        return standing is not None and standing.settled.done()

    def pin(self, versions: frozenset[Served], *, moves: Iterable[tuple[Served, Served]] = ()) -> None:
        """Keep these, each in the form that is named, and only these, whatever else is asked for. `moves`: who answers
        in the place of which one, that is to be loaded."""
        with self._change:  # as one step, between whose parts nobody has to go
            self._pinned = versions
            for before, version in moves:
                self.release(self.want(version, replacing=before))
            self._change.notify_all()

    def loaded(self) -> list[Loaded]:
        """All that is there."""
        with self._change:
            return [standing.lane().loaded for standing in self._standing.values() if standing.is_loaded]

    @property
    def used_bytes(self) -> int:
        """Of the budget."""
        return self._used_bytes

    def close(self) -> None:
        """Begin nothing more, and wait a little for what is being loaded."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        self._loaders.close(seconds=_CLOSE_SECONDS)
        for standing in self._standing.values():
            if not standing.settled.done():
                standing.fail(_stopping(), time.monotonic())

    def _begin(self, standing: Standing) -> Standing:
        """Put it on the shelf, and have it loaded."""
        self._forget_failed()
        self._standing[standing.version] = standing
        self._loaders.submit(partial(self._load, standing))
        return standing

    def _follow(self, broken: Standing) -> Standing:
        """Put in the place of one whose network has failed the version in its next form; where it has no more, what
        says so until it is worth another try, in all of them."""
        self._free(broken)
        version, form = broken.version, broken.lane().loaded.form.name
        following = Standing(version, _after(form, broken.wanted))
        if following.wanted.serving.forms:
            logger.warning("%s has failed in %s; the next form is tried", _named(version), form)
            self._opener.fell_back(form)
            return self._begin(following)
        following.fail(faults.failed(f"a pass in {form}"), time.monotonic())
        self._standing[version] = following
        return following

    def _load(self, standing: Standing) -> None:
        try:
            need = self._opener.need(standing.wanted)
            self._make_room(standing, need)
            try:
                loaded = self._opener.open(standing.wanted)
                need = self._need_of(standing.wanted, loaded, need)
                lane = self._opener.lane(loaded)
            finally:
                memory.give_back()
                self._settle(standing, need)
            standing.succeed(lane)
            with self._change:
                self._let_stay(standing.replaces)
                standing.replaces = frozenset()
                self._change.notify_all()  # from now on it may go for others
        except BaseException as error:  # told to whoever waits for it
            with self._change:
                self._free(standing)
                self._let_stay(standing.replaces)
            standing.fail(_told(error, standing.version), time.monotonic())

    def _need_of(self, wanted: Served, loaded: Loaded, foretold: Need) -> Need:
        """That of the form that was opened, where it is not the first, for which it was `foretold`."""
        form = loaded.form.name
        return foretold if form == wanted.serving.forms[0] else self._opener.need(_in_forms(wanted, (form,)))

    def _make_room(self, standing: Standing, need: Need) -> None:
        if need.kept > self._max_bytes:
            logger.warning("%s takes %d bytes, more than all models may together", _named(standing.version), need.kept)
        deadline = time.monotonic() + _ROOM_SECONDS
        while not self._reserve(standing, need, deadline):
            # Of who had to go; not under the lock, for which the event loop would have to wait.
            memory.give_back()

    def _reserve(self, standing: Standing, need: Need, deadline: float) -> bool:
        """Whether there was room, which `standing` has now; if not, somebody has gone, and there may be."""
        with self._change:
            if self._held_bytes() and self._held_bytes() + need.loading > self._max_bytes:
                if self._remove_one(but=self._replaced()):
                    return False
                # Nobody can go. What there is beyond the need once it is loaded passes by itself.
                is_tight = self._used_bytes and self._used_bytes + need.kept > self._max_bytes
                if self._loading or is_tight:
                    if self._loading or not self._remove_replaced(standing, need):
                        self._wait_for_room(need, deadline)
                    return False
            if not self._used_bytes:
                self._without_bytes = self._opener.used_bytes()
            self._loading += 1
            standing.memory_bytes = need.loading
            self._used_bytes += need.loading
            return True

    def _replaced(self) -> frozenset[Served]:
        """Those that answer in the place of others: of such as are on their way, and of such as are to be kept but
        could not be loaded."""
        return frozenset(
            before
            for version, standing in self._standing.items()
            if not standing.settled.done() or (version in self._pinned and not standing.is_loaded)
            for before in standing.replaces
        )

    def _remove_replaced(self, standing: Standing, need: Need) -> bool:
        """Whether one of those that `standing` replaces has gone, since both have no room whoever else goes. While it
        is being asked it gets no new requests, and goes after those that it has."""
        replaced = self._replaced()
        pinned_bytes = self._bytes_of(self._pinned)
        has_room_for_both = self._bytes_of(self._pinned | replaced) + need.kept <= self._max_bytes
        has_room_for_neither = pinned_bytes and pinned_bytes + need.kept > self._max_bytes
        if has_room_for_both or has_room_for_neither:
            return False
        for version in standing.replaces - self._pinned:
            before = self._standing.get(version)
            if before is not None and not before.is_leaving:
                before.is_leaving = True
                logger.warning(
                    "%s leaves before %s is loaded: both have no room", _named(version), _named(standing.version)
                )
        return self._remove_one(but=replaced - standing.replaces)

    def _let_stay(self, versions: frozenset[Served]) -> None:
        for version in versions & self._standing.keys():
            self._standing[version].is_leaving = False

    def _bytes_of(self, versions: frozenset[Served]) -> int:
        return sum(standing.memory_bytes for version, standing in self._standing.items() if version in versions)

    def _wait_for_room(self, need: Need, deadline: float) -> None:
        if self._is_closed:
            raise _stopping()
        # Whoever is being loaded holds more than it will.
        if not self._loading and self._bytes_of(self._pinned) + need.kept > self._max_bytes:
            raise errors.Overloaded("the models that are kept loaded leave too little memory for this one")
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.Overloaded("the models that are being asked hold all memory that there is for them")
        self._change.wait(left)

    def _settle(self, standing: Standing, need: Need) -> None:
        """It holds no more now than it will."""
        with self._change:
            self._loading -= 1
            self._used_bytes += need.kept - standing.memory_bytes
            standing.memory_bytes = need.kept
            self._change.notify_all()

    def _held_bytes(self) -> int:
        """What the classifiers hold: as was foretold or, where the process has grown by more since there was none of
        them, that; but no more than twice, for what has grown may be something else."""
        now = self._opener.used_bytes()
        if now is None or self._without_bytes is None:
            return self._used_bytes
        return max(self._used_bytes, min(now - self._without_bytes, _DISTRUST * self._used_bytes))

    def _is_worth_another_try(self, standing: Standing) -> bool:
        """Whether it failed, and not just now: a request each millisecond is not to read the disk each millisecond."""
        return standing.failed_at is not None and time.monotonic() - standing.failed_at > self._retry_seconds

    def _forget_failed(self) -> None:
        """What is worth another try need not be known. Of those that are kept it is to be known that they were
        tried."""
        for standing in list(self._standing.values()):
            if self._is_worth_another_try(standing) and standing.version not in self._pinned:
                del self._standing[standing.version]

    def _next_to_go(self, staying: frozenset[Served]) -> Standing | None:
        for version, standing in self._standing.items():
            is_there = standing.memory_bytes and standing.settled.done()
            if is_there and not standing.users and version not in staying:
                return standing
        return None

    def _remove_one(self, *, but: frozenset[Served]) -> bool:
        """Whether one has gone that is neither pinned nor among `but`."""
        leaving = self._next_to_go(self._pinned | but)
        if leaving is not None:
            del self._standing[leaving.version]
            self._free(leaving)
        return leaving is not None

    def _free(self, standing: Standing) -> None:
        self._used_bytes -= standing.memory_bytes
        standing.memory_bytes = 0
        self._change.notify_all()


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
        logger.warning("too little memory to load %s: %s", _named(version), error)
        return faults.no_memory()
    logger.error("%s could not be loaded", _named(version), exc_info=error)
    return errors.Unavailable(f"{_named(version)} could not be loaded: {error}", code="runtime_unavailable")


def _named(version: Served) -> str:
    return f"{version.model_name}@{version.number}"
