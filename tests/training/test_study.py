"""What a search learns from made-up trials."""

from collections.abc import Mapping

import numpy as np
import pytest

from app import space
from app.augmentation import Augmentation
from app.backbones import catalogue
from app.facts import VersionFacts
from app.limits import Search
from app.plan import resolve
from app.recipe import Recipe
from app.space import Space, Values
from worker.training import study
from worker.training.trials import Outcome, Trial


@pytest.fixture(scope="module")
def rates() -> Space:
    """Learning rates alone, from 0.001 to 0.1."""
    recipe = Recipe(
        backbone="resnet18",
        strategy="full",
        batch_size=32,
        epochs=4,
        weight_decay=0.0,
        augmentation=Augmentation(),
        search=Search(trials=9),
    )
    facts = VersionFacts(classes=2, train_images=200, validation_images=50, smallest_class=90)
    network = catalogue.find("resnet18").facts
    return space.of(recipe, resolve(recipe, facts, network), facts, network)


def trial(
    number: int,
    values: Values | None,
    loss: float,
    *,
    outcome: Outcome = "finished",
    reported: Mapping[int, float] | None = None,
) -> Trial:
    return Trial(
        number=number,
        values=values,
        settings={},
        outcome=outcome,
        loss=loss if outcome == "finished" else None,
        accuracy=None,
        reported=dict(reported or {}),
        epochs=4,
        seconds=1.0,
    )


def with_losses(*losses: float) -> list[Trial]:
    """Trials that had these losses after each quarter."""
    steps = (25, 50, 75, 100)
    return [
        trial(number, {"learning_rate": 0.01 + number / 1000}, loss, reported=dict.fromkeys(steps, loss))
        for number, loss in enumerate(losses, 1)
    ]


def test_a_proposal_follows_from_the_trials_and_the_seed(rates: Space) -> None:
    done = with_losses(0.5, 0.4, 0.3, 0.6, 0.7, 0.2)
    first = study.proposal(rates, done, seed=(0, 7, 0))
    assert study.proposal(rates, done, seed=(0, 7, 0)) == first
    assert study.proposal(rates, done, seed=(0, 7, 1)) != first
    assert 0.001 <= float(first["learning_rate"]) <= 0.1
    stopped = [
        trial(7, {"learning_rate": 0.05}, 0.0, outcome=outcome, reported={50: 9.0})
        for outcome in ("out_of_time", "stopped")
    ]
    assert study.proposal(rates, [*done, *stopped], seed=(0, 7, 0)) == first
    assert study.proposal(rates, [*done, trial(7, None, 0.1)], seed=(0, 7, 0)) == first


def test_proposals_go_where_the_trials_were_good(rates: Space) -> None:
    tried = np.geomspace(0.001, 0.1, 15)
    good_high = [trial(n, {"learning_rate": float(r)}, -np.log10(r)) for n, r in enumerate(tried, 1)]
    good_low = [trial(n, {"learning_rate": float(r)}, np.log10(r)) for n, r in enumerate(tried, 1)]
    high, low = (
        np.mean([np.log10(float(study.proposal(rates, done, seed=(0, n, 0))["learning_rate"])) for n in range(12)])
        for done in (good_high, good_low)
    )
    assert high - low > 0.8


def test_what_failed_is_avoided(rates: Space) -> None:
    tried = [float(rate) for rate in np.geomspace(0.001, 0.1, 15)]
    done = [
        trial(n, {"learning_rate": rate}, 0.5, outcome="failed" if rate > 0.02 else "finished")
        for n, rate in enumerate(tried, 1)
    ]
    proposed = [float(study.proposal(rates, done, seed=(0, n, 0))["learning_rate"]) for n in range(12)]
    assert np.median(proposed) < 0.02


def test_worse_than_half_of_the_others_at_the_same_point_is_hopeless(rates: Space) -> None:
    done, values = with_losses(0.2, 0.3, 0.4), {"learning_rate": 0.02}
    assert study.is_hopeless(rates, done, values, {25: 0.9, 50: 0.31})
    assert not study.is_hopeless(rates, done, values, {25: 0.9, 50: 0.29})


def test_nothing_is_hopeless_before_half_of_its_epochs_or_with_few_to_compare(rates: Space) -> None:
    done, values = with_losses(0.2, 0.3, 0.4), {"learning_rate": 0.02}
    assert not study.is_hopeless(rates, done, values, {25: 0.9})
    assert not study.is_hopeless(rates, done[:2], values, {25: 0.9, 50: 0.9})
    assert not study.is_hopeless(rates, done, values, {60: 0.9})  # no other was looked at there
