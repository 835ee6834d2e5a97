"""What few images leave open: intervals for shares and for differences of shares.

Wilson's score interval for a share; for the difference of two on the same images Tango's score interval, "Equivalence
test and confidence interval for the difference in proportions for the paired-sample design" (1998); on images of their
own method 10 of Newcombe, "Interval estimation for the difference between independent proportions" (1998).
"""

import math
from dataclasses import dataclass

from app.described import described

_Z = 1.959963984540054
"""Of the normal distribution, for 95 %."""
_HALVINGS = 60
"""Of an interval's end, which is as exact then as floats are."""


@described
@dataclass(frozen=True)
class Interval:
    """What holds a figure 95 times of 100: from `low` to `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """So many of `images` were right."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.images


@dataclass(frozen=True)
class Pairs:
    """What two classifiers made of the same images: so many only the first was right for, so many only the second."""

    first_only: int
    second_only: int
    images: int

    @property
    def difference(self) -> float:
        """By how much the accuracy of the first is above that of the second, -1 to 1."""
        return (self.first_only - self.second_only) / self.images


def of_share(score: Score) -> Interval:
    """What holds the accuracy on all images there could be, 0-1, 95 times of 100."""
    share, count = score.accuracy, score.images
    middle = share + _Z**2 / (2 * count)
    reach = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return Interval(max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale))


def of_difference(first: Score, second: Score) -> Interval:
    """What holds by how much the accuracy of `first` is above that of `second`, -1 to 1, 95 times of 100, each with
    images of its own.

    On the same images the two go up and down together, and the true interval is narrower: see `of_paired_difference`.
    """
    one, other = of_share(first), of_share(second)
    difference = first.accuracy - second.accuracy
    below = math.hypot(first.accuracy - one.low, other.high - second.accuracy)
    above = math.hypot(one.high - first.accuracy, second.accuracy - other.low)
    return Interval(difference - below, difference + above)


def of_paired_difference(pairs: Pairs) -> Interval:
    """What holds by how much the accuracy of the first is above that of the second, -1 to 1, 95 times of 100.

    It leaves 0 out just where McNemar's test (1947, without a correction) finds a difference at 5 %.
    """
    return Interval(_where(pairs, _Z, -1.0, pairs.difference), _where(pairs, -_Z, pairs.difference, 1.0))


def _where(pairs: Pairs, score: float, low: float, high: float) -> float:
    """The difference from `low` to `high` from which the one found is `score` standard errors away."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # The score falls as the difference that is supposed rises.
        low, high = (middle, high) if _score(pairs, middle) > score else (low, middle)
    return (low + high) / 2


def _score(pairs: Pairs, supposed: float) -> float:
    """How many standard errors the difference that was found lies above the one `supposed`, where these come from the
    most likely share of images that only the second is right for (Tango 1998, section 3)."""
    first, second, count = pairs.first_only, pairs.second_only, pairs.images
    linear = (2 * count - first + second) * supposed - first - second
    root = math.sqrt(linear**2 + 8 * count * second * supposed * (1 - supposed))
    only_second = (root - linear) / (4 * count)
    variance = count * (2 * only_second + supposed * (1 - supposed))
    found = first - second - count * supposed
    return found / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, found)
