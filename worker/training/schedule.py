"""The learning rate over the steps of a training, and the stages that join it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.descent import Descent


def warm_up_steps(steps: int, *, steps_per_epoch: int, share: float = 0.05, epochs: int = 1) -> int:
    """How many of `steps` the learning rate takes to rise: this share of them, at most so many epochs."""
    return min(epochs * steps_per_epoch, math.floor(steps * share + 1e-9))


def held_stages(step: int, *, steps: int, stages: int) -> int:
    """How many of `stages`, counted from the first, are still as they were at `step` (from 0) of `steps`.

    All of them at first, so that only the head is trained; in the first half of the steps they join it one by one, the
    last one first ("gradual unfreezing", Howard and Ruder 2018).
    """
    return max(0, stages - 2 * stages * step // max(1, steps))


def epochs_to_join(descent: Descent) -> int:
    """The epoch within or right after which all stages have joined the training; 0 where none has to."""
    # Half of the steps, whatever the number of stages.
    return 0 if descent.unfreeze == "at_once" else math.ceil(descent.epochs / 2)


def learning_rate(step: int, *, steps: int, warm_up: int, peak: float) -> float:
    """The rate for `step` (from 0) of `steps`: a straight line up to `peak`, then half a cosine down towards 0.

    Cosine as in "SGDR" (Loshchilov and Hutter 2016), without restarts; warm-up as in Goyal et al. 2017, section 2.2.
    """
    if step < warm_up:
        return peak * (step + 1) / (warm_up + 1)
    return peak * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


@dataclass(frozen=True)
class Step:
    """One step of a training."""

    epoch: int
    number: int
    """Of all steps, counted from 0."""
    rate: float
    sizes: tuple[int, ...]
    """The images of each of its batches, over all peers."""


@dataclass(frozen=True)
class Pace:
    """What each step of a training by `descent` is like."""

    descent: Descent
    per_epoch: int
    """Steps."""

    def rate(self, number: int) -> float:
        """The learning rate of this step of all, counted from 0."""
        steps = self.descent.epochs * self.per_epoch
        warm_up = warm_up_steps(
            steps, steps_per_epoch=self.per_epoch, share=self.descent.warm_up, epochs=self.descent.warm_up_epochs
        )
        return learning_rate(number, steps=steps, warm_up=warm_up, peak=self.descent.learning_rate)

    def held(self, number: int, stages: Sequence[str]) -> str | None:
        """The last of `stages` that stays as it is in this step; None where none does."""
        if self.descent.unfreeze == "at_once":
            return None
        steps = self.descent.epochs * self.per_epoch
        count = held_stages(number, steps=steps, stages=len(stages))
        return stages[count - 1] if count else None
