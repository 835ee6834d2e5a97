"""The memory that classifiers share: who has how much of it, and who goes for whom.

The least recently used one goes first. Those that must stay are pinned, whoever is being asked stays until it has
answered, and whoever answers in the place of one that is being loaded stays until that is done, where there is room for
both. Nobody goes in vain, where there would be no room all the same.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable

from app import errors
from app.models.service import Served
from app.predictions.standing import Standing, named

logger = logging.getLogger(__name__)

_DISTRUST = 2


class Room:
    """For whoever has the lock of the shelf."""

    def __init__(self, max_bytes: int, process_bytes: Callable[[], int | None]) -> None:
        """`process_bytes`: what the process holds of the memory that classifiers take; None where that cannot be
        told."""
        self.standing: OrderedDict[Served, Standing] = OrderedDict()
        """Those that are there or on their way, the least recently used first."""
        self.leaving: list[Standing] = []
        """Those that are there, get no new requests, and go when they have answered what they have."""
        self.pinned: frozenset[Served] = frozenset()
        self.used_bytes = 0
        self._max_bytes = max_bytes
        self._process_bytes = process_bytes
        self._without_bytes: int | None = None
        """What the process held when there was no classifier."""
        self._loading = 0
        """How many are being loaded, and hold more than they will."""
        self._claim: Standing | None = None
        """For whom others leave: the memory that they give back is not for those who come later."""

    def reserve(self, standing: Standing) -> bool:
        """Whether there is room to load it, which it has from now on."""
        assert standing.need is not None
        if not self._has_room(standing):
            return False
        if not self.used_bytes:
            self._without_bytes = self._process_bytes()
        self._loading += 1
        standing.memory_bytes = standing.need.loading
        self.used_bytes += standing.need.loading
        self.give_up(standing)
        return True

    def settle(self, standing: Standing) -> None:
        """It is loaded or could not be, and holds no more now than it needs."""
        assert standing.need is not None
        self._loading -= 1
        self.used_bytes += standing.need.kept - standing.memory_bytes
        standing.memory_bytes = standing.need.kept

    def free(self, standing: Standing) -> None:
        """It is not there any more."""
        self.used_bytes -= standing.memory_bytes
        standing.memory_bytes = 0

    def make(self, standing: Standing, *, is_late: bool) -> bool:
        """Whether there may be room for one that had none, once free memory has been given back: somebody has gone for
        it, or nobody needs to. If not, some may leave when they have answered: those that it replaces, where both never
        have room, and, once it `is_late`, whoever else is being asked. Raises `Overloaded` where those that are pinned
        leave no room for it."""
        assert standing.need is not None
        if self._leaves_the_claim(standing):
            idle = self._idle()
            least = self.used_bytes - sum(one.memory_bytes for one in idle)
            if idle and self._fits(standing.need.kept, beside=least):
                has_room_as_foretold = self._fits(standing.need.loading, beside=self.used_bytes)
                if has_room_as_foretold and not standing.has_had_free_memory:
                    standing.has_had_free_memory = True
                else:
                    self._remove(idle[0])
                    standing.has_sent_away = True
                return True
        # Whoever is being loaded holds more than it will.
        if not self._loading:
            if not self._fits(standing.need.kept, beside=self._bytes_of(self.pinned)):
                raise errors.Overloaded("the models that are kept loaded leave too little memory for this one")
            self._send_replaced_away(standing)
        if is_late and self._claim in (None, standing):
            self._send_others_away(standing)
        return self.remove_one()

    @property
    def is_overfull(self) -> bool:
        """Whether more are there than have room, since they have turned out to need more than was foretold."""
        is_more = self.used_bytes > self._max_bytes and not self._loading
        return is_more and sum(one.memory_bytes > 0 for one in self.standing.values()) > 1

    def remove_one(self) -> bool:
        """Whether one has gone that nobody waits for: one that was to leave and has answered, or that has to go since
        others have turned out to need more than was foretold."""
        left = next((one for one in self.leaving if not one.users), None)
        if left is not None:
            self.leaving.remove(left)
            self.free(left)
            return True
        idle = self._idle() if self.is_overfull else []
        if idle:
            self._remove(idle[0])
        return bool(idle)

    def give_up(self, standing: Standing) -> None:
        """Nobody needs to leave for it any more."""
        if self._claim is standing:
            self._claim = None
        self.let_stay(standing.sends_away)
        standing.sends_away = frozenset()

    def let_stay(self, versions: frozenset[Served]) -> None:
        """Those of them that were to leave, unless they are on their way again."""
        for one in [one for one in self.leaving if one.version in versions and one.version not in self.standing]:
            self.leaving.remove(one)
            self.standing[one.version] = one

    def _has_room(self, standing: Standing) -> bool:
        assert standing.need is not None
        # The first tells at once of most of those that wait; what follows holds up requests.
        has_some = self._fits(standing.need.kept, beside=self.used_bytes)
        if not has_some or not self._leaves_the_claim(standing):
            return False
        if self._fits(standing.need.loading, beside=self._held_bytes()):
            return True
        # Where nobody can go: what there is beyond the need once it is loaded passes by itself.
        return not self._loading and not self._idle()

    def _fits(self, count: int, *, beside: int) -> bool:
        """Whether so many bytes do, as even too many do where there is nothing else."""
        return not beside or beside + count <= self._max_bytes

    def _leaves_the_claim(self, standing: Standing) -> bool:
        """Whether it takes nothing of what others leave for another one."""
        if self._claim is None or self._claim is standing:
            return True
        assert self._claim.need is not None
        assert standing.need is not None
        return self._fits(standing.need.kept, beside=self._staying_bytes() + self._claim.need.kept)

    def _held_bytes(self) -> int:
        """What the classifiers hold: as was foretold or, where the process has grown by more since there was none of
        them, that; but no more than twice, for what has grown may be something else."""
        now = self._process_bytes()
        if now is None or self._without_bytes is None:
            return self.used_bytes
        return max(self.used_bytes, min(now - self._without_bytes, _DISTRUST * self.used_bytes))

    def _staying_bytes(self) -> int:
        """What is held once all have gone that leave or are not being asked."""
        idle = {*self._idle()}
        return sum(one.lasting_bytes for one in self.standing.values() if one not in idle)

    def _bytes_of(self, versions: frozenset[Served]) -> int:
        return sum(one.memory_bytes for one in self.standing.values() if one.version in versions)

    def _free_to_go(self) -> list[Standing]:
        """All that are loaded, neither pinned nor in the place of others."""
        staying = self.pinned | self._replaced()
        there = (one for one in self.standing.values() if one.memory_bytes and one.settled.done())
        return [one for one in there if one.version not in staying]

    def _idle(self) -> list[Standing]:
        return [one for one in self._free_to_go() if not one.users]

    def _replaced(self) -> frozenset[Served]:
        """Those that answer in the place of others: of such as are on their way, and of such as are to be kept but
        could not be loaded."""
        return frozenset(
            before
            for version, standing in self.standing.items()
            if not standing.settled.done() or (version in self.pinned and not standing.is_loaded)
            for before in standing.replaces
        )

    def _send_replaced_away(self, standing: Standing) -> None:
        """Those that it replaces, if both have no room whoever else goes, and it has some then."""
        assert standing.need is not None
        both = self._bytes_of(self.pinned | self._replaced())
        if self._fits(standing.need.kept, beside=both):
            return
        for version in standing.replaces - self.pinned:
            before = self.standing.get(version)
            if before is not None and before.memory_bytes and before.settled.done():
                self._send_away(before, standing, "both have no room")

    def _send_others_away(self, standing: Standing) -> None:
        """The least recently used of those that are being asked, as many as are needed; none where all of them would
        not do."""
        assert standing.need is not None
        need, staying = standing.need.kept, self._staying_bytes()
        chosen = []
        for one in self._free_to_go():
            if one.users and not self._fits(need, beside=staying):
                chosen.append(one)
                staying -= one.lasting_bytes
        if not self._fits(need, beside=staying):
            return
        self._claim = standing
        for one in chosen:
            self._send_away(one, standing, "others are being asked without a pause")

    def _send_away(self, one: Standing, standing: Standing, why: str) -> None:
        logger.warning("%s leaves before %s is loaded: %s", named(one.version), named(standing.version), why)
        del self.standing[one.version]
        self.leaving.append(one)
        standing.sends_away |= {one.version}
        standing.has_sent_away = True

    def _remove(self, one: Standing) -> None:
        del self.standing[one.version]
        self.free(one)
