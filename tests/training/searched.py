"""Searches by a clock that goes by what they tell, and that can be interrupted."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from app import space
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.limits import Search
from app.plan import Plan
from app.recipe import Recipe
from app.space import Space
from tests.training import samples
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import AT_32, LABELS, facts_of, plan_for, small
from worker.training import search, strategies, trials
from worker.training.data import Splits
from worker.training.events import (
    Emit,
    EpochFinished,
    Event,
    Progress,
)
from worker.training.rivals import Trained
from worker.training.search import Searching
from worker.training.searchevents import TrialStarted
from worker.training.trials import State

RECIPE = Recipe(backbone="tinynet", strategy="scratch", epochs=4, batch_size=6, search=Search(trials=6))


@dataclass
class Clock:
    """Time that passes when it is told to."""

    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


class Interrupted(Recorder):
    """Stops what it is told by after so many events of a kind."""

    def __init__(self, kind: type[Event], after: int) -> None:
        super().__init__()
        self._kind, self._after = kind, after

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if len(self.of(self._kind)) == self._after:
            raise Stopped


@dataclass
class Desk:
    """Where searches are carried out; a training takes as long as its epochs."""

    splits: Splits
    backbone: Backbone
    folder: Path
    epoch_seconds: Callable[[int], float] = lambda _trial: 1.0
    broken: dict[int, Exception] = field(default_factory=dict)
    """What the trial of that number raises."""
    step_seconds: float = 0.0
    idle: tuple[int, ...] = ()
    """Trials that learn nothing."""
    weights: WeightsFile | None = None
    epochs: int = 1000
    """After so many in all the search is asked to end."""
    is_cautious: bool = False
    others: tuple[torch.device, ...] = ()
    """That share the trainings."""

    def space(self, recipe: Recipe) -> Space:
        return space.of(recipe, plan_for(self.splits, recipe), facts_of(self.splits), self.backbone.facts)

    def search(self, told: Recorder, recipe: Recipe = RECIPE, *, within: Space | None = None) -> Trained:
        assert recipe.search is not None
        clock = Clock()

        def emit(event: Event) -> None:
            if isinstance(event, EpochFinished):
                clock.seconds += self.epoch_seconds(told.of(TrialStarted)[-1].number)
            elif isinstance(event, Progress) and event.phase == "train":
                clock.seconds += self.step_seconds
            told(event)

        searching = Searching(
            space=within or self.space(recipe),
            limits=recipe.search,
            splits=self.splits,
            carry_out=self.carry_out,
            fitted=lambda plan: plan,
            estimate=lambda _plan: None,
            folder=self.folder,
            seed=recipe.seed,
            clock=clock,
            began=clock.seconds,
            is_to_end=lambda: len(told.of(EpochFinished)) >= self.epochs,
            is_cautious=self.is_cautious,
            emit=emit,
        )
        return search.search(searching, trials.load(self.folder) or State(fingerprint="", costs=None))

    def carry_out(self, plan: Plan, folder: Path, emit: Emit) -> Trained:
        number = int(folder.name.rpartition("-")[2])
        if number in self.broken:
            raise self.broken[number]
        if number in self.idle:
            assert plan.descent is not None
            plan = replace(plan, descent=replace(plan.descent, learning_rate=1e-9))
        return strategies.train(
            self.splits,
            plan,
            backbone=self.backbone,
            weights=self.weights,
            feature_cache=self.folder.with_name("features"),
            workdir=folder,
            max_pixels=samples.MAX_PIXELS,
            max_activation_bytes=10**9,
            emit=emit,
            device=samples.CPU,
            others=self.others,
        )


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(20), LABELS, train=0.6, seed=0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return small("tinynet", AT_32)


@pytest.fixture
def desk(splits: Splits, backbone: Backbone, tmp_path: Path) -> Desk:
    return Desk(splits, backbone, tmp_path / "search")
