"""The profile of a version: known answers, the figures of scikit-learn, and what must change nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import nn

from app import errors
from app.backbones import classifier as classifiers
from app.plan import L2_GRID
from app.profile import HEAD, Costs, Profile
from tests.training import samples
from tests.training.probed import blobs
from tests.training.samples import MemoryImages, Recorder, Stopped
from tests.training.test_strategies import AT_32, small, weights_of
from worker.training import depths, probe, profile
from worker.training.data import Selection, Splits
from worker.training.events import FeaturesReady, Profiled, Progress

LABELS = ("red", "blue")
BACKBONE = small("timm:test_resnet", AT_32)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the weights, and a cache of features that the tests share."""
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def told() -> Recorder:
    """What `found` told."""
    return Recorder()


@pytest.fixture(scope="module")
def found(splits: Splits, folder: Path, told: Recorder) -> Profile:
    """The profile of `splits`, measured once."""
    return measure(splits, folder, told)


def measure(splits: Splits, folder: Path, emit: Recorder | None = None) -> Profile:
    return profile.measure(
        splits,
        backbone=BACKBONE,
        weights=weights_of(BACKBONE, folder),
        feature_cache=folder / "features",
        max_pixels=samples.MAX_PIXELS,
        seed=0,
        emit=emit or Recorder(),
        device=samples.CPU,
    )


def without_costs(found: Profile) -> Profile:
    """The part that has nothing to do with the clock."""
    return replace(found, costs=COSTS)


COSTS = Costs(decode=0, forward=0, step=0, device="cpu", threads=1)


def noise(count: int, size: int, *, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


@pytest.mark.parametrize(("count", "size", "classes"), [(150, 12, 3), (60, 90, 2)])
def test_the_figures_of_a_probe_are_those_of_scikit_learns_cross_validation(
    count: int, size: int, classes: int
) -> None:
    features, targets = blobs(count, size, classes)
    standardised = StandardScaler().fit_transform(features.astype(np.float64))
    folds = PredefinedSplit(probe.assign_folds(targets, folds=5, seed=4))
    expected = []
    for l2 in L2_GRID:
        strength = (2 if classes == 2 else 1) / (l2 * count * 0.8)
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
        found = cross_val_predict(model, standardised, targets, cv=folds, method="predict_proba")
        expected.append((log_loss(targets, found), float((found.argmax(axis=1) == targets).mean())))
    least, accuracy = min(expected)
    measured = depths.linear(features, targets, seed=4, emit=Recorder())

    assert measured.log_loss == pytest.approx(least, rel=5e-3, abs=2e-2)
    assert measured.accuracy == pytest.approx(accuracy, abs=1.5 / count)
    assert measured.error == pytest.approx(np.sqrt(measured.accuracy * (1 - measured.accuracy) / count))


def test_what_is_held_out_is_judged_by_the_penalty_that_fits_it_best() -> None:
    features, targets = blobs(90, 8, 3)
    arguments = {"classes": 3, "l2_grid": L2_GRID, "folds": 5, "seed": 2, "emit": Recorder()}
    held = probe.cross_validate(features, targets, **arguments)  # type: ignore[arg-type]
    fitted = probe.fit(features, targets, **arguments)  # type: ignore[arg-type]
    (tried,) = (one for one in fitted.tried if one.l2 == held.l2)

    assert held.l2 == fitted.l2
    assert (held.accuracy, held.log_loss) == pytest.approx((tried.accuracy, tried.log_loss), rel=1e-3)
    assert (held.predicted == targets).mean() == held.accuracy


def test_the_depth_whose_features_part_the_labels_stands_out() -> None:
    targets = np.arange(80) % 2
    parted = noise(80, 6) + 6 * (2 * targets[:, None] - 1).astype(np.float32)
    low, middle, head = depths.measure(
        {"low": noise(80, 5, seed=2), "middle": parted, HEAD: noise(80, 7, seed=3)}, targets, seed=0, emit=Recorder()
    )

    assert (middle.name, middle.features, middle.probe.accuracy, middle.neighbours) == ("middle", 6, 1.0, 1.0)
    assert middle.probe.error == 0.0
    for other in (low, head):
        assert other.probe.accuracy < 0.7
        assert (other.log_me, other.h_score) < (middle.log_me, middle.h_score)
    assert (
        depths.together({"low": noise(80, 5, seed=2), "middle": parted}, targets, seed=0, emit=Recorder()).accuracy
        > 0.95
    )


def test_random_labels_are_guessed_as_well_as_by_chance() -> None:
    targets = np.random.default_rng(5).permutation(np.arange(400) % 4)
    found = depths.linear(noise(400, 30), targets, seed=0, emit=Recorder())

    assert abs(found.accuracy - 0.25) < 4 * found.error
    assert found.log_loss == pytest.approx(np.log(4), rel=0.03)


def test_the_learning_curve_rises_while_data_is_short_and_ends_with_the_whole() -> None:
    features, targets = blobs(400, 40, 4, apart=0.35)
    whole = depths.linear(features, targets, seed=0, emit=Recorder())
    points = depths.curve(features, targets, whole, seed=0, emit=Recorder())

    assert [point.images for point in points] == [100, 200, 400]
    assert points[-1].probe == whole
    losses = [point.probe.log_loss for point in points]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(("smallest", "expected"), [(2, ()), (3, (0.5,)), (6, (0.25, 0.5)), (100, (0.25, 0.5))])
def test_the_learning_curve_begins_where_every_label_keeps_two_images(
    smallest: int, expected: tuple[float, ...]
) -> None:
    assert depths.shares(np.repeat([0, 1], [100, smallest])) == expected


def test_a_profile_has_every_depth_of_both_networks_and_its_costs(found: Profile, told: Recorder) -> None:
    stages = [stage.name for stage in BACKBONE.stages]

    for group in (found.depths, found.random):
        names = [depth.name for depth in group]
        assert names[-1] == HEAD
        assert names[:-1] == stages[: len(names) - 1]
    assert (found.classes, found.images, found.smallest_class, found.largest_class, found.measured) == (2, 18, 9, 9, 18)
    assert (found.random_images, found.reference) == (18, ())
    assert (found.measured_labels, found.random_labels, found.costs.labels) == (None, None, 1.0)
    assert found.curve[-1].probe == found.depth(HEAD).probe
    assert [point.images for point in found.random_curve] == [point.images for point in found.curve]
    assert found.random_curve[-1].probe == found.random[-1].probe
    assert found.random_together not in (None, found.together)
    assert found.costs.decode > 0
    assert found.costs.forward > 0
    assert found.costs.step > 0
    assert found.costs.load > 0
    assert (found.costs.device, found.costs.threads) == ("cpu", torch.get_num_threads())
    assert found.costs.measured == found.measured
    assert min(found.costs.probe, found.costs.together) > 0
    assert found.costs.probes > found.costs.probe
    (summary,) = told.of(Profiled)
    assert summary.accuracy == found.depth(HEAD).probe.accuracy
    assert summary.random_accuracy == max(depth.probe.accuracy for depth in found.random)
    steps = [event for event in told.of(Progress) if event.phase == "measure"]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert 0 < steps[-1].done < steps[-1].total


def test_the_validation_images_change_no_figure_and_features_are_kept_for_the_next_time(
    splits: Splits, folder: Path, found: Profile
) -> None:
    swapped = replace(splits, validation=samples.swapped(splits.validation))
    again = Recorder()
    assert without_costs(measure(swapped, folder, again)) == without_costs(found)
    assert [ready.cached for ready in again.of(FeaturesReady)] == [True, True]

    other = replace(splits, validation=samples.images(samples.colours(5, seed=9)))
    for one, same in zip(measure(other, folder).depths, found.depths, strict=True):
        # Computed in other batches, which rounds otherwise.
        assert one.probe.log_loss == pytest.approx(same.probe.log_loss, rel=1e-3)


def test_the_untrained_network_looks_at_a_sample_that_the_trained_one_is_compared_on(
    splits: Splits, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "RANDOM_IMAGES", 8)
    found = measure(splits, folder)

    assert found.random_images == found.random_curve[-1].images == 8
    assert [depth.name for depth in found.reference] == [depth.name for depth in found.depths]
    assert found.reference != found.depths


def test_of_very_many_images_a_sample_is_measured(
    splits: Splits, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths, "MAX_MEASURED", 10)
    found = measure(splits, folder)

    assert (found.images, found.measured, found.curve[-1].images) == (18, 10, 10)


@pytest.mark.parametrize(
    ("counts", "labels", "images"),
    [
        ([30] * 4, 4, 100),  # as many labels as fit with twenty of each, and the images shared among them
        ([750] * 101, 5, 100),
        ([3] * 200, 33, 99),  # labels that have fewer images fit more often
        ([500, *[2] * 40], 41, 166),  # those with few images keep two
        ([400, 400, *[30] * 3], 5, 99),
        ([400, 400, *[30] * 4], 5, 157),  # but those of labels that are drawn have twenty
        ([90] * 2, 2, 100),
    ],
)
def test_a_sample_is_of_so_many_labels_that_each_has_enough_images(counts: list[int], labels: int, images: int) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    rows = depths.sample(targets, size=100, seed=3)

    assert (len(np.unique(targets[rows])), len(rows)) == (labels, images)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert depths.drawn_labels(targets, rows) == (labels if labels < len(counts) else None)
    assert np.bincount(targets[rows])[np.unique(targets[rows])].min() >= 2
    others = [np.unique(targets[depths.sample(targets, size=100, seed=seed)]).tolist() for seed in range(5)]
    assert all(other == others[0] for other in others) == (labels == len(counts))


def test_features_that_tell_many_labels_apart_are_known_to_where_few_images_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(depths, "MAX_MEASURED", 200)
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(100), 40)
    values = (rng.normal(size=(100, 32))[targets] + rng.normal(size=(4000, 32))).astype(np.float32)
    rows = depths.measurable(targets, seed=0)
    found = depths.linear(values[rows], depths.numbered(targets[rows]), seed=0, emit=Recorder())

    # With all images of all labels it is 97 %, with two of each label 31 %.
    assert found.accuracy > 0.9


def test_a_profile_of_drawn_labels_says_so(splits: Splits, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = replace(
        splits,
        train=samples.images(
            [(samples.plain((40 * label, 90, 200 - 40 * label)), label) for label in range(6) for _ in range(6)]
        ),
        labels=tuple("abcdef"),
    )
    monkeypatch.setattr(depths, "MAX_MEASURED", 24)
    monkeypatch.setattr(depths, "EACH", 6)
    monkeypatch.setattr(profile, "RANDOM_IMAGES", 12)
    found = measure(several, folder)

    assert (found.classes, found.images, found.measured, found.measured_labels) == (6, 36, 24, 4)
    assert (found.random_images, found.random_labels) == (12, 2)
    assert found.costs.labels == 1.5


def test_a_label_with_a_single_image_is_counted_and_left_out(splits: Splits, folder: Path, found: Profile) -> None:
    files = [*zip(splits.train.read(range(18)), splits.train.targets.tolist(), strict=True)]
    lonely = Splits((*LABELS, "lonely"), samples.images([(samples.plain((9, 9, 9)), 2), *files]), splits.validation)
    other = measure(lonely, folder)

    assert (other.classes, other.images, other.smallest_class, other.measured) == (3, 19, 1, 18)
    for one, same in zip(other.depths, found.depths, strict=True):
        assert one.probe.log_loss == pytest.approx(same.probe.log_loss, rel=1e-3)


def test_two_labels_with_two_images_are_enough_and_fewer_are_refused(splits: Splits, folder: Path) -> None:
    def first(*counts: int) -> Splits:
        places = [np.flatnonzero(splits.train.targets == target)[:count] for target, count in enumerate(counts)]
        return replace(splits, train=Selection(splits.train, np.concatenate(places)))

    found = measure(first(2, 2), folder)
    assert (found.measured, len(found.curve)) == (4, 1)
    with pytest.raises(errors.Invalid) as refusal:
        measure(first(3, 1), folder)
    assert refusal.value.code == "too_few_images"


def test_what_is_raised_to_stop_comes_out_at_once(splits: Splits, folder: Path, found: Profile, told: Recorder) -> None:
    assert found.measured == 18
    halfway = next(event for event in told.of(Progress) if event.phase == "measure" and event.done > 0)
    with pytest.raises(Stopped):
        measure(splits, folder, Recorder(stop_at=halfway))


def test_the_untrained_networks_norms_get_the_statistics_of_the_images(splits: Splits, folder: Path) -> None:
    asked = profile._Measuring(
        splits, BACKBONE, weights_of(BACKBONE, folder), folder, samples.MAX_PIXELS, 0, Recorder(), samples.CPU
    )
    network = classifiers.build(BACKBONE, 2, state=None, seed=0)
    profile._measure_statistics(asked, network, splits.train)
    seen: list[torch.Tensor] = []
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        network.features(torch.cat([samples.seen(file, AT_32) for file in splits.train.read(range(18))]))

    assert not network.training
    assert float(seen[0].mean()) == pytest.approx(0, abs=0.02)
    assert float(seen[0].std()) == pytest.approx(1, abs=0.05)


def test_a_selection_is_the_images_at_its_positions() -> None:
    images = MemoryImages((b"a", b"b", b"c"), np.array([0, 1, 2]))
    chosen = Selection(images, np.array([2, 0]))

    assert (len(chosen), chosen.read([0, 1]), chosen.targets.tolist()) == (2, [b"c", b"a"], [2, 0])
    assert chosen.sha256 == (images.sha256[2], images.sha256[0])
