"""In which order an epoch shows the training images, and in which batches."""

import numpy as np
from numpy.typing import NDArray

from app.recipe import Balance
from worker.training.data import Splits


def of_epoch(epoch: int, splits: Splits, balance: Balance, *, seed: int) -> NDArray[np.int64]:
    """Positions of the training images: each one once, or drawn so that labels are even."""
    rng = np.random.default_rng([seed, epoch])
    count = len(splits.train)
    if balance != "sampler":
        return rng.permutation(count)
    chances = rarity(splits)[splits.train.targets]
    return rng.choice(count, size=count, p=chances / chances.sum())


def rarity(splits: Splits) -> NDArray[np.float64]:
    """For each class, how much rarer its training images are than on average `(K,)`."""
    counts = np.bincount(splits.train.targets, minlength=len(splits.labels))
    present = np.count_nonzero(counts)
    rarity: NDArray[np.float64] = len(splits.train) / (present * np.maximum(counts, 1))
    return rarity


def batches_of(order: NDArray[np.int64], size: int, *, least: int = 2) -> list[list[int]]:
    """`order` in batches of `size`; fewer than `least` images left over join the batch before, as BatchNorm needs two
    for each device."""
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches
