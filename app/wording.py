"""Numbers and times in sentences."""

from datetime import UTC, datetime


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`: of nouns whose plural has an s more."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: float) -> str:
    """A `share`, 0-1, as `95.8 %`."""
    return f"{100 * share:.1f} %"


def past(value: float, limit: float) -> str:
    """`value` with two decimals, or so many more that it is seen on which side of `limit` it lies: `0.503` past 0.5."""
    said = (f"{value:.{decimals}f}" for decimals in range(2, 12))
    return next((one for one in said if float(one) != limit and (float(one) > limit) == (value > limit)), str(value))


def moment(at: datetime) -> str:
    """`2026-01-02 03:04 UTC`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def size(count: float) -> str:
    """A number of bytes, in the units of disks: `< 1 MB`, `58 MB`, `1.2 GB`."""
    if count < 1e6:
        return "< 1 MB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """`12.3 s`, `0.05 s`: with one decimal, or two figures of what is less than a second."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"


def estimated(seconds: float) -> str:
    """A time that is not known to the second: `0.05 s`, `2.3 s`, `95 s`, `24 min`, `36 h`."""
    if seconds < 10:
        return duration(seconds)
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.3g} h"
