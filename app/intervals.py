"""What few images leave open: intervals for shares and for differences of shares.

Both are from Newcombe, "Interval estimation for the difference between independent proportions" (1998): Wilson's score
interval, and his method 10 for differences.
"""

import math
from dataclasses import dataclass

_Z = 1.959963984540054
"""Of the normal distribution, for 95 %."""


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`."""

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


def of_share(score: Score) -> Interval:
    """What holds the accuracy on all images there could be, 0-1, 95 times of 100."""
    share, count = score.accuracy, score.images
    middle = share + _Z**2 / (2 * count)
    reach = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return Interval(max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale))


def of_difference(first: Score, second: Score) -> Interval:
    """What holds by how much the accuracy of `first` is above that of `second`, -1 to 1, 95 times of 100.

    Taken as if each had images of its own: on the same images the two go up and down together, and the true interval is
    narrower.
    """
    one, other = of_share(first), of_share(second)
    difference = first.accuracy - second.accuracy
    below = math.hypot(first.accuracy - one.low, other.high - second.accuracy)
    above = math.hypot(one.high - first.accuracy, second.accuracy - other.low)
    return Interval(difference - below, difference + above)
