"""The choice of a backbone within a budget, by a ranking or without one."""

import pytest

from app import budgets
from app.errors import Invalid
from app.limits import Budget
from tests.app.test_ranking import three


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (Budget(), "large"),
        (Budget(latency_ms=10), "middle"),
        (Budget(latency_ms=2), "small"),
        (Budget(macs=100_000_000), "middle"),
        (Budget(size_bytes=1_000_000), "small"),
        (Budget(latency_ms=10, size_bytes=400_000), "small"),
    ],
)
def test_the_best_within_the_budget_is_chosen(budget: Budget, chosen: str) -> None:
    found, reasons = budgets.choose(three(), budget)
    assert found.name == chosen
    assert reasons[0].startswith(f"Backbone {chosen}: ")


def test_the_reasons_tell_what_stood_before_and_why_it_was_passed_over() -> None:
    _, reasons = budgets.choose(three(), Budget(latency_ms=2))
    assert "best that fits and number 3 of 3" in reasons[0]
    assert reasons[1] == "large stands before it, but takes 20.0 ms an image, of at most 2 ms."


def test_a_budget_that_none_fits_is_said_with_what_each_takes() -> None:
    with pytest.raises(Invalid, match="none of 3 backbones fits") as raised:
        budgets.choose(three(), Budget(latency_ms=0.5))
    assert raised.value.code == "no_backbone_fits"
    assert raised.value.detail["backbones"] == {
        "large": ["takes 20.0 ms an image, of at most 0.5 ms"],
        "middle": ["takes 4.0 ms an image, of at most 0.5 ms"],
        "small": ["takes 1.0 ms an image, of at most 0.5 ms"],
    }


def test_what_lacks_something_is_passed_over() -> None:
    def lacks(name: str) -> tuple[str, ...]:
        return () if name == "small" else ("has no stage layer3",)

    found, reasons = budgets.choose(three(), Budget(), lacks)
    assert found.name == "small"
    assert reasons[1] == "large stands before it, but has no stage layer3."
    assert [entry.name for entry in budgets.within(three(), Budget(), lacks)] == ["small"]
    costs = [(entry.name, entry.cost) for entry in three().measured]
    name, reasons = budgets.choose_unmeasured(iter(costs), Budget(), "too few images", lacks)
    assert (name, reasons[1]) == ("small", "large comes before it, but has no stage layer3.")
    with pytest.raises(Invalid, match="large has no stage layer3; ") as refused:
        budgets.choose(three(), Budget(), lambda _name: ("has no stage layer3",))
    assert (refused.value.code, refused.value.field) == ("no_backbone_fits", "recipe.backbone")


def test_without_a_ranking_the_first_network_within_the_budget_is_taken() -> None:
    entries = {entry.name: entry.cost for entry in three().measured}
    costs = [(name, entries[name]) for name in ("small", "middle", "large")]
    name, reasons = budgets.choose_unmeasured(iter(costs), Budget(), "too few images")
    assert name == "small"
    assert reasons[0].startswith("Backbone small: too few images. So backbones cannot be compared")

    name, reasons = budgets.choose_unmeasured(reversed(costs), Budget(latency_ms=5, macs=200_000_000), "too few images")
    assert name == "middle"
    assert reasons[1] == (
        "large comes before it, but takes 20.0 ms an image, of at most 5 ms and does an unknown number of "
        "multiply-adds, of at most 200 million."
    )
    with pytest.raises(Invalid) as refused:
        budgets.choose_unmeasured(iter(costs), Budget(size_bytes=1000), "too few images")
    assert refused.value.code == "no_backbone_fits"
    assert set(refused.value.detail["backbones"]) == {"small", "middle", "large"}  # type: ignore[arg-type]
