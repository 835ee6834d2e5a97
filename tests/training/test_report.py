"""The whole evaluation of a finished classifier."""

import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from app.backbones import catalogue, classifier
from app.evaluation import Evaluation
from app.recipe import Recipe
from bench import unknown as foreign
from tests.training import samples
from tests.training.samples import Recorder
from tests.training.test_evaluate import guesses, labels
from tests.training.test_strategies import plan_for
from worker.training import calibrate, evaluate, mistakes, report, separation
from worker.training.data import Splits
from worker.training.events import Progress
from worker.training.rivals import Trained


def trained(splits: Splits, *, count: int, classes: int) -> Trained:
    """A classifier that guesses."""
    probabilities, targets = guesses(count, classes)
    return Trained(
        classifier=classifier.build(catalogue.find("tinynet"), classes, state=None, seed=0),
        evaluation=evaluate.evaluate(probabilities, targets, splits.labels),
        probabilities=probabilities,
        similarities=probabilities,
        means=np.zeros((classes, 4), np.float32),
        plan=plan_for(splits, Recipe(backbone="tinynet", strategy="scratch")),
    )


def splits_of(count: int, classes: int) -> Splits:
    """Images that nobody opens, but for the one file they all have."""
    file = samples.plain((90, 120, 150))
    _, targets = guesses(count, classes)
    images = samples.images([(file, int(target)) for target in targets])
    return Splits(tuple(labels(classes)), images, images)


def test_nothing_is_left_out_and_it_is_read_as_it_was_stored() -> None:
    splits, told = splits_of(200, 6), Recorder()
    judged = trained(splits, count=200, classes=6)
    too_sure = calibrate.tempered(judged.probabilities, 0.5)
    figures = evaluate.evaluate(too_sure, splits.validation.targets, splits.labels)
    judged = replace(judged, probabilities=too_sure, evaluation=figures)
    made = report.report(judged, splits, also_chosen_by=False, max_pixels=10**6, emit=told)
    found = made.evaluation
    adapter = TypeAdapter(Evaluation)

    assert [name for name, value in asdict(found).items() if value is None] == ["old_labels"]  # there is no base
    assert adapter.validate_json(adapter.dump_json(found)) == found
    assert found.reliability is not None
    assert found.reliability.before.log_loss == pytest.approx(found.log_loss, abs=1e-9)
    assert found.mistakes is not None
    assert len(made.thumbnails) == len(found.mistakes) == 24
    assert all(thumbnail[:2] == b"\xff\xd8" for thumbnail in made.thumbnails)
    served = calibrate.tempered(judged.probabilities, found.reliability.temperature)
    assert found.reliability.temperature != 1
    assert found.mistakes == mistakes.described(
        mistakes.worst(served, splits.validation.targets), served, splits.validation, splits.labels
    )
    assert found.roc == separation.roc(served, splits.validation.targets, splits.labels)
    surest = [mistake.probability for mistake in found.mistakes]
    assert surest == sorted(surest, reverse=True)
    assert [(part.done, part.total) for part in told.of(Progress)] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_classifier_without_mistakes_has_no_pictures_of_them() -> None:
    splits = splits_of(4, 2)
    sure = trained(splits, count=4, classes=2)
    right = np.eye(2)[splits.validation.targets] * 0.8 + 0.1
    sure = Trained(
        sure.classifier,
        evaluate.evaluate(right, splits.validation.targets, splits.labels),
        right,
        right,
        sure.means,
        sure.plan,
    )
    made = report.report(sure, splits, also_chosen_by=True, max_pixels=10**6, emit=Recorder())
    assert (made.evaluation.mistakes, made.thumbnails) == ((), ())
    assert made.evaluation.unknown is not None
    assert made.evaluation.unknown.mistakes_refused is None


def thinned(archive: Path, folder: Path, *, every: int) -> Path:
    """An archive with every so many-th photo of each class."""
    thin = folder / archive.name
    with zipfile.ZipFile(archive) as packed, zipfile.ZipFile(thin, "w") as kept:
        for name in sorted(name for name in packed.namelist() if not name.endswith("/"))[::every]:
            kept.writestr(name, packed.read(name))
    return thin


@pytest.mark.slow
def test_textures_are_refused_by_a_classifier_of_flowers(test_data: Path, tmp_path: Path) -> None:
    sets = test_data / "datasets"
    found = foreign.measure(
        thinned(sets / "flowers5.zip", tmp_path, every=2),
        thinned(sets / "textures10.zip", tmp_path, every=4),
        backbone="formnet",
        folder=test_data / "weights",
        cache=tmp_path,
        seed=0,
    )
    assert found.accepted == pytest.approx(0.95, abs=0.03)
    assert found.refused > 0.5
    assert found.auroc > 0.8
    assert found.auroc > found.auroc_by_probability + 0.2
