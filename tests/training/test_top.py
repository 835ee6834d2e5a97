"""Training the last stages: the others stay as they are to the bit, and what they give is computed once."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app import errors
from app import room as rooms
from app.augmentation import Augmentation
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.descent import CROPPED
from app.facts import NetworkFacts
from app.plan import Plan, resolve
from app.recipe import Recipe, Reinit
from tests.training import samples
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import AT_32, AT_64, facts_of, plan_for, small, train, weights_of
from worker.training import checkpoint, learner, runtime, table
from worker.training import feed as feeds
from worker.training.data import Splits
from worker.training.events import (
    CheckpointSaved,
    EpochFinished,
    Event,
    FeaturesNotKept,
    NotKept,
    ProbeFitted,
    Progress,
    Resumed,
    StartKept,
    ViewsLimited,
    WeightsMixed,
)
from worker.training.feed import ImageFeed
from worker.training.rivals import Trained
from worker.training.runtime import Compiled, Frozen

LABELS = ("red", "blue")
FOR_CHECKPOINTS = "the disk has room for the checkpoints, and no more"
SINGLE = "A single view is the one that serving sees, so no image is changed."
FAMILIES = ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet"]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(8), LABELS, train=0.75, seed=0)


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[Backbone, WeightsFile]:
    backbone = small("resnet18", AT_32)
    return backbone, weights_of(backbone, tmp_path)


def recipe(backbone: str = "resnet18", **fields: Any) -> Recipe:
    return Recipe(
        **{"backbone": backbone, "strategy": "top", "epochs": 2, "batch_size": 6, "learning_rate": 0.01, **fields}
    )


def frozen_names(trained: Trained, backbone: Backbone, stage: str) -> list[str]:
    part = trained.classifier.walk.part(trained.classifier.body, stage)
    inside = tuple(f"body.{name}." for name in part.modules)
    return [name for name in trained.classifier.state() if name.startswith(inside)]


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_stages_stay_as_they_are_to_the_bit_and_the_others_learn(
    splits: Splits, name: str, tmp_path: Path
) -> None:
    backbone = small(name, AT_64 if name == "googlenet" else AT_32)
    file = weights_of(backbone, tmp_path)
    # With a head that is fitted first, an epoch as short as this would not be what is kept.
    plan = plan_for(splits, recipe(name, reinit="head"))
    assert plan.freeze == [stage.name for stage in backbone.stages][-2]
    trained = train(splits, plan, backbone, file, tmp_path)

    before = {f"body.{key}": value for key, value in classifiers.read_state(file.path).items()}
    after = trained.classifier.state()
    frozen = frozen_names(trained, backbone, str(plan.freeze))
    assert frozen
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    learnt = [key for key in after if key in before and key not in frozen and key.endswith("weight")]
    # A few layers see nothing but zeros in images this small.
    changed = [key for key in learnt if not torch.equal(before[key], after[key])]
    assert len(changed) > len(learnt) / 2


def test_frozen_stages_are_passed_once_for_each_view(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    told = Recorder()
    train(splits, plan_for(splits, recipe(epochs=6, views=3)), *resnet, tmp_path, told)
    passed = [event for event in told.of(Progress) if event.phase == "activations"]

    assert passed[-1] == Progress("activations", 3 * len(splits.train) + len(splits.validation), passed[-1].total)
    assert passed[-1].done == passed[-1].total
    assert len(told.of(EpochFinished)) == 6


def test_what_is_kept_gives_nearly_the_network_that_images_themselves_would(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    # One view that is what serving sees: then only half precision is between the two.
    plan = plan_for(splits, recipe(views=1, augmentation={"policy": "none"}))
    told = Recorder()
    kept = train(splits, plan, *resnet, tmp_path / "kept")
    anew = train(splits, plan, *resnet, tmp_path / "anew", told, room=0)

    assert told.of(NotKept) == [NotKept("no room")]
    assert np.abs(kept.probabilities - anew.probabilities).max() < 0.02


def test_the_head_starts_as_a_fitted_classifier_unless_told_otherwise(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    probed, random = Recorder(), Recorder()
    slow: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-6}
    fitted = train(splits, plan_for(splits, recipe(**slow)), *resnet, tmp_path / "fitted", probed)
    train(splits, plan_for(splits, recipe(**slow, reinit="head")), *resnet, tmp_path / "random", random)

    assert len(probed.of(ProbeFitted)) == 1
    assert random.of(ProbeFitted) == []
    assert fitted.evaluation.accuracy == 1.0


def test_layers_that_are_drawn_anew_differ_from_the_file_and_from_seed_to_seed(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    states: list[dict[str, Tensor]] = []
    for seed in (0, 1, 0):
        plan = plan_for(splits, recipe(epochs=1, learning_rate=1e-6, reinit="retrained", seed=seed))
        states.append(train(splits, plan, *resnet, tmp_path / f"{len(states)}").classifier.state())
    published = classifiers.read_state(resnet[1].path)
    name = "layer4.0.conv1.weight"

    assert not torch.allclose(states[0][f"body.{name}"], published[name], atol=1e-3)
    assert not torch.allclose(states[0][f"body.{name}"], states[1][f"body.{name}"], atol=1e-3)
    assert all(torch.equal(value, states[2][key]) for key, value in states[0].items())
    assert torch.equal(states[0]["body.layer3.0.conv1.weight"], published["layer3.0.conv1.weight"])


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_running_statistics_of_layers_that_are_drawn_anew_are_those_of_the_images(
    is_interrupted: bool, splits: Splits, tmp_path: Path
) -> None:
    backbone = small("mobilenet_v3_small", AT_64)
    asked = recipe(backbone.name, epochs=25, learning_rate=1e-6, reinit="retrained", views=1)
    plan = plan_for(splits, replace(asked, augmentation=Augmentation(policy="none")))
    shown = torch.cat([samples.seen(one, AT_64) for one in splits.train.read(range(len(splits.train)))])
    file = weights_of(backbone, tmp_path, known=shown)
    if is_interrupted:
        with pytest.raises(Stopped):
            train(splits, plan, backbone, file, tmp_path, Recorder(CheckpointSaved(2)))
    network = train(splits, plan, backbone, file, tmp_path).classifier

    last = network.body.get_submodule("features.12.1")
    seen: list[Tensor] = []
    last.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.inference_mode():
        network.features(shown)
    ratios = last.get_buffer("running_var") / seen[0].var(dim=(0, 2, 3))
    assert ratios.median().item() == pytest.approx(1.0, abs=0.05)


# Where the head is fitted first, it is what is kept of images as easy as these, and untouched by whatever follows.
@pytest.mark.parametrize("reinit", ["head", "retrained"])
def test_an_interrupted_training_of_the_top_ends_as_if_nothing_had_happened(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], reinit: Reinit, tmp_path: Path
) -> None:
    plan = plan_for(splits, recipe(epochs=3, reinit=reinit))
    whole = train(splits, plan, *resnet, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(splits, plan, *resnet, tmp_path / "parts", Recorder(Progress("train", 12 + 6, 3 * 12)))
    told = Recorder()
    rest = train(splits, plan, *resnet, tmp_path / "parts", told)

    assert told.of(Resumed) == [Resumed(1, 1)]
    assert [event for event in told.events if isinstance(event, StartKept | WeightsMixed)] == []
    ended, begun = whole.classifier.state(), classifiers.read_state(resnet[1].path)
    assert not torch.equal(ended["body.layer4.1.conv2.weight"], begun["layer4.1.conv2.weight"])
    assert all(torch.equal(value, rest.classifier.state()[name]) for name, value in ended.items())


@pytest.mark.parametrize("views", [1, 2])
def test_a_disk_without_room_costs_time_and_not_the_training(
    views: int, splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "reserve", full)
    told = Recorder()
    plan = plan_for(splits, recipe(views=views))
    assert (SINGLE in plan.reasons) == (views == 1)
    trained = train(splits, plan, *resnet, tmp_path, told)

    reason = "[Errno 28] No space left on device"
    assert told.of(NotKept) == [NotKept(reason)]
    assert f"What the frozen stages give was computed anew in each epoch after all: {reason}." in trained.plan.reasons
    assert SINGLE not in trained.plan.reasons
    assert trained.plan.views == 0
    assert told.of(FeaturesNotKept) == [FeaturesNotKept(reason)]
    count = len(splits.train)
    assert Progress("features", count, count) in told.of(Progress)
    assert len(told.of(EpochFinished)) == 2


def test_fewer_views_than_planned_are_told(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    plan, told = plan_for(splits, recipe(views=2)), Recorder()
    assert plan.freeze is not None
    network = classifiers.build(resnet[0], 2, state=None, seed=0)
    of_a_view = 2 * feeds.values_behind(network, plan.freeze) * (len(splits.train) + len(splits.validation))
    trained = train(splits, plan, *resnet, tmp_path, told, room=of_a_view)

    assert "There was room for 1 of 2 views of each image." in trained.plan.reasons
    assert SINGLE in trained.plan.reasons
    assert CROPPED in plan.reasons
    assert CROPPED not in trained.plan.reasons
    assert trained.plan.views == 1
    assert told.of(ViewsLimited) == [ViewsLimited(views=1, wanted=2)]
    assert not told.of(NotKept)


@pytest.mark.parametrize(("fitting", "views"), [(0.9, 0), (1.5, 1), (2.0, 2), (9.0, 3)])
def test_a_plan_that_knows_the_room_says_how_many_views_are_kept_and_that_is_what_comes_of_it(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path, fitting: float, views: int
) -> None:
    network = classifiers.build(resnet[0], 2, state=None, seed=0)
    values = feeds.values_behind(network, "layer3")
    images = len(splits.train) + len(splits.validation)
    room = round(fitting * rooms.bytes_of_view(values, images))
    facts = NetworkFacts(stages=resnet[0].facts.stages, values=(values,) * 5)
    asked = recipe(views=3, epochs=3, freeze="layer3")
    plan, told = resolve(asked, replace(facts_of(splits), max_activation_bytes=room), facts), Recorder()

    trained = train(splits, plan, *resnet, tmp_path, told, room=room)

    assert plan.views == views
    assert told.of(NotKept) == ([] if views else [NotKept("no room")])
    assert told.of(ViewsLimited) == []  # as it was planned
    last = [event for event in told.of(Progress) if event.phase == "activations"][-1:]
    assert [event.total for event in last] == ([views * len(splits.train) + len(splits.validation)] if views else [])
    assert not any("after all" in reason for reason in trained.plan.reasons)


def sizes(plan: Plan, splits: Splits, backbone: Backbone) -> tuple[int, int, int]:
    """Bytes of what is kept of a view of all images, of what a step depends on, and of the network's values alone."""
    assert plan.freeze is not None
    assert plan.descent is not None
    network = classifiers.build(backbone, 2, state=None, seed=0)
    of_a_view = 2 * feeds.values_behind(network, plan.freeze) * (len(splits.train) + len(splits.validation))
    network.freeze(plan.freeze)
    return of_a_view, *learner.sizes(network, plan.descent)


@pytest.mark.parametrize(("views", "told_of"), [(1, ViewsLimited(views=1, wanted=2)), (0, NotKept(FOR_CHECKPOINTS))])
def test_what_is_kept_leaves_room_on_the_disk_for_checkpoints(
    views: int,
    told_of: Event,
    splits: Splits,
    resnet: tuple[Backbone, WeightsFile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, told = plan_for(splits, recipe(views=2)), Recorder()
    of_a_view, state, values = sizes(plan, splits, resnet[0])
    free = checkpoint.most_bytes(state=state, values=values) + views * of_a_view
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free))
    train(splits, plan, *resnet, tmp_path, told)

    assert [event for event in told.events if isinstance(event, NotKept | ViewsLimited)] == [told_of]
    assert len(told.of(CheckpointSaved)) == 2
    taken = sum(path.stat().st_size for path in (tmp_path / "work").iterdir())
    assert taken < checkpoint.most_bytes(state=state, values=values)


def test_a_training_that_goes_on_has_the_room_that_it_began_with(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, told = plan_for(splits, recipe(views=2, epochs=3)), Recorder()
    of_a_view, state, values = sizes(plan, splits, resnet[0])
    # The index of the checkpoints takes some room, too.
    size = checkpoint.most_bytes(state=state, values=values) + of_a_view + 2000

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=size - sum(path.stat().st_size for path in folder.iterdir()))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(Stopped):
        train(splits, plan, *resnet, tmp_path, Recorder(CheckpointSaved(1)))
    train(splits, plan, *resnet, tmp_path, told)

    assert told.of(Resumed)
    found = [event for event in told.events if isinstance(event, NotKept | ViewsLimited)]
    assert found == [ViewsLimited(views=1, wanted=2)]


def test_a_training_that_is_interrupted_leaves_its_checkpoints_alone(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    plan = plan_for(splits, recipe(epochs=3))
    with pytest.raises(Stopped):
        train(splits, plan, *resnet, tmp_path, Recorder(CheckpointSaved(1)))
    left = {path.suffix for path in (tmp_path / "work").rglob("*")}
    assert left == {".json", ".safetensors"}


def test_a_stage_that_is_not_there_is_answered_with_those_that_are(splits: Splits) -> None:
    with pytest.raises(errors.UnknownName, match="layer3"):
        plan_for(splits, recipe(freeze="layer33"))


@pytest.mark.parametrize(
    ("views", "room", "expected"), [(4, 10**9, 4), (4, 2 * 100 * 10 * 3, 3), (4, 100, 0), (1, 10**9, 1)]
)
def test_as_many_views_are_kept_as_there_is_room_for(views: int, room: int, expected: int) -> None:
    assert rooms.views_that_fit(views, values=100, images=10, max_bytes=room) == expected


@pytest.mark.parametrize("many", [False, True])
def test_the_first_view_is_what_serving_sees_and_the_others_are_not(
    many: bool, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Frozen] = []
    monkeypatch.setattr(runtime, "LEAST_IMAGES", 1 if many else 10**9)
    monkeypatch.setattr(Frozen, "prepare", _noting(compiled))
    network = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0).eval()
    network.freeze("stem")
    # What lies behind the frozen stages may be larger than a network that is compiled.
    frozen = sum(value.nbytes for value in network.parameters() if not value.requires_grad)
    monkeypatch.setattr(runtime, "_MOST_BYTES", frozen)
    plan = plan_for(splits, Recipe(backbone="tinynet", strategy="full", weights="none"))
    assert plan.descent is not None
    images = ImageFeed(splits, AT_32, plan.descent.augmentation, 0, samples.MAX_PIXELS, samples.CPU)
    feed = feeds.activations(images, network, "stem", views=2, half=False, folder=tmp_path / "kept", emit=Recorder())
    (file,) = splits.train.read([0])
    with torch.inference_mode():
        expected = network.activations(samples.seen(file, AT_32), "stem")[0].numpy()

    assert bool(compiled) == many
    assert len(compiled) <= 1  # for both views and the validation images
    assert feed.train.shape[:2] == (2, len(splits.train))
    assert np.abs(feed.train[0, 0] - expected).max() < 1e-2
    assert np.abs(feed.train[1, 0] - expected).max() > 1e-2
    assert replace(feed, stage="stem").forward(network, torch.from_numpy(expected)[None]).logits.shape == (1, 2)


def _noting(compiled: list[Frozen]) -> Callable[..., Compiled | None]:
    """`Frozen.prepare` that notes what could be compiled."""
    prepare = Frozen.prepare

    def noted(frozen: Frozen, *, half: bool) -> Compiled | None:
        found = prepare(frozen, half=half)
        compiled.extend([frozen] if found is not None else [])
        return found

    return noted
