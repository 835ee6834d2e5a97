"""The learning rate over the steps of a training."""

import math


def warm_up_steps(steps: int, *, steps_per_epoch: int) -> int:
    """How many of `steps` the learning rate takes to rise: a twentieth, at most one epoch."""
    return min(steps_per_epoch, steps // 20)


def learning_rate(step: int, *, steps: int, warm_up: int, peak: float) -> float:
    """The rate for `step` (from 0) of `steps`: a straight line up to `peak`, then half a cosine down towards 0.

    Cosine as in "SGDR" (Loshchilov and Hutter 2016), without restarts; warm-up as in Goyal et al. 2017, section 2.2.
    """
    if step < warm_up:
        return peak * (step + 1) / (warm_up + 1)
    return peak * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2
