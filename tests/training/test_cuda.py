"""What can be seen on a GPU alone: every strategy trains there, in half precision, and in whatever memory it has."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.augmentation import Augmentation, AugmentationPolicy
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.preprocess import Preprocessing
from app.backbones.weights import WeightsFile
from app.recipe import Recipe
from tests.training import samples
from tests.training.fitted import DESCENT
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import AT_64, LABELS, plan_for, small, weights_of
from worker.training import batchviews, calibrate, evaluate, fit, keptfeed, precision, profile, strategies
from worker.training.data import Splits
from worker.training.events import BatchSplit, EpochFinished, ImagesNotKept, Progress
from worker.training.feed import ImageFeed
from worker.training.fitting import Fitting
from worker.training.learner import Criterion, Learner
from worker.training.rivals import Trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

GPU = torch.device("cuda", 0)
EVERYTHING = Augmentation(policy="trivial", erasing=0.3, mixup=0.2, cutmix=0.5)
SETTINGS: dict[str, dict[str, Any]] = {
    "head": {"strategy": "head"},
    "stage_probe best": {"strategy": "stage_probe", "stage": "best"},
    "stage_probe all": {"strategy": "stage_probe", "stage": "all"},
    "top": {"strategy": "top", "epochs": 2},
    "full": {"strategy": "full", "epochs": 2, "ema": 0.9, "optimizer": "adamw", "balance": "weights"},
    "full, gradual": {"strategy": "full", "epochs": 6, "unfreeze": "gradual", "batch_size": 4},
    "scratch": {"strategy": "scratch", "epochs": 3, "augmentation": EVERYTHING},
}


FAMILIES = ("resnet18", "squeezenet1_1", "googlenet", "mobilenet_v2", "vit_b_32", "swin_v2_t")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(16), LABELS, train=0.75, seed=0)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, WeightsFile]:
    backbone = small("resnet18", AT_64)
    return backbone, weights_of(backbone, tmp_path_factory.mktemp("weights"))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """As much as the network takes, and a few images."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + 2**30) / total, GPU)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    torch.cuda.empty_cache()


def train(
    splits: Splits,
    resnet: tuple[Backbone, WeightsFile],
    folder: Path,
    emit: Recorder,
    *,
    room: int = 10**9,
    **fields: Any,
) -> Trained:
    backbone, file = resnet
    recipe = Recipe(**{"backbone": backbone.name, **fields})
    return strategies.train(
        splits,
        plan_for(splits, recipe),
        backbone=backbone,
        weights=None if recipe.from_random else file,
        feature_cache=folder / "features",
        workdir=folder / "work",
        max_pixels=samples.MAX_PIXELS,
        max_activation_bytes=room,
        emit=emit,
        device=GPU,
    )


def note(seen: dict[str, torch.dtype], wanted: str, head: nn.Module, _inputs: object, output: Tensor) -> None:
    """Of what a head gives in training."""
    if head.training:
        seen[wanted] = output.dtype


def equal(one: Trained, other: Trained) -> bool:
    pairs = zip(one.classifier.state().values(), other.classifier.state().values(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_strategy_trains_and_can_be_judged(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], name: str, tmp_path: Path
) -> None:
    told = Recorder()
    trained = train(splits, resnet, tmp_path, told, **SETTINGS[name])

    assert math.isfinite(trained.evaluation.log_loss)
    assert all(value.device.type == "cpu" and value.isfinite().all() for value in trained.classifier.state().values())
    assert all(math.isfinite(epoch.train_loss) for epoch in told.of(EpochFinished))
    assert not told.of(ImagesNotKept)
    # What the GPU judged, the processor that serves sees alike.
    on_cpu = evaluate.predict(
        classifiers.inference_form(trained.classifier),
        splits.validation,
        trained.preprocessing,
        max_pixels=samples.MAX_PIXELS,
        phase="test",
        emit=Recorder(),
        device=samples.CPU,
    )
    assert np.abs(trained.probabilities - on_cpu).max() < 0.02
    reliability = calibrate.reliability(trained.probabilities, splits.validation.targets, seed=0)
    assert math.isfinite(reliability.after.log_loss)


def test_colours_are_learnt_from_nothing(splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path) -> None:
    trained = train(splits, resnet, tmp_path, Recorder(), strategy="scratch", epochs=12, augmentation=Augmentation())

    assert trained.evaluation.accuracy >= 0.9


def test_frozen_stages_stay_as_they_are_to_the_bit(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    trained = train(splits, resnet, tmp_path, Recorder(), strategy="top", freeze="layer2", reinit="retrained", epochs=2)
    published, found = classifiers.read_state(resnet[1].path), trained.classifier.state()
    frozen = [name for name in published if name.startswith(("conv1.", "bn1.", "layer1.", "layer2."))]

    assert len(frozen) > 50
    assert all(torch.equal(found[f"body.{name}"], published[name]) for name in frozen)
    assert not torch.equal(found["body.layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])


def test_a_batch_that_does_not_fit_is_cut_and_the_training_goes_on(
    splits: Splits, tmp_path: Path, little_memory: None
) -> None:
    backbone = small("resnet18", replace(AT_64, resize=600, crop=576))
    told = Recorder()
    trained = train(splits, (backbone, weights_of(backbone, tmp_path)), tmp_path, told, strategy="scratch", epochs=2,
                    batch_size=24, augmentation=Augmentation())  # fmt: skip

    assert told.of(BatchSplit)
    assert len(told.of(EpochFinished)) == 2
    assert math.isfinite(trained.evaluation.log_loss)


def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    fields: dict[str, Any] = {
        "strategy": "scratch",
        "epochs": 3,
        "batch_size": 8,
        "deterministic": True,
        "augmentation": EVERYTHING,
    }
    whole = train(splits, resnet, tmp_path / "whole", Recorder(), **fields)
    with pytest.raises(Stopped):
        train(splits, resnet, tmp_path / "parts", Recorder(Progress("train", 24 + 16, 3 * 24)), **fields)
    parts = train(splits, resnet, tmp_path / "parts", Recorder(), **fields)

    assert equal(whole, parts)


def test_half_precision_is_used_and_full_precision_where_it_is_asked_for(splits: Splits, tmp_path: Path) -> None:
    assert precision.is_half_quicker(GPU)
    seen: dict[str, torch.dtype] = {}
    for wanted in ("auto", "fp32"):
        plan = plan_for(splits, Recipe(backbone="tinynet", strategy="scratch", epochs=1, precision=wanted))
        assert plan.descent is not None
        network = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0)
        network.head.register_forward_hook(partial(note, seen, wanted))
        pixels = ImageFeed(splits, network.preprocessing, Augmentation(), 0, samples.MAX_PIXELS, GPU)
        fit.fit(network, Fitting(splits, pixels, plan.descent, 0, tmp_path / wanted, wanted, GPU, Recorder()))

    assert seen == {"auto": torch.bfloat16, "fp32": torch.float32}


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_by_graphs_are_those_without(name: str) -> None:
    ways = []
    for has_none in (True, False):
        network = classifiers.build(catalogue.find(name), 2, state=None, seed=0).to(GPU).train()
        with precision.deterministic(wanted=has_none):
            learner = Learner(network, DESCENT, Criterion(0.1, None), lambda net, x: net(x), half=True)
        ways.append(learner)
    side = ways[0].network.preprocessing.crop
    draw = torch.Generator().manual_seed(0)
    steps = 0
    for stage in (ways[0].network.stages[-2], None):
        for learner in ways:
            learner.hold(stage)
        for size in (4, 4, 4, 4, 3, 4, 4):
            images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=draw).to(GPU)
            targets = (torch.arange(size) % 2).to(GPU)
            losses = []
            for learner in ways:
                torch.manual_seed(steps)
                losses.append(float(learner.step([(images, targets)], rate=0.01, number=steps)))
            steps += 1
            assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    replayed = [learner.replays for learner in ways]
    assert replayed == [0, 1]
    for usual, graphed in zip(ways[0].state().values(), ways[1].state().values(), strict=True):
        assert torch.allclose(usual.float(), graphed.float(), rtol=0.05, atol=1e-3)


def test_images_are_decoded_anew_where_there_is_no_room(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    told = Recorder()
    trained = train(splits, resnet, tmp_path, told, room=1000, strategy="scratch", epochs=1)

    assert told.of(ImagesNotKept) == [ImagesNotKept("no room")]
    assert math.isfinite(trained.evaluation.log_loss)


@pytest.mark.parametrize("policy", ["none", "crop", "trivial", "rand"])
def test_views_are_those_that_the_processor_makes(policy: AugmentationPolicy) -> None:
    whole = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 80, 80, 3), dtype=np.uint8))
    ratios = np.resize(np.array([0.5, 1, 1.5], np.float32), 64)
    numbers = batchviews.draw(0, 1, range(64))
    wanted, at_64 = Augmentation(policy=policy), AT_64

    def views(images: Tensor) -> Tensor:
        return batchviews.views(images, ratios, numbers, wanted=wanted, preprocessing=at_64).cpu().float()

    distances = (views(whole.to(GPU)) - views(whole)).abs()
    # A level of rounding may lie at the edge of what an operation tells apart.
    assert (distances <= 1).float().mean() > 0.97
    assert distances.mean() < 2


def test_kept_validation_images_give_the_probabilities_of_serving(splits: Splits, tmp_path: Path) -> None:
    network = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0).to(GPU).eval()
    preprocessing: Preprocessing = network.preprocessing
    images = ImageFeed(splits, preprocessing, Augmentation(), 0, samples.MAX_PIXELS, GPU)
    kept = keptfeed.kept(images, folder=tmp_path / "images")

    for _ in range(2):
        found, expected = (feed.probabilities(network, Recorder()) for feed in (kept, images))
        assert np.allclose(found, expected, atol=1e-4)


def test_a_version_is_measured(splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path) -> None:
    backbone, file = resnet
    measured = profile.measure(
        splits,
        backbone=backbone,
        weights=file,
        feature_cache=tmp_path,
        max_pixels=samples.MAX_PIXELS,
        seed=0,
        emit=Recorder(),
        device=GPU,
    )

    assert measured.costs.device == "cuda"
    assert measured.costs.memory_bytes == torch.cuda.get_device_properties(GPU).total_memory
    assert 0 < measured.costs.step < 1
