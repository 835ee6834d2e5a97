"""What was measured of each server, and whether it is as it must be."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from app.optimisation import DEFAULT_TOLERANCE
from bench.serving.bare import Bare
from bench.serving.subjects import Labelled
from bench.serving.wrk import Load

OURS = "graft"
BARE_SHARE = 0.85
"""Of decoding and network in a bare loop, what the service must reach."""
ONE_CALLER = 0.5
"""Of LitServe's median latency with one caller, what ours may take."""
_ABOVE_BEST = {"resnet18": 4.0, "resnet50": 4.0, "mobilenet_v3_small": 2.5}
_ABOVE_BEST_FP32 = 1.5
SAME_TO = 1e-4
"""How far a probability in fp32 may be from the reference's."""


@dataclass(frozen=True)
class Agreement:
    """How the answers compare with the reference in full precision."""

    first: float
    """Share of photos with the same first label."""
    all: float
    """Share of photos with the same labels in the same order."""
    difference: float
    """The largest between two probabilities of the same label; of one that is not among those told, at the least."""


@dataclass(frozen=True)
class Served:
    """What one round has shown of a server."""

    many: Load
    one: Load
    cpu_ms: float
    """CPU time of the server for a photo, with many callers: other work on the machine changes it less."""


Rounds = dict[str, list[Served]]
"""By server, one after the other."""


def agreement(found: Sequence[Labelled], reference: Sequence[Labelled]) -> Agreement:
    """Of the answers for the same photos."""
    pairs = list(zip(found, reference, strict=True))
    same_first = sum(ours[0][0] == theirs[0][0] for ours, theirs in pairs)
    same = sum([label for label, _ in ours] == [label for label, _ in theirs] for ours, theirs in pairs)
    return Agreement(
        same_first / len(pairs), same / len(pairs), max(_difference(ours, theirs) for ours, theirs in pairs)
    )


def _difference(ours: Labelled, theirs: Labelled) -> float:
    told, least = dict(ours), min(value for _, value in ours)
    return max(abs(told[label] - value) if label in told else max(0.0, value - least) for label, value in theirs)


@dataclass(frozen=True)
class Comparison:
    """What all rounds have shown of all servers with one network."""

    rounds: Rounds
    agreements: dict[str, list[Agreement]]
    """By server, in each round."""
    loops: Sequence[Bare]
    """Of ours, in each round."""

    def table(self) -> Iterator[str]:
        """A line per server, of the medians of its rounds."""
        yield (
            f"{'':10}{'req/s':>8}{'CPU ms':>8}{'p50 ms':>9}{'p99 ms':>9}{'one: p50':>10}{'p99 ms':>9}{'errors':>8}"
            f"{'same first':>12}{'same five':>11}{'differ by':>11}"
        )
        for name, served in self.rounds.items():
            same = _worst(self.agreements[name])
            yield (
                f"{name:10}{_median(served, _rate):8.1f}{_median(served, _cpu):8.1f}"
                f"{_median(served, lambda s: s.many.p50_ms):9.1f}{_median(served, lambda s: s.many.p99_ms):9.1f}"
                f"{_median(served, _one):10.1f}{_median(served, lambda s: s.one.p99_ms):9.1f}{_errors(served):8}"
                f"{same.first:12.1%}{same.all:11.1%}{same.difference:11.1e}"
            )

    def verdicts(self, network: str, precision: str) -> Iterator[tuple[str, bool]]:
        """What must hold, told with its figures, and whether it does."""
        ours = self.rounds[OURS]
        peers = {name: served for name, served in self.rounds.items() if name != OURS}
        if peers:
            best = max(peers, key=lambda name: _median(peers[name], _rate))
            least = _ABOVE_BEST_FP32 if precision == "fp32" else _ABOVE_BEST.get(network, _ABOVE_BEST_FP32)
            yield _at_least(f"throughput by that of the best peer, {best}", _ratio(ours, peers[best], _rate), least)
            thrifty = min(peers, key=lambda name: _median(peers[name], _cpu))
            saved = 1 / _ratio(ours, peers[thrifty], _cpu)
            yield f"to compare, CPU time of {thrifty}, the thriftiest, by ours: {saved:.2f}", True
        if "litserve" in peers:
            ratio = _ratio(ours, peers["litserve"], _one)
            yield f"median of one caller by LitServe's: {ratio:.2f}, at most {ONE_CALLER:g}", ratio <= ONE_CALLER
        whole = statistics.median(one.whole for one in self.loops)
        forward = statistics.median(one.forward for one in self.loops)
        cpu = statistics.median(one.cpu_ms for one in self.loops)
        share = statistics.median(_rate(served) / one.whole for served, one in zip(ours, self.loops, strict=True))
        told = f"throughput by a bare loop's ({whole:.1f}/s, {cpu:.1f} ms of CPU; its network alone {forward:.1f}/s)"
        yield _at_least(told, share, BARE_SHARE)
        yield f"errors of ours: {_errors(ours)}, none may be", _errors(ours) == 0
        yield self._is_right(precision)

    def _is_right(self, precision: str) -> tuple[str, bool]:
        """Whether our answers are the reference's, as far as the precision allows."""
        same = _worst(self.agreements[OURS])
        if precision == "fp32":
            told = f"probabilities of ours differ from the reference's by {same.difference:.1e}, at most {SAME_TO:g}"
            return told, same.difference <= SAME_TO
        least = DEFAULT_TOLERANCE.agreement
        return f"the same first label of ours {same.first:.1%}, at least {least:.0%}", same.first >= least


def _worst(found: Sequence[Agreement]) -> Agreement:
    """Of all rounds."""
    return Agreement(
        min(one.first for one in found), min(one.all for one in found), max(one.difference for one in found)
    )


def _at_least(told: str, ratio: float, least: float) -> tuple[str, bool]:
    return f"{told}: {ratio:.2f}, at least {least:g}", ratio >= least


def _ratio(ours: Sequence[Served], theirs: Sequence[Served], figure: Callable[[Served], float]) -> float:
    """Round by round, since what else goes on changes meanwhile."""
    return statistics.median(figure(one) / figure(other) for one, other in zip(ours, theirs, strict=True))


def _median(served: Sequence[Served], figure: Callable[[Served], float]) -> float:
    return statistics.median(figure(one) for one in served)


def _rate(served: Served) -> float:
    return served.many.rate


def _cpu(served: Served) -> float:
    return served.cpu_ms


def _one(served: Served) -> float:
    return served.one.p50_ms


def _errors(served: Sequence[Served]) -> int:
    return sum(one.many.errors + one.one.errors for one in served)
