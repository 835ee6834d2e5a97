"""Near copies of an image, which cross-validation keeps in one fold: they would judge what has learnt them by heart."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.datasets import store
from app.datasets.store import Item
from app.recipe import Recipe
from tests.training import samples
from tests.training.samples import MemoryImages, Recorder
from tests.training.test_profile import BACKBONE, measure
from tests.training.test_ranking import SEEING, rank
from tests.training.test_strategies import plan_for, train, weights_of
from worker.splits import splits_of
from worker.training import depths, probe, stage_probe
from worker.training.data import Joined, Relabelled, Selection, Splits
from worker.training.events import FeaturesSelected, ProbeFitted, StageChosen
from worker.training.features import HEAD, Features
from worker.training.stage_probe import Fitted, Grid

EACH = 3
Noise = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]
"""Features, targets and groups."""
GRID = Grid(l2=(1e-3, 1e-2), folds=3, shares=(0.5, 1.0))
CHANCE = 0.75
"""Of two labels that nothing tells apart, no classifier is right for as many of some dozen images."""


@dataclass(frozen=True)
class Copied(MemoryImages):
    """Images that follow one another so many at a time as near copies."""

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.arange(len(self)) // EACH


@pytest.fixture(scope="module")
def noise() -> Noise:
    """Features, targets and groups of images with labels that nothing tells, each of them `EACH` times."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), EACH)
    return rng.normal(size=(40, 200)).astype(np.float32)[groups], groups % 2, groups


@pytest.fixture(scope="module")
def copied() -> Splits:
    """Photos with labels that nothing tells, each of them `EACH` times, nearly the same."""
    red = samples.colours(40, seed=5)[:40]
    files = [(file + bytes(copy), place % 2) for place, (file, _) in enumerate(red) for copy in range(EACH)]
    train = samples.images(files)
    return Splits(("red", "blue"), Copied(train.files, train.targets), samples.images(samples.colours(2)))


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_near_copies_come_into_one_fold_and_classes_stay_spread(folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, groups = rng.integers(0, 3, 120), rng.integers(0, 50, 120)
    fold_of = probe.assign_folds(targets, folds=folds, seed=seed, groups=groups)

    assert set(fold_of.tolist()) == set(range(folds))
    for target in range(3):
        of_class = targets == target
        for group in np.unique(groups[of_class]):
            assert len(set(fold_of[of_class & (groups == group)].tolist())) == 1
        largest = max(Counter(groups[of_class].tolist()).values())
        sizes = np.bincount(fold_of[of_class], minlength=folds)
        assert sizes.max() - sizes.min() <= largest


def test_where_none_is_a_copy_the_folds_are_those_of_images_without_groups() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 50)
    expected = probe.assign_folds(targets, folds=4, seed=2)
    assert np.array_equal(expected, probe.assign_folds(targets, folds=4, seed=2, groups=rng.permutation(50)))


def test_classes_of_few_groups_do_not_all_land_in_the_first_folds() -> None:
    targets = np.repeat(np.arange(5), 10)
    fold_of = probe.assign_folds(targets, folds=5, seed=0, groups=np.arange(50) // 5)
    assert np.bincount(fold_of).tolist() == [10] * 5


def test_a_class_of_nothing_but_copies_is_in_all_folds() -> None:
    targets = np.repeat([0, 1], (10, 8))
    groups = np.where(targets == 0, 7, np.arange(18) + 10)
    fold_of = probe.assign_folds(targets, folds=5, seed=0, groups=groups)
    assert np.bincount(fold_of[targets == 0]).tolist() == [2] * 5


def test_a_penalty_is_not_chosen_by_copies(
    noise: Noise,
) -> None:
    values, targets, groups = noise
    told = Recorder()
    found = probe.fit(values, targets, classes=2, l2_grid=(1e-3, 1.0), folds=5, seed=0, emit=told, groups=groups)
    assert found.l2 == 1.0
    assert all(tried.accuracy < CHANCE for tried in found.tried)


def test_the_figures_of_a_depth_and_the_curve_are_not_those_of_copies(
    noise: Noise,
) -> None:
    values, targets, groups = noise
    emit = Recorder()
    whole = depths.linear(values, targets, seed=0, emit=emit, groups=groups)
    (depth,) = depths.measure({HEAD: values}, targets, seed=0, emit=emit, groups=groups)
    points = depths.curve(values, targets, whole, seed=0, emit=emit, groups=groups)
    together = depths.together({"low": values, HEAD: values}, targets, seed=0, emit=emit, groups=groups)

    for found in (whole, depth.probe, together, *(point.probe for point in points)):
        assert found.accuracy < CHANCE
    assert depths.linear(values, targets, seed=0, emit=emit).accuracy > 0.9


@pytest.mark.parametrize("fit", [stage_probe.fit_best, stage_probe.fit_selected])
def test_stages_are_not_compared_by_copies(noise: Noise, fit: Callable[..., Fitted]) -> None:
    values, targets, groups = noise
    found = Features(values, values[:0], {"low": slice(0, 100), HEAD: slice(100, 200)})
    told = Recorder()
    fit(found, targets, classes=2, grid=GRID, seed=0, emit=told, groups=groups)
    tried = [*(one for event in told.of(StageChosen) for one in event.tried)] or told.of(FeaturesSelected)[0].tried
    assert all(one.accuracy < CHANCE for one in tried)


def test_profiles_rankings_and_trainings_know_the_copies(copied: Splits, tmp_path: Path) -> None:
    found = measure(copied, tmp_path)
    probes = [depth.probe for depth in (*found.depths, *found.random)] + [found.together]
    assert max(figures.accuracy for figures in probes) < CHANCE
    (ranked,) = rank(copied, tmp_path, SEEING).measured
    assert ranked.probe.accuracy < CHANCE
    for strategy in ("head", "stage_probe"):
        told = Recorder()
        recipe = Recipe(backbone=BACKBONE.name, strategy=strategy, stage="best" if strategy == "stage_probe" else None)
        train(copied, plan_for(copied, recipe), BACKBONE, weights_of(BACKBONE, tmp_path), tmp_path, told)
        found_by = [one.accuracy for event in told.of(ProbeFitted) for one in event.tried]
        found_by += [one.accuracy for event in told.of(StageChosen) for one in event.tried]
        assert 0 < max(found_by) < CHANCE


def test_copies_stay_such_where_images_are_chosen_relabelled_or_joined() -> None:
    images = Copied(tuple(map(bytes, range(9))), np.zeros(9, np.int64))
    chosen = Selection(images, np.array([8, 1, 0, 7]))
    assert chosen.groups.tolist() == [2, 0, 0, 2]
    assert Relabelled(chosen, np.array([3])).groups.tolist() == [2, 0, 0, 2]
    first, second = np.split(Joined((chosen, images)).groups, [4])
    assert (first[0], first[1]) == (first[3], first[2])
    assert not {*first.tolist()} & {*second.tolist()}
    assert [second.tolist().count(one) for one in second] == [EACH] * 9


def test_the_images_of_a_version_know_their_near_copies(tmp_path: Path) -> None:
    hashes = [0, 1 << 50, (1 << 64) - 1, 3, (1 << 64) - 3]
    items = [
        Item(f"item_{place}", f"{label}/{place}.jpg", label, "train", f"{place:064x}", found, "JPEG", 8, 8, 3)
        for place, (label, found) in enumerate([*(("a", one) for one in hashes), ("b", 0), ("b", 1)])
    ]
    store.append(tmp_path / "t.lance", [(item, b"...") for item in items], versions=[], tag="v1-a", folder=tmp_path)
    groups = splits_of(tmp_path / "t.lance", "v1-a").train.groups.tolist()

    assert groups[0] == groups[1] == groups[3]
    assert groups[2] == groups[4] != groups[0]
    assert groups[5] == groups[6]
