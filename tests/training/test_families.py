"""Whole trainings of a network of each family end alike, whatever else the process does and where they are stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.backbones import catalogue
from app.backbones.preprocess import Preprocessing
from app.recipe import Recipe
from tests.backbones import samples as networks
from tests.training import samples
from tests.training.fitted import equal
from tests.training.layered import FAMILIES, LABELS, OF_EACH_FAMILY
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import plan_for, small, train
from worker.training.data import Splits
from worker.training.events import Progress, Resumed, StartKept, WeightsMixed

FILES = samples.colours(3)
SPLITS = Splits(LABELS, samples.images([*FILES[:2], *FILES[3:5]]), samples.images([FILES[2], FILES[5]]))


def test_each_family_of_the_catalogue_and_each_auxiliary_head_is_tested() -> None:
    backbones = catalogue.backbones().values()
    assert {catalogue.find(name).family for name in OF_EACH_FAMILY} == {one.family for one in backbones}
    with_heads = {name for name in networks.REPRESENTATIVES if catalogue.find(name).auxiliary}
    assert {"googlenet", "inception_v1", "inception_v3"} == with_heads
    assert with_heads <= {*OF_EACH_FAMILY}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_recipe_gives_the_same_weights_twice_also_where_the_training_is_interrupted(
    name: str, tmp_path: Path
) -> None:
    size = networks.images(catalogue.find(name)).shape[-1]
    backbone = small(name, Preprocessing(resize=size, crop=size, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)))
    steps: dict[str, Any] = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "weight_decay": 0.0}
    plan = plan_for(SPLITS, Recipe(backbone=name, strategy="scratch", seed=3, **steps))
    # Large networks would spend most of their time on checkpoints that nobody needs.
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "work").write_text("no folder")
    torch.manual_seed(1)
    whole = train(SPLITS, plan, backbone, None, tmp_path / "whole").classifier.state()
    torch.manual_seed(2)
    with pytest.raises(Stopped):
        train(SPLITS, plan, backbone, None, tmp_path / "parts", Recorder(Progress("train", 2, 4)))
    told = Recorder()
    rest = train(SPLITS, plan, backbone, None, tmp_path / "parts", told).classifier.state()

    assert told.of(Resumed) == [Resumed(0, 1)]
    assert equal(rest, whole)
    # In test_layers: that each stage learns by a step.
    assert [event for event in told.events if isinstance(event, StartKept | WeightsMixed)] == []
