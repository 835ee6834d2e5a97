"""Features that are read in chunks: the same classifiers as of features in memory, in memory that does not grow."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.plan import MAX_CROSS_VALIDATED
from tests.training.probed import Features, blobs, fit
from tests.training.samples import Recorder
from tests.training.test_stage_probe import depths
from worker.forkserver import Forkserver
from worker.training import probe, regression, stage_probe
from worker.training.events import FeaturesSelected
from worker.training.stage_probe import Fitted, Grid

MIB = 2**20
MANY = 160_000
"""Enough that what the libraries keep for themselves (some 30 MiB) does not count."""
CLASSES, CLASSES_SIZE = 300, 200
GRID = (1e-2, 1e-1, 1.0)


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "MAX_BYTES", 0)
    monkeypatch.setattr(regression, "_CHUNK_VALUES", 1000)
    monkeypatch.setattr(regression, "_SLOPE_VALUES", 700)


@dataclass(frozen=True)
class Watched:
    """Features that note how many rows are asked for at once."""

    values: Features
    asked: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.values[key]
        self.asked.append(len(found))
        return found


def agrees(one: Features, other: Features) -> bool:
    return bool(np.abs(one - other).max() <= 1e-5 * np.abs(other).max())


@pytest.mark.parametrize(("count", "size", "classes"), [(200, 20, 2), (333, 20, 5), (150, 60, 3)])
def test_features_in_chunks_have_the_classifier_of_those_in_memory(
    count: int, size: int, classes: int, request: pytest.FixtureRequest
) -> None:
    features, targets = blobs(count, size, classes)
    features[:, 3] = 7.0
    whole = fit(features, targets, classes=classes, l2_grid=GRID)
    request.getfixturevalue("in_chunks")
    watched = Watched(features)
    found = fit(watched, targets, classes=classes, l2_grid=GRID)  # type: ignore[arg-type]
    assert max(watched.asked[:2]) == min(count, 1000 // size)
    assert agrees(found.weight, whole.weight)
    assert agrees(found.bias, whole.bias)
    assert found.l2 == whole.l2
    assert [one.log_loss for one in found.tried] == pytest.approx([one.log_loss for one in whole.tried], rel=1e-6)


def test_a_path_of_features_in_chunks_is_that_of_those_in_memory(request: pytest.FixtureRequest) -> None:
    features, targets = blobs(200, 20, 3)
    whole = probe.path(features, targets, classes=3, l2_grid=(1e-2, 1.0), emit=Recorder())
    request.getfixturevalue("in_chunks")
    found = probe.path(features, targets, classes=3, l2_grid=(1e-2, 1.0), emit=Recorder())
    assert all(agrees(one.weight, other.weight) for one, other in zip(found, whole, strict=True))


def test_the_spread_of_features_in_chunks_is_that_of_those_in_memory(request: pytest.FixtureRequest) -> None:
    features, _ = blobs(200, 20, 3)
    expected = regression.spread(features), regression.typical_spread(features)
    request.getfixturevalue("in_chunks")
    assert regression.spread(features) == pytest.approx(expected[0], rel=1e-5)
    assert regression.typical_spread(features) == pytest.approx(expected[1], rel=1e-6)


def test_of_features_in_chunks_the_same_are_selected(request: pytest.FixtureRequest) -> None:
    found, targets = depths(300, telling="late")
    grid = Grid(l2=(1e-2, 1.0), folds=3, shares=(0.03, 0.3, 1.0))

    def select() -> tuple[Fitted, FeaturesSelected]:
        told = Recorder()
        fitted = stage_probe.fit_selected(found, targets, classes=3, grid=grid, seed=0, emit=told)
        return fitted, told.of(FeaturesSelected)[0]

    whole, told_of_whole = select()
    request.getfixturevalue("in_chunks")
    fitted, told = select()
    assert np.array_equal(fitted.columns, whole.columns)  # type: ignore[arg-type]
    assert agrees(fitted.linear.weight, whole.linear.weight)
    assert told.stages == told_of_whole.stages


def test_no_more_images_than_are_cross_validated_are_asked_for_at_once(in_chunks: None) -> None:
    count = 2 * MAX_CROSS_VALIDATED
    features, targets = blobs(count, 4, 2)
    watched = Watched(features)
    fit(watched, targets, classes=2, l2_grid=(0.1, 1.0), folds=2)  # type: ignore[arg-type]
    assert sorted(watched.asked)[-2:] == [1000 // 4, MAX_CROSS_VALIDATED]


def peak_of_fit(max_bytes: int) -> float:
    """By how many MiB this process grew at most while a classifier was fitted with this limit of what is held."""
    regression.MAX_BYTES, regression._CHUNK_VALUES, regression.MAX_STEPS = max_bytes, 2**17, 3
    features, targets = blobs(MANY, 64, 2)
    fit(features[:500], targets[:500], classes=2, l2_grid=[1.0])
    Path("/proc/self/clear_refs").write_text("5")  # from now on the peak is counted anew
    before = _kib("VmRSS")
    fit(features, targets, classes=2, l2_grid=[1.0])
    return (_kib("VmHWM") - before) / 1024


def peak_of_many_classes() -> float:
    """By how many MiB this process grew at most while a penalty was chosen for them."""
    features, targets = blobs(600, CLASSES_SIZE, CLASSES)
    fit(features[:100], targets[:100] % 3, classes=3, l2_grid=GRID, folds=5)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kib("VmRSS")
    fit(features, targets, classes=CLASSES, l2_grid=GRID, folds=5)
    return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell of peaks")
def test_the_memory_of_many_features_does_not_grow_with_them(forkserver: Forkserver) -> None:
    doubles = 8 * MANY * 64 / MIB
    # In processes of their own: one that has done other things has memory left from them.
    peaks = []
    for max_bytes in (regression.MAX_BYTES, 8 * MIB):
        with ProcessPoolExecutor(1, mp_context=forkserver.context) as pool:
            peaks.append(pool.submit(peak_of_fit, max_bytes).result())
    assert peaks[0] > doubles
    assert peaks[1] < doubles / 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell of peaks")
def test_folds_of_many_classes_do_not_take_their_memory_all_at_once(forkserver: Forkserver) -> None:
    weights = 8 * CLASSES * CLASSES_SIZE / MIB
    with ProcessPoolExecutor(1, mp_context=forkserver.context) as pool:
        assert pool.submit(peak_of_many_classes).result() < 130 * weights
