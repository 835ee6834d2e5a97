"""Who is let in: how long an image would wait for the threads and for the network, and what is said where that would
be too long."""

from collections.abc import Iterable, Sequence

from app import errors
from app.predictions.lanes import Lane
from app.wording import duration

_LIKELY = 0.7
"""Share of its time by which an image that is let in should have waited: what others take varies, and of those that
are let in at the very limit half would have waited for nothing."""


def expected_wait(lane: Lane, lanes: Iterable[Lane], now: float, *, threads: int, count: int = 1) -> float:
    """How many seconds a request of so many images would wait that came to `lane` `now`, beside all `lanes` that have
    something waiting."""
    others = [other.small_seconds for other in lanes if other is not lane]
    seconds, passes = lane.ahead(count, now)
    return max(shared(seconds, others) / threads, passes / lane.passes_at_once(threads))


def work_seconds(lane: Lane, count: int, *, threads: int, is_believed: bool) -> float:
    """What so many images of one request take, if nothing else is to be done; by what others took lately if that
    `is_believed`, or else by the least that a pass took since the network was loaded."""
    alone = lane.pass_seconds if is_believed else lane.loaded.pace.seconds
    each = lane.seconds_of(count) if is_believed else alone
    passing = min(alone, lane.together_seconds or alone)
    return max(each * -(-count // threads), passing * -(-count // lane.passes_at_once(threads)))


def shared(own: float, others: Sequence[float]) -> float:
    """What is done before the end of one's `own` work where all have their share of the threads alike."""
    return min(own + sum(others), own * (1 + len(others)))


def refuse_full(lane: Lane, count: int, *, most: int, threads: int) -> None:
    """Raise `Busy` where so many images would be more than the `most` that may wait, unless none does."""
    more = lane.waiting + count - most
    if lane.waiting and more > 0:
        raise errors.Busy(
            f"{lane.waiting} images wait for this model, and it takes no more than {most}",
            retry_after_seconds=lane.small_seconds / threads * more / lane.waiting,
        )


def refuse_late(wait: float, work: float, *, left: float, count: int = 1) -> None:
    """Raise `Overloaded` where such `work` at so many images would, after such a `wait`, hardly be done in the seconds
    that are `left`."""
    left = max(0.0, left)
    if wait <= _LIKELY * (left - work):
        return
    if work > left and count > 1:
        raise errors.Overloaded(
            f"the answer would take about {duration(work)} if nobody else asked, more than the {duration(left)} that "
            "there are; fewer images at a time take less",
            retry_after_seconds=wait + work,
        )
    more = "more" if wait + work > left else "and may take more"
    raise errors.Overloaded(
        f"the answer would take about {duration(wait + work)}, {more} than the {duration(left)} that there are",
        retry_after_seconds=min(wait, wait - _LIKELY * (left - work)),
    )
