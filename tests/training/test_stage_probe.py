"""A linear classifier on the stage that suits best, or on selected features of all: the network ends where they end."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app import errors
from app.backbones import catalogue, crops
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.taps import COLUMNS, Outlet
from app.backbones.weights import WeightsFile
from app.metrics import Metrics
from app.models import artifact as artifacts
from app.models.artifact import Artifact, Calibration
from app.models.service import Served
from app.predictions.opener import FromStorage
from app.recipe import Recipe
from app.runtimes.form import Machine
from app.storage import Storage
from tests.training import samples
from tests.training.samples import Recorder
from tests.training.test_strategies import AT_32, AT_64, plan_for, small, train, weights_of
from worker.training import stage_probe
from worker.training.data import Splits
from worker.training.events import FeaturesSelected, Progress, ShareTried, StageChosen, StageTried
from worker.training.features import HEAD, Features
from worker.training.rivals import Trained
from worker.training.stage_probe import Fitted, Grid

LABELS = ("red", "blue")
GRID = Grid(l2=(1e-2, 1.0), folds=3, shares=(0.03, 0.3, 1.0))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(8), LABELS, train=0.75, seed=0)


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[Backbone, WeightsFile]:
    backbone = small("resnet18", AT_32)
    return backbone, weights_of(backbone, tmp_path)


def recipe(backbone: str = "resnet18", **fields: Any) -> Recipe:
    return Recipe(**{"backbone": backbone, "strategy": "stage_probe", **fields})


def depths(count: int = 60, *, telling: str, seed: int = 0) -> tuple[Features, np.ndarray[Any, np.dtype[np.int64]]]:
    """Features of three depths with scales of their own, where five columns of one of them tell the label."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(count) % 3)
    columns = {"early": slice(0, 40), "late": slice(40, 140), HEAD: slice(140, 240)}
    values = rng.normal(size=(count, 240))
    values[:, columns[telling].start : columns[telling].start + 5] += 2.5 * rng.normal(size=(3, 5))[targets]
    values[:, columns["early"]] *= 1e-3
    return Features(values.astype(np.float32), values[:0].astype(np.float32), columns), targets


@pytest.mark.parametrize("telling", ["early", "late", HEAD])
def test_the_stage_that_tells_the_labels_apart_is_chosen_and_told_with_the_figures_of_each(telling: str) -> None:
    found, targets = depths(telling=telling)
    told = Recorder()
    fitted = stage_probe.fit_best(found, targets, classes=3, grid=GRID, seed=0, emit=told)

    (chosen,) = told.of(StageChosen)
    assert fitted.outlet == (Outlet() if telling == HEAD else Outlet(stage=telling))
    assert chosen.stage == telling
    assert [(tried.stage, tried.features) for tried in chosen.tried] == [("early", 40), ("late", 100), (HEAD, 100)]
    best = min(chosen.tried, key=lambda tried: tried.log_loss)
    assert (best.stage, best.accuracy > 0.6) == (telling, True)
    progress = [event for event in told.of(Progress) if event.phase == "probe"]
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert {event.total for event in progress} == {3 * 2}


@pytest.mark.parametrize("telling", ["early", "late", HEAD])
def test_the_features_that_matter_are_selected_whatever_their_scale(telling: str) -> None:
    found, targets = depths(90, telling=telling)
    told = Recorder()
    fitted = stage_probe.fit_selected(found, targets, classes=3, grid=GRID, seed=0, emit=told)

    (selected,) = told.of(FeaturesSelected)
    assert fitted.columns is not None
    assert selected.features == len(fitted.columns) == sum(selected.stages.values()) < 100
    assert telling in fitted.outlet.taps
    taken = np.concatenate([found.train[:, found.columns[tap]] for tap in fitted.outlet.taps], axis=1)
    offset = sum(found.columns[tap].stop - found.columns[tap].start for tap in _before(fitted.outlet.taps, telling))
    telling_columns = set(range(offset, offset + 5)) & set(fitted.columns.tolist())
    assert len(telling_columns) >= 4
    logits = taken[:, fitted.columns] @ fitted.linear.weight.T + fitted.linear.bias
    assert (logits.argmax(axis=1) == targets).mean() > 0.9
    assert [tried.features for tried in selected.tried] == [16, 72, 240]


@pytest.mark.parametrize("fit", [stage_probe.fit_best, stage_probe.fit_selected])
def test_a_penalty_that_some_of_the_images_chose_is_the_same_prior_for_all(
    fit: Callable[..., Fitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.training.probe.MAX_CROSS_VALIDATED", 60)
    monkeypatch.setattr("worker.training.stage_probe.MAX_COMPARED", 60)
    found, targets = depths(300, telling="late")
    told = Recorder()
    chosen = fit(found, targets, classes=3, grid=GRID, seed=0, emit=told)
    asked_for = fit(found, targets, classes=3, grid=replace(GRID, l2=(0.3,)), seed=0, emit=Recorder())

    tried: list[StageTried | ShareTried] = [one for event in told.of(StageChosen) for one in event.tried]
    tried += [one for event in told.of(FeaturesSelected) for one in event.tried]
    assert chosen.linear.l2 == pytest.approx(min(tried, key=lambda one: one.log_loss).l2 * 60 / 300)
    assert asked_for.linear.l2 == 0.3


def _before(taps: tuple[str, ...], tap: str) -> tuple[str, ...]:
    return taps[: taps.index(tap)]


def test_features_of_nothing_but_noise_are_not_judged_by_images_that_chose_them() -> None:
    found, targets = depths(60, telling=HEAD)
    rng = np.random.default_rng(5)
    told = Recorder()
    grid = replace(GRID, l2=(1e-2,))
    stage_probe.fit_selected(found, rng.permutation(targets), classes=3, grid=grid, seed=0, emit=told)

    (selected,) = told.of(FeaturesSelected)
    # Chosen once with all images, the few features that fit them best would have an accuracy of 0.8.
    assert max(tried.accuracy for tried in selected.tried) < 0.6


def served(trained: Trained, backbone: Backbone, splits: Splits, folder: Path) -> list[list[float]]:
    """What a prediction gives for each validation image, by way of an artifact on disk."""
    storage = Storage(folder)
    outlet = trained.classifier.outlet
    state = trained.classifier.state()
    kept = Calibration(temperature=1.0, unknown_below=0.0, conformal=(), means=torch.from_numpy(trained.means))
    result = Artifact(
        backbone.name, splits.labels, trained.preprocessing, {}, asdict(trained.evaluation), {}, state, outlet, kept
    )
    artifacts.write(storage.model_version("mv_1"), result)
    loaded = FromStorage(storage, Machine(threads=1), 1, Metrics()).open(Served("mv_1", "m", 1))
    files = splits.validation.read(range(len(splits.validation)))
    pixels = [crops.load(file, loaded.preprocessing, max_pixels=samples.MAX_PIXELS) for file in files]
    answers = loaded.answers(pixels, alone=False)
    similar = [answer.similarity for answer in answers]
    assert similar == pytest.approx(trained.similarities.max(axis=1), rel=0, abs=1e-5)
    return [row.probabilities.tolist() for row in answers]


@pytest.mark.parametrize("stage", ["best", "all", "layer2", "layer4", HEAD])
def test_what_is_served_is_what_was_evaluated(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], stage: str, tmp_path: Path
) -> None:
    trained = train(splits, plan_for(splits, recipe(stage=stage)), *resnet, tmp_path)
    answers = np.array(served(trained, resnet[0], splits, tmp_path / "served"))
    assert answers == pytest.approx(trained.probabilities, rel=0, abs=1e-5)
    assert (answers.argmax(axis=1) == trained.probabilities.argmax(axis=1)).all()
    assert not trained.classifier.training


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "googlenet", "densenet121", "timm:resnet10t"])
def test_selected_features_of_any_family_are_served_as_evaluated(splits: Splits, name: str, tmp_path: Path) -> None:
    backbone = small(name, AT_64)
    trained = train(
        splits, plan_for(splits, recipe(name, stage="all")), backbone, weights_of(backbone, tmp_path), tmp_path
    )
    answers = np.array(served(trained, backbone, splits, tmp_path / "served"))
    assert answers == pytest.approx(trained.probabilities, rel=0, abs=1e-5)


@pytest.mark.parametrize(("name", "stage"), [("timm:test_vit", "blocks.5"), ("timm:test_convnext", "stages.3")])
def test_the_mean_over_the_last_stage_is_seen_where_the_networks_own_classifier_gets_something_else(
    splits: Splits, name: str, stage: str, tmp_path: Path
) -> None:
    backbone = catalogue.find(name)
    plan = plan_for(splits, recipe(name, stage=stage))
    trained = train(splits, plan, backbone, weights_of(backbone, tmp_path), tmp_path)
    assert trained.classifier.outlet == Outlet(stage=stage)
    answers = np.array(served(trained, backbone, splits, tmp_path / "served"))
    assert answers == pytest.approx(trained.probabilities, rel=0, abs=1e-5)


def test_the_network_ends_behind_the_stage_and_its_values_are_those_published(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    told = Recorder()
    trained = train(splits, plan_for(splits, recipe(stage="layer2")), *resnet, tmp_path, told)
    state, published = trained.classifier.state(), classifiers.read_state(resnet[1].path)
    assert trained.classifier.outlet == Outlet(stage="layer2")
    assert state["head.weight"].shape == (2, 128)
    body = {name.removeprefix("body."): value for name, value in state.items() if name.startswith("body.")}
    assert not [name for name in body if name.startswith(("layer3", "layer4", "fc"))]
    assert all(torch.equal(value, published[name]) for name, value in body.items())


def test_the_selection_is_part_of_the_values(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    told = Recorder()
    trained = train(splits, plan_for(splits, recipe(stage="all")), *resnet, tmp_path, told)
    (selected,) = told.of(FeaturesSelected)
    state, outlet = trained.classifier.state(), trained.classifier.outlet
    assert outlet.taps == tuple(selected.stages)
    assert len(state[f"body.{COLUMNS}"]) == selected.features == state["head.weight"].shape[1]
    del state[f"body.{COLUMNS}"]
    with pytest.raises(errors.Unavailable):
        classifiers.restore("resnet18", 2, trained.preprocessing, state, outlet=outlet)


def test_a_version_with_a_single_image_of_a_label_is_not_cross_validated(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    files = samples.colours(8)
    lonely = replace(splits, train=samples.images(files[:5] + files[8:9]))
    for stage, expected in (("best", HEAD), ("all", "all")):
        plan = plan_for(lonely, recipe(stage=stage))
        told = Recorder()
        trained = train(lonely, plan, *resnet, tmp_path / stage, told)
        assert plan.stage == expected
        assert any("single training image" in reason for reason in plan.reasons)
        assert np.isfinite(trained.probabilities).all()
    assert told.of(FeaturesSelected)[0].tried == ()


def test_the_same_recipe_gives_the_same_values(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    plan = plan_for(splits, recipe(stage="all"))
    one, again = (train(splits, plan, *resnet, tmp_path / name).classifier.state() for name in ("one", "again"))
    assert one.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in one.items())


def test_a_stage_that_is_not_there_is_answered_with_those_that_are(splits: Splits) -> None:
    with pytest.raises(errors.UnknownName, match="layer3"):
        plan_for(splits, recipe(stage="layer33"))


def test_an_artifact_of_old_has_the_whole_network(
    splits: Splits, resnet: tuple[Backbone, WeightsFile], tmp_path: Path
) -> None:
    trained = train(splits, plan_for(splits, Recipe(backbone="resnet18", strategy="head")), *resnet, tmp_path)
    served(trained, resnet[0], splits, tmp_path / "served")
    manifest = Storage(tmp_path / "served").model_version("mv_1") / "artifact.json"
    text = manifest.read_text()
    assert '"outlet"' in text
    start, end = text.index('  "outlet"'), text.index('  "files"')
    manifest.write_text(text[:start] + text[end:])
    assert artifacts.read(manifest.parent).outlet == Outlet()
