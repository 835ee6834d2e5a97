"""The registry as one process that serves models knows it: in memory, so that no prediction waits for the database.

A thread of its own looks at the count of changes and, where it has grown, loads everything and puts the new snapshot in
the place of the old one.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from app import errors
from app.db import Database
from app.models import references, service
from app.models.service import Served
from app.models.serving import PLAIN_PROCESS, Choices, Process
from app.models.tables import Alias, Model, ModelVersion

logger = logging.getLogger(__name__)

_UNKNOWN_SECONDS = 0.1
"""How long one look at the database must do for names that are not known."""
_LOOKS = 3
"""At versions and aliases, which change while they are looked at."""
_PATIENCE_SECONDS = 5.0
"""How long a caller waits for the database."""


@dataclass(frozen=True)
class Pointer:
    """An alias, and the version that it points to."""

    alias: str
    version: Served
    keep_loaded: bool


@dataclass(frozen=True)
class Snapshot:
    """The registry at one moment. Nothing in it changes."""

    revision: int
    """The count of changes that it is at least as new as; -1 where nothing was loaded yet."""
    served: Mapping[str, Served]
    """By every reference there is: `name`, `name@version`, `name:alias`."""
    names: tuple[str, ...]
    """Of the models, the newest first."""
    pointers: tuple[Pointer, ...]

    @property
    def kept_loaded(self) -> tuple[Served, ...]:
        """The versions that are to be in memory at any time, each once."""
        return tuple({one.version.version_id: one.version for one in self.pointers if one.keep_loaded}.values())

    def missing(self, reference: str) -> errors.NotFound:
        """What is said of a reference that is not here, with the nearest that are."""
        try:
            wanted = references.parse(reference)
        except errors.NotFound as error:
            return error
        newest = self.served.get(wanted.name)
        if newest is None:
            return references.no_model(wanted.name, self.names)
        if wanted.number is not None:
            return references.no_version(wanted.name, wanted.number, newest=newest.number)
        known = [one.alias for one in self.pointers if one.version.model_name == wanted.name]
        meant = references.as_version(wanted.name, str(wanted.alias))
        return references.no_alias(wanted.name, str(wanted.alias), known, meant=meant if meant in self.served else None)


Listener = Callable[[Snapshot], None]

_NOTHING = Snapshot(-1, MappingProxyType({}), (), ())


def load(session: Session, choices: Choices) -> Snapshot:
    """The registry as it is now, for the process that `choices` are of."""
    # The count first: what a later query sees may be newer than what an earlier one saw, and so no change is missed. An
    # alias whose version is not there was moved or removed before that was deleted, so that a new look finds both.
    revision = service.revision(session)
    for _ in range(_LOOKS):
        aliases, served, names = _found(session, choices)
        if all(f"{name}@{number}" in served for name, _, number, _ in aliases):
            break
    pointers = tuple(
        Pointer(alias, served[f"{name}@{number}"], keep_loaded)
        for name, alias, number, keep_loaded in aliases
        if f"{name}@{number}" in served
    )
    served |= {f"{one.version.model_name}:{one.alias}": one.version for one in pointers}
    return Snapshot(revision, MappingProxyType(served), names, pointers)


def _found(
    session: Session, choices: Choices
) -> tuple[Sequence[Row[str, str, int, bool]], dict[str, Served], tuple[str, ...]]:
    """Aliases, then versions by `name` and `name@version`, and the names of models."""
    aliases = session.execute(
        select(Model.name, Alias.name, Alias.version, Alias.keep_loaded)
        .join(Model, Model.id == Alias.model_id)
        .where(Alias.deleted_at.is_(None))
        .order_by(Model.name, Alias.name)
    ).all()
    found = session.execute(
        select(Model.name, ModelVersion.number, ModelVersion.id)
        .join(Model, Model.id == ModelVersion.model_id)
        .where(ModelVersion.deleted_at.is_(None))
        .order_by(Model.id.desc(), ModelVersion.number)
    ).all()
    served: dict[str, Served] = {}
    ways = choices.of_all(session)
    versions = [row for row in found if row.id in ways]
    for name, number, version_id in versions:
        version = Served(version_id, name, number, ways[version_id])
        served[name] = served[f"{name}@{number}"] = version  # the last of a name is its newest
    return aliases, served, tuple(dict.fromkeys(name for name, _, _ in versions))


class Directory:
    """Answers what a reference addresses. While the database is away, it goes on with what it knows."""

    def __init__(self, database: Database, *, poll_seconds: float, process: Process = PLAIN_PROCESS) -> None:
        self._database = database
        self._choices = Choices(process)
        self._poll_seconds = poll_seconds
        self._snapshot = _NOTHING
        self._listeners: list[Listener] = []
        self._swapping = threading.Lock()
        self._is_away = False
        self._began = -float("inf")
        self._first: Future[None] = Future()
        self._first.set_running_or_notify_cancel()  # one who gives up waiting cancels it for none
        # What callers tell the thread, under the condition.
        self._changed = threading.Condition()
        self._wanted: Future[bool] | None = None
        self._is_urgent = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._keep_up, name="directory", daemon=True)

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def start(self) -> None:
        """Load the registry, if the database answers, and follow its changes from now on."""
        self._thread.start()
        self.refresh()

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_SECONDS)

    def resolve(self, reference: str) -> Served:
        """What `name`, `name@version` or `name:alias` addresses: at once where that is known, and else after one look
        at the database, which all who wait at that moment share. Raises `NotFound` with the nearest names, and
        `Unavailable` where the database does not tell."""
        found = self._snapshot.served.get(reference)
        if found is not None:
            return found
        references.parse(reference)
        return self._found_now(reference, was_seen=self._seen(self._look(is_urgent=False)))

    async def find(self, reference: str) -> Served:
        """As `resolve`, without keeping a thread waiting."""
        found = self._snapshot.served.get(reference)
        if found is not None:
            return found
        references.parse(reference)
        look = asyncio.wrap_future(self._look(is_urgent=False))
        done, _ = await asyncio.wait([look], timeout=_PATIENCE_SECONDS)
        return self._found_now(reference, was_seen=bool(done) and look.result())

    def refresh(self) -> bool:
        """Make sure that what was committed before this call is known; False where the database does not answer, so
        that it will be known later."""
        return self._seen(self._look(is_urgent=True))

    async def known(self) -> None:
        """Wait until the registry was loaded, for as long as that takes."""
        await asyncio.wrap_future(self._first)

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with each new snapshot, in their order, before anybody finds it here, and with the
        present one now. It is waited for, so it only takes note, and must not call `refresh`."""
        with self._swapping:
            self._listeners.append(listener)
            if self._snapshot is not _NOTHING:
                listener(self._snapshot)

    def _found_now(self, reference: str, *, was_seen: bool) -> Served:
        snapshot = self._snapshot
        found = snapshot.served.get(reference)
        if found is not None:
            return found
        if not was_seen:
            raise errors.Unavailable(
                f"the database does not answer, and {reference!r} is not among the models known without it",
                code="database_unavailable",
            )
        raise snapshot.missing(reference)

    def _look(self, *, is_urgent: bool) -> Future[bool]:
        """The next look at the database, which begins after this call."""
        with self._changed:
            if self._wanted is None:
                self._wanted = Future()
                self._wanted.set_running_or_notify_cancel()  # one caller who goes away cancels it for none
                if self._is_closing:
                    self._wanted.set_result(False)
            self._is_urgent |= is_urgent
            self._changed.notify()
            return self._wanted

    def _seen(self, look: Future[bool]) -> bool:
        try:
            return look.result(_PATIENCE_SECONDS)
        except FutureTimeout:
            return False

    def _keep_up(self) -> None:
        while True:
            wanted = self._next()
            is_over = self._is_closing
            was_seen = not is_over and self._update()
            if wanted is not None:
                wanted.set_result(was_seen)
            if is_over:
                return

    def _next(self) -> Future[bool] | None:
        """Wait until it is time for a look. Returns what those who asked for it wait for."""
        with self._changed:
            while not (self._is_closing or self._is_urgent):
                pause = self._poll_seconds if self._wanted is None else min(_UNKNOWN_SECONDS, self._poll_seconds)
                seconds = self._began + pause - time.monotonic()
                if seconds <= 0:
                    break
                self._changed.wait(seconds)
            self._began = time.monotonic()
            wanted, self._wanted, self._is_urgent = self._wanted, None, False
            return wanted

    def _update(self) -> bool:
        """Load the registry if it has changed. Returns whether the database answered."""
        try:
            with self._database.read() as session:
                is_new = service.revision(session) != self._snapshot.revision
                snapshot = load(session, self._choices) if is_new else self._snapshot
        except Exception:  # the thread must live on, whatever the matter
            if not self._is_away:
                logger.exception("the registry cannot be read; what is known of it goes on being served")
            self._is_away = True
            return False
        if self._is_away:
            logger.info("the registry can be read again")
        self._is_away = False
        if is_new:
            self._swap(snapshot)
        return True

    def _swap(self, snapshot: Snapshot) -> None:
        with self._swapping:
            for listener in self._listeners:
                try:
                    listener(snapshot)
                except Exception:  # of one listener, which the others and the thread survive
                    logger.exception("a listener failed on revision %d of the registry", snapshot.revision)
            self._snapshot = snapshot
        if not self._first.done():
            self._first.set_result(None)
