"""The choice of a backbone: the best network within a budget of those that were ranked, or one of those at hand."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from app import errors
from app.limits import Budget
from app.ranking import Cost, MeasuredNetwork, Ranking

Lacks = Callable[[str], tuple[str, ...]]
"""What a network of this name has not got of what was asked for, in words."""


def _nothing(_name: str) -> tuple[str, ...]:
    return ()


def within(ranking: Ranking, budget: Budget, lacks: Lacks = _nothing) -> tuple[MeasuredNetwork, ...]:
    """The networks of `ranking` within `budget` that lack nothing, the best first."""
    return tuple(entry for entry in ranking.measured if not _misses(entry.cost, budget, lacks(entry.name)))


def choose(ranking: Ranking, budget: Budget, lacks: Lacks = _nothing) -> tuple[MeasuredNetwork, tuple[str, ...]]:
    """The best network of `ranking` within `budget` that lacks nothing, and the reasons. Raises `Invalid` where there
    is none."""
    misses = {entry.name: _misses(entry.cost, budget, lacks(entry.name)) for entry in ranking.measured}
    fitting = within(ranking, budget, lacks)
    if not fitting:
        raise _none_fits(misses, budget)
    best = fitting[0]
    before = ranking.measured[: ranking.measured.index(best)]
    place = "first" if not before else f"best that fits and number {len(before) + 1}"
    said = (
        f"Backbone {best.name}: {place} of {len(ranking.measured)} that were ranked on this version; a linear "
        f"classifier on its features is right for {100 * best.probe.accuracy:.1f} %, and an image takes "
        f"{1000 * best.cost.latency.seconds:.1f} ms on this {ranking.setting.device}."
    )
    passed = tuple(f"{entry.name} stands before it, but {' and '.join(misses[entry.name])}." for entry in before)
    return best, (said, *passed, *ranking.remarks)


def choose_unmeasured(
    costs: Iterable[tuple[str, Cost]], budget: Budget, why: str, lacks: Lacks = _nothing
) -> tuple[str, tuple[str, ...]]:
    """The first within `budget` that lacks nothing of networks that cannot be ranked, as `why` says, and the reasons;
    `costs` come in the order of preference, and no more of them are taken than are needed. Raises `Invalid` where there
    is none."""
    misses: dict[str, tuple[str, ...]] = {}
    for name, cost in costs:
        found = _misses(cost, budget, lacks(name))
        if not found:
            said = (
                f"Backbone {name}: {why}. So backbones cannot be compared, and the one that does the fewest "
                "multiply-adds is taken of those at hand, first of those that were pre-trained on photographs."
            )
            passed = (f"{other} comes before it, but {' and '.join(how)}." for other, how in misses.items())
            return name, (said, *passed)
        misses[name] = found
    raise _none_fits(misses, budget)


def _none_fits(misses: Mapping[str, Sequence[str]], budget: Budget) -> errors.Invalid:
    said = "; ".join(f"{name} {' and '.join(why)}" for name, why in misses.items())
    return errors.Invalid(
        f"none of {len(misses)} backbones fits: {said}",
        code="no_backbone_fits",
        detail={"backbones": {name: list(why) for name, why in misses.items()}},
    ).at("recipe.backbone" if budget == Budget() else "recipe.budget")


def _misses(cost: Cost, budget: Budget, lacking: tuple[str, ...]) -> tuple[str, ...]:
    """Why a network that has this `cost` does not fit: what is `lacking`, and how it is beyond `budget`."""
    said = [*lacking]
    if budget.latency_ms is not None and 1000 * cost.latency.seconds > budget.latency_ms:
        said.append(f"takes {1000 * cost.latency.seconds:.1f} ms an image, of at most {budget.latency_ms:g} ms")
    if budget.macs is not None and (cost.macs is None or cost.macs > budget.macs):
        count = "an unknown number of" if cost.macs is None else f"{cost.macs / 1e6:,.0f} million"
        said.append(f"does {count} multiply-adds, of at most {budget.macs / 1e6:,g} million")
    if budget.size_bytes is not None and cost.size_bytes > budget.size_bytes:
        said.append(f"has {cost.size_bytes / 1e6:.1f} MB of values, of at most {budget.size_bytes / 1e6:g} MB")
    return tuple(said)
