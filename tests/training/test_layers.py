"""What training does to each layer, for a network of every family: rates of stages, what stays, what starts anew."""

import copy
import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app import errors
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.descent import Descent
from app.recipe import Recipe
from tests.backbones import samples as networks
from tests.training import samples
from tests.training.fitted import AT_32, build, equal, fitting, run
from tests.training.layered import DESCENT, FAMILIES, LABELS, inside, values
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import plan_for, small, train, weights_of
from tests.training.test_top import recipe
from worker.training import checkpoint, fit, precision
from worker.training.data import Splits
from worker.training.events import (
    CheckpointSaved,
    EpochFinished,
    Event,
    FullPrecision,
    ProbeFitted,
    Progress,
    Resumed,
    StartEvaluated,
    StartKept,
    TrainingDiverged,
)
from worker.training.learner import Criterion, Learner


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return catalogue.find(request.param)


def pretrained(backbone: Backbone) -> Classifier:
    """With values as after training, and a new head."""
    return copy.deepcopy(_pretrained(backbone.name))


@functools.lru_cache(maxsize=1)
def _pretrained(name: str) -> Classifier:
    # Drawing the values of a large network takes seconds, copying them far less.
    network = classifiers.build(catalogue.find(name), 2, state=None, seed=0)
    networks.live_in(network.body)
    return network


def step(network: Classifier, backbone: Backbone, descent: Descent = DESCENT, *, rate: float = 0.01) -> None:
    """One step of training on two images."""
    learner = Learner(network, descent, Criterion(0.0, None), lambda network, inputs: network(inputs))
    torch.manual_seed(5)
    learner.step([(networks.images(backbone), torch.tensor([0, 1]))], rate=rate, number=0)


def depths(network: Classifier) -> dict[str, int]:
    """For each parameter how many stages its own lies below the head; 0 for those of no stage."""
    parts = [network.walk.part(network.body, stage) for stage in network.stages]
    return {
        name: sum(part.holds(name.removeprefix("body.")) for part in parts) for name, _ in network.named_parameters()
    }


def test_each_stage_learns_at_the_rate_that_the_plan_gives_it(backbone: Backbone) -> None:
    plain, decayed = pretrained(backbone).train(), pretrained(backbone).train()
    before = values(plain)
    step(plain, backbone, replace(DESCENT, weight_decay=0.0))
    step(decayed, backbone, replace(DESCENT, weight_decay=0.0, layer_decay=0.5))
    one, other, depth = plain.state_dict(), decayed.state_dict(), depths(plain)

    assert max(depth.values()) == len(plain.stages)
    assert depth["head.weight"] == depth["head.bias"] == 0
    for name, below in depth.items():
        expected = (one[name] - before[name]).mul_(0.5**below)
        rounding = 1e-6 * float(before[name].abs().max().clamp(min=1))
        apart = (other[name] - before[name]).sub_(expected).abs_()
        assert (apart <= expected.abs_().mul_(1e-3).add_(rounding)).all(), name
    for head in plain.walk.auxiliary:
        assert {below for name, below in depth.items() if name.startswith(f"body.{head.module}.")} == {0}


def test_the_stages_of_a_residual_network_have_the_rates_that_one_would_write_down() -> None:
    network = pretrained(catalogue.find("resnet18"))
    learner = Learner(network, replace(DESCENT, layer_decay=0.5), Criterion(0.0, None), lambda n, x: n(x))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    factors: dict[str, float] = {}
    shrunk: dict[str, float] = {}
    for group in learner._optimizer.param_groups:
        factors |= {names[id(parameter)]: group["factor"] for parameter in group["params"]}
        shrunk |= {names[id(parameter)]: group["weight_decay"] for parameter in group["params"]}
    assert network.stages == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert factors["head.weight"] == factors["head.bias"] == 1
    expected = {"layer4": 1 / 2, "layer3": 1 / 4, "layer2": 1 / 8, "layer1": 1 / 16, "conv1": 1 / 32, "bn1": 1 / 32}
    for name, factor in factors.items():
        if name.startswith("body."):
            assert factor == expected[name.split(".")[1]], name
    assert factors.keys() == shrunk.keys() == {name for name, _ in network.named_parameters()}
    for name, parameter in network.named_parameters():
        assert shrunk[name] == (0.1 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize("way", ["freeze", "hold"])
def test_what_is_kept_stays_to_the_bit_with_its_running_statistics(backbone: Backbone, way: str) -> None:
    network = pretrained(backbone).train()
    stage = network.stages[len(network.stages) // 2]
    {"freeze": network.freeze, "hold": network.hold}[way](stage)
    before, kept = values(network), inside(network, stage)
    step(network, backbone)
    after = network.state_dict()

    assert kept
    assert not [name for name in kept if not torch.equal(before[name], after[name])]
    assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenetv4_conv_small", "googlenet"])
def test_with_the_last_stage_all_is_held_but_the_heads(name: str) -> None:
    backbone = catalogue.find(name)
    network = pretrained(backbone).train()
    network.hold(network.stages[-1])
    before = values(network)
    step(network, backbone)
    changed = [name for name, value in network.state_dict().items() if not torch.equal(before[name], value)]

    heads = ("head.", *(f"body.{head.module}." for head in backbone.auxiliary))
    assert {"head.weight", "head.bias"} <= {*changed}
    assert [name for name in changed if not name.startswith(heads)] == []


def test_what_was_held_learns_again_with_its_running_statistics(backbone: Backbone) -> None:
    network = pretrained(backbone).train()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    network.hold(network.stages[-1])
    network.hold(network.stages[0])
    network.hold(None)
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == trained
    assert network.walk.auxiliary == pretrained(backbone).walk.auxiliary
    before = values(network)
    step(network, backbone)
    after = network.state_dict()
    counted = [name for name in before if name.endswith("num_batches_tracked")]
    assert not [name for name in counted if after[name] != before[name] + 1]


def test_layers_that_start_anew_differ_from_the_file_and_from_seed_to_seed(backbone: Backbone) -> None:
    states, constant = [], set()
    file = pretrained(backbone)
    stage, published = file.stages[0], values(file)
    for seed in (7, 8, 7):
        network, fresh = pretrained(backbone), classifiers.build(backbone, 2, state=None, seed=seed)
        # Biases and scales start from the same number whatever the seed.
        constant = {name for name, value in fresh.named_parameters() if value.min() == value.max()}
        classifiers.renew(network, fresh, behind=stage)
        states.append(network.state_dict())
    kept = set(inside(file, stage))
    drawn = [name for name, _ in file.named_parameters() if name.startswith("body.") and name not in constant]
    assert drawn
    for name in drawn:
        if name in kept:
            assert torch.equal(states[0][name], published[name]), name
        else:
            assert not torch.equal(states[0][name], published[name]), name
            assert not torch.equal(states[0][name], states[1][name]), name
    assert equal(states[0], states[2])


OPTIONS: dict[str, dict[str, Any]] = {
    "decayed": {"layer_decay": 0.7},
    "gradual": {"unfreeze": "gradual"},
    "averaged": {"unfreeze": "gradual", "layer_decay": 0.7, "ema": 0.9},
    "adamw": {"unfreeze": "gradual", "layer_decay": 0.7, "optimizer": "adamw", "learning_rate": 1e-3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("stop_at", [CheckpointSaved(1), Progress("train", 18 + 12, 4 * 18)])
def test_an_interrupted_training_by_stages_ends_as_if_nothing_had_happened(
    splits: Splits, options: dict[str, Any], stop_at: Event, tmp_path: Path
) -> None:
    descent = replace(DESCENT, **options)
    whole = run(splits, tmp_path / "whole", descent=descent)
    with pytest.raises(Stopped):
        fit.fit(build(), fitting(splits, tmp_path / "parts", Recorder(stop_at), descent=descent))
    rest = run(splits, tmp_path / "parts", descent=descent)
    assert len(rest.told.of(Resumed)) == 1
    assert equal(rest.network.state_dict(), whole.network.state_dict())
    assert rest.epochs == whole.epochs[1:]


def test_a_training_that_helps_nothing_gives_back_what_it_started_from(splits: Splits, tmp_path: Path) -> None:
    # A network that knows the labels of the validation images, and training images that teach it the opposite.
    swapped = replace(splits, train=samples.swapped(splits.train), validation=samples.swapped(splits.validation))
    descent = replace(DESCENT, epochs=8, learning_rate=0.05, weight_decay=0.0)
    network = fit.fit(build(), fitting(swapped, tmp_path / "known", Recorder(), descent=descent))
    start, again = values(network), copy.deepcopy(network)
    opposed = replace(splits, validation=swapped.validation)
    told = Recorder()
    found = fit.fit(network, replace(fitting(opposed, tmp_path / "one", told), start_counts=True))

    (begun,) = told.of(StartEvaluated)
    assert begun.validation_accuracy == 1.0
    assert len(told.of(EpochFinished)) == 4
    (kept,) = told.of(StartKept)
    assert kept.start_loss < kept.end_loss
    assert equal(found.state_dict(), start)

    for stop_at in (begun, CheckpointSaved(2)):
        given = replace(fitting(opposed, tmp_path / "two", Recorder(stop_at)), start_counts=True)
        with pytest.raises(Stopped):
            fit.fit(copy.deepcopy(again), given)
    rest = fit.fit(again, replace(fitting(opposed, tmp_path / "two", Recorder()), start_counts=True))
    assert equal(rest.state_dict(), start)


@pytest.mark.parametrize("strategy", ["top", "full"])
def test_fine_tuning_never_ends_worse_than_the_linear_classifier_it_starts_from(
    splits: Splits, strategy: str, tmp_path: Path
) -> None:
    backbone = small("resnet18", AT_32)
    file = weights_of(backbone, tmp_path)
    # So long a step spoils the network without making it no number.
    asked = recipe(strategy=strategy, epochs=1, learning_rate=0.3, layer_decay=0.9 if strategy == "full" else None)
    told = Recorder()
    trained = train(splits, plan_for(splits, asked), backbone, file, tmp_path, told)
    (begun,) = told.of(StartEvaluated)
    assert len(told.of(ProbeFitted)) == 1
    assert trained.evaluation.accuracy >= begun.validation_accuracy
    assert trained.evaluation.log_loss <= begun.validation_loss + 1e-2


def test_full_with_a_random_head_does_not_let_the_start_compete(splits: Splits, tmp_path: Path) -> None:
    backbone = small("resnet18", AT_32)
    told = Recorder()
    asked = recipe(strategy="full", reinit="head", epochs=1)
    train(splits, plan_for(splits, asked), backbone, weights_of(backbone, tmp_path), tmp_path, told)
    assert told.of(StartEvaluated) == []
    assert told.of(ProbeFitted) == []


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_values(
    splits: Splits, tmp_path: Path
) -> None:
    told = Recorder()
    network = build()
    before = copy.deepcopy(network.state_dict())
    descent = replace(DESCENT, epochs=3, learning_rate=1e30)
    trained = fit.fit(network, replace(fitting(splits, tmp_path, told, descent=descent), start_counts=True))
    assert told.of(TrainingDiverged) == [TrainingDiverged(epoch=1, kept_epoch=0)]
    assert equal(trained.state_dict(), before)
    kept = checkpoint.load(tmp_path, fingerprint="one")
    assert kept is not None
    assert (kept.position.epochs, kept.position.steps) == (0, 0)
    assert all(value.isfinite().all() for value in kept.tensors.values())
    assert told.of(EpochFinished) == []


def test_a_training_in_bf16_learns_and_differs_from_fp32(splits: Splits, tmp_path: Path) -> None:
    descent = replace(DESCENT, epochs=6, learning_rate=0.05, weight_decay=0.0)
    exact, auto = (run(splits, tmp_path / p, descent=replace(descent, precision=p)) for p in ("fp32", "auto"))
    quicker = precision.is_half_quicker(samples.CPU)
    assert equal(exact.network.state_dict(), auto.network.state_dict()) is not quicker
    told = run(splits, tmp_path / "bf16", descent=replace(descent, precision="bf16"))
    if told.told.of(FullPrecision):
        assert equal(told.network.state_dict(), exact.network.state_dict())
    else:
        assert not equal(told.network.state_dict(), exact.network.state_dict())
    assert told.epochs[-1].validation_accuracy == 1.0


def test_a_deterministic_training_leaves_the_process_as_it_was(splits: Splits, tmp_path: Path) -> None:
    backbone = small("tinynet", AT_32)
    fields: dict[str, Any] = {"strategy": "scratch", "epochs": 1, "batch_size": 6, "deterministic": True}
    plan = plan_for(splits, Recipe(backbone="tinynet", **fields))
    seen: list[bool] = []

    class Looking(Recorder):
        def __call__(self, event: Event) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic)

    train(splits, plan, backbone, None, tmp_path, Looking())
    assert seen
    assert all(seen[:-1])
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_an_operation_that_cannot_be_repeated_is_reported() -> None:
    with pytest.raises(errors.Invalid) as raised, precision.deterministic(wanted=True):
        raise RuntimeError("adaptive_max_pool2d_backward_cuda does not have a deterministic implementation")
    assert raised.value.code == "not_deterministic"
    with pytest.raises(RuntimeError, match="something else"), precision.deterministic(wanted=True):
        raise RuntimeError("something else")
    assert not torch.are_deterministic_algorithms_enabled()
