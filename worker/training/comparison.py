"""Whether the best of many classifiers beats the first one by more than chance, on the same images."""

import numpy as np
from numpy.typing import NDArray

_DRAWS = 10_000
_DRAWS_AT_ONCE = 500


def chance(first: NDArray[np.float64], others: NDArray[np.float64], *, seed: int) -> float:
    """How probable it is, 0-1, that the best of `others (M, N)` would do better than `first (N,)` by as much, if none
    were any better; the figures are losses, image by image, and the best is what has the least in total.

    A paired randomisation test (Fisher 1935) over the images, with the largest of the standardised differences as its
    statistic, which allows for there being many to choose from, and for their being alike (Westfall and Young 1993).
    It supposes nothing of how the losses are spread, as is needed where there are few images.
    """
    gains = first - others
    best = int(gains.sum(axis=1).argmax())
    lengths = np.sqrt((gains**2).sum(axis=1))
    told_apart = lengths > 0
    if not told_apart[best]:
        return 1.0
    directions = (gains[told_apart] / lengths[told_apart, None]).T
    found = gains[best].sum() / lengths[best]
    rng = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, _DRAWS, _DRAWS_AT_ONCE):
        signs = rng.choice([-1.0, 1.0], (min(_DRAWS_AT_ONCE, _DRAWS - start), len(first)))
        # But for rounding, the draw that changes no sign counts.
        as_large += int(((signs @ directions).max(axis=1) >= found - 1e-9).sum())
    return (1 + as_large) / (1 + _DRAWS)
