import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app import errors
from app.backbones import catalogue, networks, weights
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Normalisation
from app.backbones.preprocess import Preprocessing
from app.backbones.weights import WeightsFile
from app.facts import VersionFacts
from app.plan import Plan, resolve
from app.recipe import Precision, Recipe, Strategy
from tests.training import samples
from tests.training.samples import Recorder, Stopped
from worker.training import evaluate, precision, runtime, strategies
from worker.training.data import Splits
from worker.training.events import (
    CheckpointSaved,
    EpochFinished,
    Evaluated,
    FeaturesReady,
    ProbeFitted,
    Resumed,
    RivalJudged,
    TrainingDiverged,
)
from worker.training.rivals import Trained
from worker.training.runtime import Frozen

LABELS = ("red", "blue")
AT_64 = Preprocessing(resize=72, crop=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
AT_32 = replace(AT_64, resize=32, crop=32)
NOTHING = samples.images([])


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


def plan_for(splits: Splits, recipe: Recipe) -> Plan:
    return resolve(recipe, facts_of(splits), catalogue.find(recipe.backbone).facts)


def facts_of(splits: Splits) -> VersionFacts:
    return VersionFacts(
        classes=len(splits.labels),
        train_images=len(splits.train),
        validation_images=len(splits.validation),
        smallest_class=int(np.bincount(splits.train.targets).min()),
    )


def small(name: str, preprocessing: Preprocessing) -> Backbone:
    """A backbone of the catalogue that sees smaller images."""
    backbone = catalogue.find(name)
    published = tuple(replace(weights, preprocessing=preprocessing) for weights in backbone.weights)
    return replace(backbone, scratch_preprocessing=preprocessing, weights=published)


def weights_of(backbone: Backbone, folder: Path, *, known: Tensor | None = None) -> WeightsFile:
    """A weights file with made-up values in the form of the published one; its running statistics are made up, too, or
    those of the `known` images `(N, 3, H, W) uint8`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = networks.make(backbone, auxiliary=True)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                layer.running_mean.normal_(0, 0.1)
                layer.momentum = 1.0
        if known is not None:
            network.train()(Normalisation(backbone.scratch_preprocessing)(known))
    path = folder / f"{backbone.name}.pth"
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return WeightsFile(path, digest, "weights_dir", backbone.weights[0])


def train(
    splits: Splits,
    plan: Plan,
    backbone: Backbone,
    file: WeightsFile | None,
    folder: Path,
    emit: Recorder | None = None,
    *,
    room: int = 10**9,
) -> Trained:
    return strategies.train(
        splits,
        plan,
        backbone=backbone,
        weights=file,
        feature_cache=folder / "features",
        workdir=folder / "work",
        max_pixels=samples.MAX_PIXELS,
        max_activation_bytes=room,
        emit=emit or Recorder(),
        device=samples.CPU,
    )


def check_backbone_is_as_published(trained: Trained, backbone: Backbone, file: WeightsFile) -> None:
    published = classifiers.read_state(file.path)
    replaced = f"{backbone.head}."
    kept = {f"body.{name}": value for name, value in published.items() if not name.startswith(replaced)}
    found = trained.classifier.state()
    assert found.keys() == {*kept, "head.weight", "head.bias"}
    for name, value in kept.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def check_probabilities_are_those_of_the_restored(trained: Trained, backbone: Backbone, splits: Splits) -> None:
    preprocessing = trained.preprocessing
    restored = classifiers.restore(backbone.name, len(splits.labels), preprocessing, trained.classifier.state())
    expected = evaluate.predict(
        classifiers.inference_form(restored),
        splits.validation,
        preprocessing,
        max_pixels=samples.MAX_PIXELS,
        phase="test",
        emit=Recorder(),
        device=samples.CPU,
    )
    assert trained.probabilities == pytest.approx(expected, rel=0, abs=1e-5)
    assert trained.evaluation == evaluate.evaluate(trained.probabilities, splits.validation.targets, splits.labels)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_head_leaves_the_backbone_as_published(splits: Splits, name: str, tmp_path: Path) -> None:
    backbone = small(name, AT_64)
    file = weights_of(backbone, tmp_path)
    told = Recorder()
    plan = plan_for(splits, Recipe(backbone=name, strategy="head"))
    trained = train(splits, plan, backbone, file, tmp_path, told)
    check_backbone_is_as_published(trained, backbone, file)
    check_probabilities_are_those_of_the_restored(trained, backbone, splits)
    assert trained.preprocessing == AT_64
    assert not trained.classifier.training
    (fitted,) = told.of(ProbeFitted)
    assert sorted(tried.l2 for tried in fitted.tried) == sorted(plan.l2_grid)


def test_head_on_published_values_tells_colours_apart(test_data: Path, splits: Splits, tmp_path: Path) -> None:
    backbone = catalogue.find("mobilenet_v2")
    folder = test_data / "weights"
    file = weights.obtain(backbone, weights_dir=folder, cache_dir=tmp_path, download=False)
    told = Recorder()
    plan = plan_for(splits, Recipe(backbone="mobilenet_v2", strategy="head"))
    trained = train(splits, plan, backbone, file, tmp_path, told)
    assert trained.evaluation.accuracy == 1.0
    assert trained.evaluation.images == 6
    check_backbone_is_as_published(trained, backbone, file)
    check_probabilities_are_those_of_the_restored(trained, backbone, splits)
    figures = trained.evaluation
    assert told.events[-1] == Evaluated(images=6, accuracy=1.0, log_loss=figures.log_loss)


def test_head_is_trained_again_on_the_same_features_with_the_same_result(splits: Splits, tmp_path: Path) -> None:
    backbone = small("mobilenet_v3_small", AT_64)
    file = weights_of(backbone, tmp_path)
    plan = plan_for(splits, Recipe(backbone=backbone.name, strategy="head"))
    told = Recorder(), Recorder()
    one, again = (train(splits, plan, backbone, file, tmp_path, emit) for emit in told)
    assert [emit.of(FeaturesReady)[0].cached for emit in told] == [False, True]
    assert torch.equal(one.classifier.head.weight, again.classifier.head.weight)
    assert torch.equal(one.classifier.head.bias, again.classifier.head.bias)
    assert np.array_equal(one.probabilities, again.probabilities)


def test_head_takes_the_penalty_asked_for(splits: Splits, tmp_path: Path) -> None:
    backbone = small("mobilenet_v3_small", AT_64)
    plan = plan_for(splits, Recipe(backbone=backbone.name, strategy="head", l2=0.5))
    told = Recorder()
    train(splits, plan, backbone, weights_of(backbone, tmp_path), tmp_path, told)
    assert told.of(ProbeFitted) == [ProbeFitted(l2=0.5, tried=())]


def test_head_without_weights_is_refused(splits: Splits, tmp_path: Path) -> None:
    plan = plan_for(splits, Recipe(backbone="tinynet", strategy="head"))
    with pytest.raises(errors.Invalid) as raised:
        train(splits, plan, catalogue.find("tinynet"), None, tmp_path)
    assert raised.value.code == "weights_needed"


def test_full_trains_every_layer_from_the_published_values(splits: Splits, tmp_path: Path) -> None:
    backbone = small("mobilenet_v3_small", AT_32)
    file = weights_of(backbone, tmp_path)
    recipe = Recipe(backbone=backbone.name, strategy="full", reinit="head", epochs=1, batch_size=6, learning_rate=1e-3)
    trained = train(splits, plan_for(splits, recipe), backbone, file, tmp_path)
    published, found = classifiers.read_state(file.path), trained.classifier.state()
    for name, parameter in trained.classifier.body.named_parameters():
        assert not torch.equal(found[f"body.{name}"], published[name]), name
        assert torch.allclose(parameter.detach(), published[name], atol=0.1), name
    check_probabilities_are_those_of_the_restored(trained, backbone, splits)


@pytest.mark.parametrize("fitted", ["first head", "rival"])
@pytest.mark.parametrize("computed", ["fp32", "auto"])
def test_heads_beside_a_training_in_fp32_are_fitted_to_features_in_fp32(
    splits: Splits, computed: Precision, fitted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    outputs = Frozen.outputs

    def watched(frozen: Frozen, batches: Iterator[Tensor], *, half: bool) -> Iterator[tuple[Tensor, ...]]:
        asked.append(half)
        return outputs(frozen, batches, half=half)

    monkeypatch.setattr(Frozen, "outputs", watched)
    monkeypatch.setattr(runtime, "LEAST_IMAGES", 1)
    monkeypatch.setattr(precision, "is_half_quicker", lambda _device: True)
    backbone = small("mobilenet_v3_small", AT_32)
    recipe = Recipe(backbone=backbone.name, strategy="full", epochs=1, batch_size=6, precision=computed)
    plan = plan_for(splits, recipe)
    if fitted == "rival":
        rival = plan_for(splits, Recipe(backbone=backbone.name, strategy="head"))
        plan = replace(plan_for(splits, replace(recipe, reinit="head")), rival=rival)
    train(splits, plan, backbone, weights_of(backbone, tmp_path), tmp_path)
    assert asked == [False, computed == "auto"]  # validation images, training images


def test_full_from_random_values_learns_colours(splits: Splits, tmp_path: Path) -> None:
    backbone = small("tinynet", AT_32)
    recipe = Recipe(
        backbone="tinynet", strategy="full", weights="none", epochs=6, batch_size=6, learning_rate=0.05, seed=1
    )
    told = Recorder()
    trained = train(splits, plan_for(splits, recipe), backbone, None, tmp_path, told)
    assert trained.evaluation.accuracy == 1.0
    assert trained.preprocessing == AT_32
    assert [epoch.epoch for epoch in told.of(EpochFinished)] == [1, 2, 3, 4, 5, 6]
    assert isinstance(told.events[-1], Evaluated)
    check_probabilities_are_those_of_the_restored(trained, backbone, splits)


@pytest.mark.slow
def test_full_from_random_values_learns_shapes(tmp_path: Path) -> None:
    splits = samples.split(samples.shapes(100, size=48), samples.SHAPES, train=0.8, seed=0)
    backbone = small("tinynet", AT_32)
    recipe = Recipe(backbone="tinynet", strategy="full", weights="none", epochs=12, batch_size=16, learning_rate=0.1)
    trained = train(splits, plan_for(splits, recipe), backbone, None, tmp_path)
    # By chance it would be 0.25, more than 0.4 in one of five hundred trainings.
    assert trained.evaluation.accuracy > 0.4
    assert trained.evaluation.log_loss < np.log(4)
    check_probabilities_are_those_of_the_restored(trained, backbone, splits)


def test_a_stopped_training_goes_on_in_its_workdir(splits: Splits, tmp_path: Path) -> None:
    backbone = small("tinynet", AT_32)
    plan = plan_for(splits, Recipe(backbone="tinynet", strategy="full", weights="none", epochs=3, batch_size=6))
    whole = train(splits, plan, backbone, None, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(splits, plan, backbone, None, tmp_path / "parts", Recorder(CheckpointSaved(1)))
    told = Recorder()
    rest = train(splits, replace(plan, reasons=("in other words",)), backbone, None, tmp_path / "parts", told)
    assert told.of(Resumed) == [Resumed(1, 0)]
    assert all(torch.equal(value, rest.classifier.state()[name]) for name, value in whole.classifier.state().items())
    assert rest.probabilities == pytest.approx(whole.probabilities, rel=0, abs=1e-6)


def test_a_training_of_something_else_begins_anew_in_the_same_workdir(splits: Splits, tmp_path: Path) -> None:
    backbone = small("tinynet", AT_32)
    recipe = Recipe(backbone="tinynet", strategy="full", weights="none", epochs=1, batch_size=6)
    plan = plan_for(splits, recipe)
    assert plan.descent is not None
    relabelled = replace(splits, train=samples.swapped(splits.train))
    differing = (
        (splits, replace(plan, seed=1)),
        (splits, replace(plan, descent=replace(plan.descent, learning_rate=0.123))),
        (replace(splits, labels=("rot", "blau")), plan),
        (replace(splits, validation=splits.train), plan),
        (relabelled, plan),
    )
    for place, (others, other) in enumerate(differing):
        folder, told = tmp_path / str(place), Recorder()
        train(splits, plan, backbone, None, folder)
        train(others, other, backbone, None, folder, told)
        assert told.of(Resumed) == []


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_a_version_without_training_or_validation_images_is_refused(
    splits: Splits, strategy: Strategy, tmp_path: Path
) -> None:
    plan = plan_for(splits, Recipe(backbone="tinynet", strategy=strategy))
    for code, empty in (
        ("no_training_images", replace(splits, train=NOTHING)),
        ("no_validation_images", replace(splits, validation=NOTHING)),
    ):
        with pytest.raises(errors.Invalid) as raised:
            train(empty, plan, catalogue.find("tinynet"), None, tmp_path)
        assert raised.value.code == code


def test_the_rival_is_kept_where_the_training_diverges(splits: Splits, tmp_path: Path) -> None:
    backbone = small("mobilenet_v3_small", AT_64)
    wild = Recipe(backbone=backbone.name, strategy="full", reinit="head", epochs=1, learning_rate=10, optimizer="adamw")
    rival = plan_for(splits, Recipe(backbone=backbone.name, strategy="head"))
    planned = plan_for(splits, wild)
    assert planned.descent is not None
    plan = replace(planned, rival=rival, descent=replace(planned.descent, learning_rate=1e30))
    told = Recorder()
    trained = train(splits, plan, backbone, weights_of(backbone, tmp_path), tmp_path, told)
    assert told.of(TrainingDiverged) == [TrainingDiverged(epoch=1, kept_epoch=None)]
    assert trained.plan.strategy == "head"
    assert any("'full' diverged in epoch 1" in reason for reason in trained.plan.reasons)


def test_the_rival_is_kept_where_it_does_better(splits: Splits, tmp_path: Path) -> None:
    backbone = small("mobilenet_v3_small", AT_64)
    file = weights_of(backbone, tmp_path)
    hopeless = Recipe(
        backbone=backbone.name, strategy="full", reinit="head", epochs=1, batch_size=6, learning_rate=1e-9
    )
    rival = plan_for(splits, Recipe(backbone=backbone.name, strategy="head"))
    plan = replace(plan_for(splits, hopeless), rival=rival)
    told = Recorder()
    trained = train(splits, plan, backbone, file, tmp_path, told)
    (judged,) = told.of(RivalJudged)
    assert (judged.strategy, judged.rival, judged.kept) == ("full", "head", "head")
    assert judged.rival_accuracy > judged.accuracy
    assert trained.evaluation.accuracy == judged.rival_accuracy
    assert trained.plan.strategy == "head"
    (said,) = (reason for reason in trained.plan.reasons if "by strategy 'head', and is kept" in reason)
    # And not a word of how the other one ended, or that it guesses.
    assert trained.plan.reasons == (*plan.reasons, said, *rival.reasons)
