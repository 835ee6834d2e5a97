"""None"""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from app.plan import MAX_CROSS_VALIDATED
from tests.training.probed import (
    GRID,
    Features,
    Targets,
    blobs,
    fit,
    probabilities,
    reference,
    standardised,
)
from tests.training.samples import Recorder
from worker.training import probe
from worker.training import regression as regressions
from worker.training.crossvalidation import Judged
from worker.training.events import PenaltyTried, ProbeFitted, Progress
from worker.training.probe import Linear, Prior


@pytest.mark.parametrize("l2", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize(
    ("count", "size", "classes"), [(200, 20, 2), (200, 20, 5), (60, 60, 3), (30, 80, 2), (40, 100, 4)]
)
def test_the_solution_is_that_of_scikit_learn(count: int, size: int, classes: int, l2: float) -> None:
    features, targets = blobs(count, size, classes)
    found = fit(features, targets, classes=classes, l2_grid=[l2])
    expected = reference(features, targets, classes=classes, l2=l2)
    largest = np.abs(expected.weight).max()
    assert found.weight / largest == pytest.approx(expected.weight / largest, rel=0, abs=2e-5)
    # The bias gathers the rounding of all weights times the places of their features.
    assert found.bias == pytest.approx(expected.bias, rel=1e-4, abs=1e-4)
    assert probabilities(features, found) == pytest.approx(probabilities(features, expected), rel=0, abs=1e-5)


@pytest.mark.parametrize(("count", "size", "classes"), [(200, 20, 5), (30, 80, 2), (40, 100, 4)])
def test_with_hardly_any_penalty_the_probabilities_are_those_of_scikit_learn(
    count: int, size: int, classes: int
) -> None:
    features, targets = blobs(count, size, classes)
    found = fit(features, targets, classes=classes, l2_grid=[1e-4])
    expected = reference(features, targets, classes=classes, l2=1e-4)
    assert probabilities(features, found) == pytest.approx(probabilities(features, expected), rel=0, abs=1e-4)


def test_the_solution_has_plain_shapes_and_types() -> None:
    features, targets = blobs(50, 7, 3)
    found = fit(features, targets, classes=3, l2_grid=[0.1])
    assert (found.weight.shape, found.bias.shape) == ((3, 7), (3,))
    assert found.weight.dtype == found.bias.dtype == np.float32
    assert (found.l2, found.tried) == (0.1, ())


@pytest.mark.parametrize("size", [6, 60])
def test_constant_features_get_no_weight_and_change_nothing(size: int) -> None:
    features, targets = blobs(40, size, 3)
    constant = np.array([0.0, 0.1, -1e4], np.float32)
    widened = np.concatenate([features, np.broadcast_to(constant, (40, 3))], axis=1)
    found = fit(widened, targets, classes=3, l2_grid=[0.1])
    alone = fit(features, targets, classes=3, l2_grid=[0.1])
    assert not found.weight[:, size:].any()
    assert found.weight[:, :size] == pytest.approx(alone.weight, rel=1e-4, abs=1e-6)
    assert found.bias == pytest.approx(alone.bias, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("count", [6, 10])
def test_features_that_hardly_differ_among_a_few_images_do_not_outweigh_the_rest_on_others(count: int) -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(count + 200) % 2
    telling = 1.5 * targets[:, None] + rng.normal(size=(len(targets), 20))
    # Channels that answer to something rare: hardly at all in the few images, as strongly as others in the rest.
    rare = np.abs(rng.normal(size=(len(targets), 20)))
    rare[:count] *= 1e-4
    features = np.concatenate([telling, rare], axis=1).astype(np.float32)
    found = fit(features[:count], targets[:count], classes=2, l2_grid=[1e-2], folds=3)
    alone = fit(features[:count, :20], targets[:count], classes=2, l2_grid=[1e-2], folds=3)

    held_out = probabilities(features[count:], found)
    expected = probabilities(features[count:, :20], alone)
    assert (held_out.argmax(axis=1) == targets[count:]).mean() > 0.85
    assert log_loss(targets[count:], held_out) < 1.05 * log_loss(targets[count:], expected)
    assert np.abs(held_out - expected).max() < 0.05


def test_where_all_features_are_constant_the_classes_are_as_frequent_as_in_training() -> None:
    features, targets = np.ones((20, 4), np.float32), np.array([0] * 12 + [1] * 6 + [2] * 2)
    found = fit(features, targets, classes=3, folds=2)
    assert not found.weight.any()
    assert probabilities(features, found)[0] == pytest.approx([0.6, 0.3, 0.1], abs=1e-4)


def test_a_repeated_feature_shares_its_weight() -> None:
    features, targets = blobs(50, 5, 2)
    doubled = np.concatenate([features, features[:, :1]], axis=1)
    found = fit(doubled, targets, classes=2, l2_grid=[0.1])
    expected = reference(doubled, targets, classes=2, l2=0.1)
    assert found.weight[:, 0] == pytest.approx(found.weight[:, 5], rel=1e-4)
    assert found.weight == pytest.approx(expected.weight, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("module", "limit", "value"),
    [
        ("worker.training.regression", "_LOGITS", 100),
        ("worker.training.regression", "_MOST_REMEMBERED_BYTES", 0),
        ("worker.training.crossvalidation", "_SIDE_BY_SIDE", 50),
        # Two folds at a time, and the fifth by itself.
        ("worker.training.crossvalidation", "_SIDE_BY_SIDE", 130),
    ],
)
def test_what_is_computed_at_a_time_does_not_change_what_comes_out(
    module: str, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, targets = blobs(90, 20, 3)
    fold_of = probe.assign_folds(targets, folds=5, seed=0)
    chosen = [np.arange(fold, 20 - fold) for fold in range(5)]
    held = Prior(torch.ones(3, 20) / 9, torch.zeros(3), torch.tensor([2.0, 1.0, 0.0]))

    def solved() -> tuple[list[Linear], list[PenaltyTried]]:
        few = probe.compare_chosen(features, targets, fold_of, chosen, classes=3, l2_grid=GRID, emit=Recorder())
        fitted = [
            probe.fit(features, targets, classes=3, l2_grid=GRID, folds=5, seed=0, emit=Recorder(), prior=prior)
            for prior in (None, held)
        ]
        return fitted, [*fitted[0].tried, *fitted[1].tried, few]

    whole, tried_whole = solved()
    monkeypatch.setattr(f"{module}.{limit}", value)
    found, tried = solved()
    for ours, theirs in zip(found, whole, strict=True):
        assert ours.weight == pytest.approx(theirs.weight, rel=1e-3, abs=1e-5)
    for one, other in zip(tried, tried_whole, strict=True):
        assert (one.l2, one.log_loss) == pytest.approx((other.l2, other.log_loss), rel=5e-3)


def test_the_penalty_with_the_least_loss_is_taken() -> None:
    features, targets = blobs(100, 10, 3)
    told = Recorder()
    found = fit(features, targets, classes=3, emit=told)
    strongest = sorted(GRID, reverse=True)
    assert [tried.l2 for tried in found.tried] == strongest[: len(found.tried)]
    best = min(found.tried, key=lambda tried: tried.log_loss)
    assert found.l2 == best.l2
    assert min(GRID) < best.l2 < max(GRID)
    # Weaker ones than two that did worse are not tried.
    assert len(found.tried) == strongest.index(best.l2) + 3 < len(GRID) + 1
    again = fit(features, targets, classes=3, l2_grid=[best.l2])
    assert found.weight == pytest.approx(again.weight, rel=1e-5, abs=1e-6)
    assert told.of(ProbeFitted) == [ProbeFitted(l2=best.l2, tried=found.tried)]
    assert all(isinstance(tried, PenaltyTried) for tried in found.tried)


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        ([0.5, 0.4, 0.6, 0.5], True),
        ([1.0, -0.9, 0.8, -0.7], False),  # a little worse, but which images are is chance
        ([-0.5, -0.4, -0.6, -0.5], False),
        ([0.0] * 4, False),
        ([0.5], False),
        ([0.5, math.nan], False),
    ],
)
def test_a_penalty_is_clearly_worse_by_more_than_chance(excess: list[float], expected: bool) -> None:
    def judged(losses: torch.Tensor) -> Judged:
        return Judged(1.0, torch.zeros(len(losses)), losses, 0.5)

    other = torch.full((len(excess),), 0.3, dtype=torch.float64)
    worse = other + torch.tensor(excess, dtype=torch.float64)
    assert judged(worse).is_clearly_worse(judged(other)) is expected


def test_the_order_of_the_grid_does_not_matter() -> None:
    features, targets = blobs(60, 8, 2)
    one, other = (fit(features, targets, classes=2, l2_grid=grid) for grid in (GRID, GRID[::-1]))
    assert one.tried == other.tried
    assert np.array_equal(one.weight, other.weight)


def test_a_single_penalty_is_not_cross_validated() -> None:
    features, targets = blobs(30, 4, 2)
    told = Recorder()
    fit(features, targets, classes=2, l2_grid=[3.0], emit=told)
    assert told.events[-1] == ProbeFitted(l2=3.0, tried=())
    assert "probe" not in phases(told)


def phases(told: Recorder) -> set[str]:
    return {event.phase for event in told.of(Progress)}


def test_a_fit_that_goes_on_gives_signs_of_life() -> None:
    features, targets = blobs(60, 8, 3)
    told = Recorder()
    probe.search(features, targets, classes=3, l2_grid=(0.01,), folds=0, seed=0, emit=told)
    passes = told.of(Progress)
    assert phases(told) == {"fit"}
    assert [event.done for event in passes] == list(range(len(passes)))
    assert 3 < len(passes) < passes[0].total == regressions.MAX_STEPS


def test_features_that_are_read_in_chunks_are_told_of_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regressions, "MAX_BYTES", 100)
    monkeypatch.setattr(regressions, "_CHUNK_VALUES", 8 * 16)
    features, targets = blobs(60, 8, 3)
    told = Recorder()
    probe.search(features, targets, classes=3, l2_grid=(0.01,), folds=0, seed=0, emit=told)
    read = [event for event in told.of(Progress) if event.phase == "axes"]
    assert read == [Progress("axes", done, len(features)) for done in range(0, len(features), 16)]


def test_progress_counts_every_penalty_once() -> None:
    features, targets = blobs(30, 4, 2)
    told = Recorder()
    found = fit(features, targets, classes=2, folds=3, emit=told)
    choosing = [event for event in told.of(Progress) if event.phase == "probe"]
    assert [*dict.fromkeys(choosing)] == [Progress("probe", step, len(GRID)) for step in range(len(found.tried))]
    assert len(choosing) > 5 * len(found.tried), "a sign of life for each time that the images are gone through"


def test_the_same_seed_gives_the_same_solution() -> None:
    features, targets = blobs(60, 30, 3)
    one, same, other = (fit(features, targets, classes=3, seed=seed) for seed in (5, 5, 6))
    assert one.tried == same.tried
    assert np.array_equal(one.weight, same.weight)
    assert np.array_equal(one.bias, same.bias)
    assert one.tried != other.tried


def test_the_penalty_for_many_images_is_chosen_on_some_and_the_solution_is_for_all() -> None:
    count = 2 * MAX_CROSS_VALIDATED
    features, targets = blobs(count, 4, 2)
    targets[targets == 1] = np.where(np.arange((targets == 1).sum()) < 3, 2, 1)
    found, same = (fit(features, targets, classes=3, l2_grid=[0.01, 1.0], folds=3) for _ in range(2))
    sampled = MAX_CROSS_VALIDATED + 3 - round(3 / 2)
    for tried in found.tried:
        assert tried.accuracy * sampled == pytest.approx(round(tried.accuracy * sampled), abs=1e-6)
    assert found.tried == same.tried
    best = min(found.tried, key=lambda tried: tried.log_loss)
    assert found.l2 == pytest.approx(best.l2 * sampled / count)  # the same prior
    expected = reference(features, targets, classes=3, l2=found.l2)
    assert probabilities(features, found) == pytest.approx(probabilities(features, expected), rel=0, abs=1e-4)


def prior_of(features: Features, targets: Targets, *, hold: float) -> Prior:
    """The classifier of the first two of three classes, with a new row between them."""
    known = targets < 2
    old = fit(features[known], targets[known], classes=2, l2_grid=(0.1,))
    weight, bias = torch.from_numpy(old.weight), torch.from_numpy(old.bias)
    weight, bias = torch.cat([weight, weight.mean(0, keepdim=True)]), torch.cat([bias, bias.mean(0, keepdim=True)])
    return Prior(weight, bias, torch.tensor([hold, hold, 0.0]))


def extended(features: Features, targets: Targets, prior: Prior, *, l2: float) -> Linear:
    return probe.search(
        features, targets, classes=3, l2_grid=(l2,), folds=0, seed=0, emit=Recorder(), prior=prior
    )  # fmt: skip


def test_rows_that_are_held_tightly_say_of_old_classes_what_they_said_and_a_new_row_is_learnt() -> None:
    features, targets = blobs(120, 6, 3, apart=2.0)
    prior = prior_of(features, targets, hold=1e7)
    found = extended(features, targets, prior, l2=1e-3)
    # A common offset of all biases means nothing.
    shift = found.bias[0] - prior.bias[0].item()
    assert found.weight[:2] == pytest.approx(prior.weight[:2].numpy(), abs=1e-4)
    assert found.bias[:2] - shift == pytest.approx(prior.bias[:2].numpy(), abs=1e-3)
    assert np.abs(found.weight[2] - prior.weight[2].numpy()).max() > 0.01
    hits = (features @ found.weight.T + found.bias).argmax(axis=1) == targets
    assert hits[targets == 2].mean() > 0.8


@pytest.mark.parametrize("chunked", [False, True])
def test_the_solution_with_a_prior_is_where_likelihood_and_pull_balance(
    chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, targets = blobs(90, 5, 3)
    if chunked:
        monkeypatch.setattr("worker.training.regression.MAX_BYTES", 0)
    prior, l2 = prior_of(features, targets, hold=4.0), 0.05
    found = extended(features, targets, prior, l2=l2)
    residual = probabilities(features, found) - np.eye(3)[targets]
    scale = standardised(features).scale_
    pull = l2 * np.array([[4.0], [4.0], [1.0]]) * (found.weight - prior.weight.numpy()) * scale
    standard = standardised(features).transform(features.astype(np.float64))
    assert residual.T @ standard / 90 == pytest.approx(-pull, abs=1e-5)
