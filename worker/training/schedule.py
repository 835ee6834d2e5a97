"""The learning rate over the steps of a training."""

import math


def warm_up_steps(steps: int, *, steps_per_epoch: int, share: float = 0.05, epochs: int = 1) -> int:
    """How many of `steps` the learning rate takes to rise: this share of them, at most so many epochs."""
    return min(epochs * steps_per_epoch, math.floor(steps * share + 1e-9))


def held_stages(step: int, *, steps: int, stages: int) -> int:
    """How many of `stages`, counted from the first, are still as they were at `step` (from 0) of `steps`.

    All of them at first, so that only the head is trained; in the first half of the steps they join it one by one, the
    last one first ("gradual unfreezing", Howard and Ruder 2018).
    """
    return max(0, stages - 2 * stages * step // max(1, steps))


def learning_rate(step: int, *, steps: int, warm_up: int, peak: float) -> float:
    """The rate for `step` (from 0) of `steps`: a straight line up to `peak`, then half a cosine down towards 0.

    Cosine as in "SGDR" (Loshchilov and Hutter 2016), without restarts; warm-up as in Goyal et al. 2017, section 2.2.
    """
    if step < warm_up:
        return peak * (step + 1) / (warm_up + 1)
    return peak * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2
