"""Trainings of whole networks that are interrupted end as if nothing had happened."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.fitted import (
    DESCENT,
    MID_EPOCH,
    OPTIONS,
    interrupt,
    learns,
    run,
    same,
    splits,
)
from worker.training import checkpoint
from worker.training.data import Splits
from worker.training.events import (
    CheckpointSaved,
    Event,
    Progress,
    Resumed,
)

__all__ = ["splits"]  # a fixture


def test_a_training_leaves_the_random_numbers_of_others_alone(splits: Splits, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(splits, tmp_path, descent=replace(DESCENT, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop_at", [CheckpointSaved(1), CheckpointSaved(3), MID_EPOCH])
@pytest.mark.parametrize("backbone", ["tinynet", "mobilenet_v3_small"])
def test_an_interrupted_training_ends_as_if_nothing_had_happened(
    splits: Splits, backbone: str, stop_at: Event, tmp_path: Path
) -> None:
    whole = run(splits, tmp_path / "whole", backbone=backbone)
    interrupt(splits, tmp_path / "parts", stop_at, backbone=backbone)
    rest = run(splits, tmp_path / "parts", backbone=backbone)
    finished, step = (stop_at.epoch, 0) if isinstance(stop_at, CheckpointSaved) else (2, 2)
    assert rest.told.of(Resumed) == [Resumed(finished, step)]
    assert rest.epochs == whole.epochs[finished:]
    assert learns(whole, backbone=backbone)
    assert same(rest, whole)


def test_a_training_may_be_interrupted_over_and_over(splits: Splits, tmp_path: Path) -> None:
    whole = run(splits, tmp_path / "whole")
    for epoch in (1, 2, 3, 4):
        interrupt(splits, tmp_path / "parts", CheckpointSaved(epoch))
    assert same(run(splits, tmp_path / "parts"), whole)


def test_nothing_is_trained_where_all_epochs_are_finished(splits: Splits, tmp_path: Path) -> None:
    whole = run(splits, tmp_path)
    again = run(splits, tmp_path)
    assert again.told.events == [Resumed(4, 0)]
    assert same(again, whole)


def test_the_checkpoint_of_another_training_is_not_gone_on_with(splits: Splits, tmp_path: Path) -> None:
    run(splits, tmp_path / "used", seed=9, fingerprint="another")
    fresh, after = run(splits, tmp_path / "fresh"), run(splits, tmp_path / "used")
    assert after.told.of(Resumed) == []
    assert same(after, fresh)


@pytest.mark.parametrize("damaged", ["last-*.safetensors", "best-*.safetensors", "checkpoint.json"])
def test_a_training_with_a_damaged_checkpoint_begins_anew(splits: Splits, damaged: str, tmp_path: Path) -> None:
    # With patience, the best epoch is kept besides the last one.
    descent = replace(DESCENT, patience=9)
    whole = run(splits, tmp_path / "whole", descent=descent)
    interrupt(splits, tmp_path / "parts", CheckpointSaved(2), descent=descent)
    (path,) = (tmp_path / "parts").glob(damaged)
    os.truncate(path, path.stat().st_size // 2)
    again = run(splits, tmp_path / "parts", descent=descent)
    assert again.told.of(Resumed) == []
    assert same(again, whole)


def test_an_interruption_within_an_epoch_loses_no_step(splits: Splits, tmp_path: Path) -> None:
    interrupt(splits, tmp_path, MID_EPOCH)
    found = checkpoint.load(tmp_path, fingerprint="one")
    assert found is not None
    assert (found.position.epochs, found.position.steps) == (2, 2)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_interrupted_training_with_options_ends_as_if_nothing_had_happened(
    splits: Splits, options: dict[str, Any], tmp_path: Path
) -> None:
    descent = replace(DESCENT, epochs=3, **options)
    stop_at = Progress("train", 18 + 12, 3 * 18)
    whole = run(splits, tmp_path / "whole", descent=descent)
    interrupt(splits, tmp_path / "parts", stop_at, descent=descent)
    assert learns(whole)
    assert same(run(splits, tmp_path / "parts", descent=descent), whole)
