"""Batches cut into as many pieces as the memory needs: nobody knows in advance how many that is."""

import math

import torch
from torch import Tensor

from app import errors
from app.runtimes import memory
from worker.training.events import BatchSplit, Emit
from worker.training.feed import Batch, cut
from worker.training.learner import Learner, seeded
from worker.training.peers import Peers, ShareTooLarge
from worker.training.schedule import Step


class Pieces:
    """The steps of `learner` on `device`, whose batches of `batch_size` images are cut in `count` pieces, and in more
    from the step on that does not fit the memory."""

    def __init__(
        self, learner: Learner, *, batch_size: int, count: int, device: torch.device, peers: Peers, emit: Emit
    ) -> None:
        self._learner = learner
        self._batch_size = batch_size
        self._device = device
        self._peers = peers
        self._emit = emit
        self.count = count

    def resume(self, count: int) -> None:
        """Go on with the `count` of a training that was interrupted, if it is larger."""
        self.count = max(self.count, count)

    def tell(self) -> None:
        """Say in what size batches are computed, where they are cut."""
        if self.count > 1:
            self._emit(BatchSplit(images=math.ceil(self._batch_size / self._peers.count / self.count)))

    def step(self, batches: list[Batch], step: Step, *, seed: list[int]) -> Tensor:
        """The loss of `Learner.step`, whose random numbers come from `seed`. Raises `Unavailable` where batches cannot
        be cut further; where they can, and others have a part in them, `ShareTooLarge`."""
        fewest = [size // self._peers.count for size in step.sizes]
        largest = max(fewest)
        while True:
            try:
                with memory.told_alike(), seeded(seed, self._device):
                    pieces = cut(batches, self.count, fewest=fewest)
                    return self._learner.step(pieces, rate=step.rate, number=step.number, images=sum(step.sizes))
            except torch.OutOfMemoryError as error:
                is_enough = self._learner.save_memory()
                if not is_enough and (said := self._why_not_more(largest)):
                    raise errors.Unavailable(said, code="out_of_memory") from error
                if self._peers.count > 1:  # the others are in the midst of the step, and there is no way to ask them
                    raise ShareTooLarge(self.count) from error
            # Not above, where the error still holds what was computed.
            torch.cuda.empty_cache()
            if not is_enough:
                self.count *= 2
                self._emit(BatchSplit(images=math.ceil(largest / self.count)))

    def _why_not_more(self, largest: int) -> str | None:
        """Why batches of which the `largest` does not fit cannot be cut further; None where they can."""
        most = max(1, largest // 2)
        if self.count >= most:
            fewest = math.ceil(largest / most)
            return f"{fewest} images at a time are too many for the device's memory; take a smaller backbone"
        return None
