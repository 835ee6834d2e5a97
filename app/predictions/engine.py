"""Answers from classifiers: the one use case under all transports. Knows no database and no HTTP."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from app import errors
from app.models.service import Served
from app.predictions.lanes import Lane
from app.predictions.loaded import Answer, Given, Loaded
from app.predictions.scheduler import Scheduler
from app.predictions.shelf import Shelf
from app.predictions.standing import Standing
from app.predictions.tickets import Ticket, too_late

logger = logging.getLogger(__name__)

_REFERENCES = 10_000
_GRACE_SECONDS = 0.25
"""So much longer than it has time a request may wait for an answer that is being computed."""


@dataclass(frozen=True)
class Timing:
    """What a request took, in seconds; of several images decoding and passing are the sums."""

    waited: float
    decoding: float
    passing: float
    whole: float


@dataclass(frozen=True)
class Answered:
    """The answers to one request, in the order of its images, and who gave them."""

    version: Served
    loaded: Loaded
    answers: Sequence[Answer]
    timing: Timing


class Engine:
    """For the event loop alone; the work is done in the threads of the shelf and the scheduler."""

    def __init__(self, shelf: Shelf, scheduler: Scheduler) -> None:
        self._shelf = shelf
        self._scheduler = scheduler
        self._answering: OrderedDict[str, Served] = OrderedDict()
        """For each reference that was asked for, who answered."""
        self._followed: Mapping[str, Served] = {}
        """What each reference means, as was told last."""
        self._before: Mapping[str, Served] = {}
        """For each that was moved then, who answers until its new target is loaded, if it is still there."""
        self._given_up: Mapping[str, tuple[Served, Served]] = {}
        """For each that was moved from a target that never answered, that one, and who answered in its place."""
        self._arrivals: dict[str, tuple[Served, Future[bool]]] = {}
        """For each whose target is loaded while another answers, that target, and what tells when it is there."""
        self._present: frozenset[str] | None = None
        """Ids of the versions that there are, as far as that was told."""
        self._ready: set[Served] = set()
        self._is_warm = False

    async def classify(
        self,
        reference: str,
        target: Served,
        images: Sequence[Given],
        *,
        timeout_seconds: float,
        since: float | None = None,
        check: Callable[[Loaded], None] | None = None,
    ) -> Answered:
        """What `target`, which `reference` meant when the request began, says of `images`, whose time has begun at
        `since` by `time.monotonic`; now if it is not given. Nothing is computed where `check` raises of who answers.

        While `target` is being loaded, who answered to the reference before goes on. Raises `BadImage`, whose detail
        tells which image it is, `Overloaded` and `Unavailable`.
        """
        began = time.monotonic() if since is None else since
        deadline = began + timeout_seconds
        version = self._answers_to(reference, target)
        try:
            with self._shelf.use(version) as standing:
                lane = await self._lane(standing, deadline)
                if check is not None:
                    check(lane.loaded)
                ticket = await self._answered(lane, images, deadline)
        except errors.Overloaded:
            raise
        except errors.Unavailable:
            self._ready.discard(version)  # until it is loaded again
            raise
        answers = [answer for answer in ticket.answers if answer is not None]
        whole = time.monotonic() - began
        timing = Timing(ticket.waited_seconds, ticket.decode_seconds, ticket.pass_seconds, whole)
        return Answered(version, lane.loaded, answers, timing)

    def follow(self, served: Mapping[str, Served], kept: Collection[Served]) -> None:
        """Begin to load what is to be `kept` in memory at any time, and what references mean now to which a version
        that is in memory answers; what is not `served` any more answers nothing. No request is to come for what a
        reference means now before this is done. For any thread."""
        self._present = frozenset(version.version_id for version in served.values())
        kept_names = (name for name, version in served.items() if version in kept)
        answering = {name: self._who_answers(name) for name in {*list(self._answering), *kept_names}}
        moved = {
            name: before
            for name, before in answering.items()
            if before is not None and served.get(name, before) != before
        }
        going_on = [(before, served[name]) for name, before in moved.items() if self._goes_on(before, served[name])]
        # Where neither is there, maybe nobody comes again.
        awaited = [
            name
            for name, before in moved.items()
            if served[name] in kept or self._shelf.has(before) or self._shelf.has(served[name])
        ]
        still = {
            name: pair for name, pair in self._given_up.items() if name in answering and pair[0] != served.get(name)
        }
        self._given_up = still | {
            name: (self._followed[name], before)
            for name, before in answering.items()
            if before is not None and self._followed.get(name, before) not in (before, served.get(name))
        }
        self._before = moved
        self._followed = served
        self._shelf.pin(frozenset(kept), moves=going_on)
        for version in kept:
            self._shelf.release(self._shelf.want(version))
        for name in awaited:
            self._await(name, served[name])

    async def prepare(self, version: Served) -> Loaded:
        """Load it, if it is not there. Raises `Unavailable`."""
        with self._shelf.use(version) as standing:
            await _settled(standing)
            return standing.lane().loaded

    def is_ready(self, reference: str, target: Served) -> bool:
        """Whether whoever answers to `reference` was loaded here, and has not failed since, so that it will be again
        where it had to go for others. Any other begins to load. Raises `Unavailable` where it cannot be loaded."""
        version = self._answers_to(reference, target)
        if version not in self._ready:
            with self._shelf.use(version) as standing:
                if not standing.settled.done():
                    return False
                standing.lane()
            self._ready.add(version)
        return True

    def is_warm(self, kept: Collection[Served]) -> bool:
        """Whether all versions that are to be `kept` in memory were there once, but for those that cannot be loaded;
        from then on it stays so, since whoever is new among them is loaded while others answer."""
        self._is_warm = self._is_warm or all(self._shelf.was_tried(version) for version in kept)
        return self._is_warm

    def has(self, version: Served) -> bool:
        """Whether it can answer at once."""
        return self._shelf.has(version)

    def check(self, version: Served, *, timeout_seconds: float) -> None:
        """Raise `Overloaded` where a request that came now could not be answered in time, before it is received."""
        lane = self._shelf.lane(version)
        if lane is not None:
            self._scheduler.check(lane, timeout_seconds)

    def answering(self, reference: str, target: Served) -> Served:
        """Who answers to `reference`, which meant `target` when the request began: that one or, until it is loaded, the
        one before; where the reference was moved since and neither is there any more, who answers to it now."""
        if self._is_left(reference, target):
            return self._answering_late(reference, target)
        if self._answering.get(reference) == target or self._has_arrived(reference, target):
            return target
        before = self._before.get(reference) or self._answering.get(reference)
        return before if before is not None and self._goes_on(before, target) else target

    def _answering_late(self, reference: str, target: Served) -> Served:
        given_up, instead = self._given_up.get(reference, (None, None))
        for before in (instead if given_up == target else None, self._before.get(reference)):
            if before is not None and self._goes_on(before, target):
                return before
        meant = self._followed.get(reference)
        # To load what nobody else will ask for would take its time, and maybe the place of who answers now.
        return target if meant is None or self._shelf.has(target) else self.answering(reference, meant)

    def _answers_to(self, reference: str, target: Served) -> Served:
        version = self.answering(reference, target)
        if self._is_left(reference, target):
            return version  # of which those that come now are to know nothing
        if version is not target:
            # It begins to load, and this request does not wait for it.
            self._await(reference, target, replacing=version)
            return version
        self._arrivals.pop(reference, None)
        self._answering[reference] = target
        self._answering.move_to_end(reference)
        if len(self._answering) > _REFERENCES:
            self._answering.popitem(last=False)
        return target

    def _is_left(self, reference: str, target: Served) -> bool:
        """Whether `reference` has been moved from `target` to another one, or removed."""
        meant = self._followed.get(reference) if self._followed else target
        return meant is not target and meant != target

    def _who_answers(self, reference: str) -> Served | None:
        """To a reference, as it was followed last."""
        target, asked = self._followed.get(reference), self._answering.get(reference)
        if target is not None and (target == asked or self._shelf.has(target) or self._has_arrived(reference, target)):
            return target
        return self._before.get(reference) or asked

    def _await(self, reference: str, target: Served, *, replacing: Served | None = None) -> None:
        standing = self._shelf.want(target, replacing=replacing)
        self._arrivals[reference] = (target, standing.settled)
        self._shelf.release(standing)

    def _has_arrived(self, reference: str, target: Served) -> bool:
        """Whether `target` was loaded since `reference` was moved to it, though it may have gone again: then the one
        before answers no more."""
        arrival = self._arrivals.get(reference)
        return arrival is not None and arrival[0] == target and arrival[1].done() and arrival[1].result()

    def _goes_on(self, before: Served, target: Served) -> bool:
        """Whether the one before answers until `target` is loaded."""
        is_there = self._present is None or before.version_id in self._present
        return is_there and not self._shelf.has(target) and self._shelf.has(before)

    async def _lane(self, standing: Standing, deadline: float) -> Lane:
        if not standing.settled.done():
            try:
                await asyncio.wait_for(_settled(standing), deadline - time.monotonic())
            except TimeoutError as error:
                raise errors.Overloaded("the model is still being loaded; try again in a moment") from error
        return standing.lane()

    async def _answered(self, lane: Lane, images: Sequence[Given], deadline: float) -> Ticket:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def tell(_ticket: Ticket) -> None:
            with suppress(RuntimeError):  # where the loop has ended nobody waits
                loop.call_soon_threadsafe(_settle, done)

        ticket = Ticket(images, deadline=deadline, now=time.monotonic(), done=tell)
        if ticket.arrived > deadline:
            raise too_late()
        self._scheduler.submit(lane, ticket)
        # Where all threads are at work on others, nobody looks at the time.
        late = loop.call_later(ticket.deadline - time.monotonic() + _GRACE_SECONDS, _give_up, ticket)
        try:
            await done
        finally:
            late.cancel()
            if not ticket.is_gone or ticket.error is not None:
                ticket.is_gone = True
                self._scheduler.withdraw(lane, ticket)
        error, ticket.error = ticket.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it knows this frame, and in a circle all that the request has would stay in memory
        return ticket


async def _settled(standing: Standing) -> None:
    # Others wait for the same one: that this one goes away must not end it.
    await asyncio.shield(asyncio.wrap_future(standing.settled))


def _give_up(ticket: Ticket) -> None:
    ticket.end(too_late())


def _settle(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
