"""The strategies of a plan: from labelled images to a classifier and how good it is."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import errors
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.backbones.preprocess import Preprocessing
from app.backbones.weights import WeightsFile
from app.recipe import Plan
from worker.training import evaluate, features, fit, probe
from worker.training.data import Splits
from worker.training.evaluate import Evaluation
from worker.training.events import Emit, Evaluated
from worker.training.features import Extractor
from worker.training.fit import Fitting


@dataclass(frozen=True)
class Trained:
    """A finished classifier, on the CPU, with its figures on the validation images."""

    classifier: Classifier
    evaluation: Evaluation
    probabilities: NDArray[np.float64]
    """For each validation image `(N, K)`."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What images go through before the classifier sees them."""
        return self.classifier.preprocessing


@dataclass(frozen=True)
class _Training:
    splits: Splits
    plan: Plan
    backbone: Backbone
    weights: WeightsFile | None
    feature_cache: Path
    workdir: Path
    max_pixels: int
    emit: Emit
    device: torch.device


def train(
    splits: Splits,
    plan: Plan,
    *,
    backbone: Backbone,
    weights: WeightsFile | None,
    feature_cache: Path,
    workdir: Path,
    max_pixels: int,
    emit: Emit,
    device: torch.device,
) -> Trained:
    """Carry out `plan` on `splits`, from the values in `weights`, or from random ones where that is None.

    `feature_cache` may be shared by all trainings; `workdir` is this one's own, and a later call with the same one
    goes on where an interrupted call stopped. Raises `Invalid`, `Unavailable` and `BadImage`.
    """
    _check(splits)
    carry_out = STRATEGIES[plan.strategy]
    trained = carry_out(_Training(splits, plan, backbone, weights, feature_cache, workdir, max_pixels, emit, device))
    figures = trained.evaluation
    emit(Evaluated(images=figures.images, accuracy=figures.accuracy, log_loss=figures.log_loss))
    return trained


def _check(splits: Splits) -> None:
    for name, images in (("training", splits.train), ("validation", splits.validation)):
        if len(images) == 0:
            raise errors.Invalid(f"the version has no {name} images", code=f"no_{name}_images")


def _train_head(training: _Training) -> Trained:
    """Only a linear classifier, on features that the network gives as it is."""
    if training.weights is None:
        raise errors.Invalid("strategy 'head' needs pre-trained weights", code="weights_needed")
    classifier = _build(training)
    extractor = Extractor(classifiers.inference_form(classifier), classifier.preprocessing, training.weights.sha256)
    found = features.extract(
        training.splits,
        extractor,
        cache_dir=training.feature_cache,
        max_pixels=training.max_pixels,
        emit=training.emit,
        device=training.device,
    )
    linear = probe.fit(
        found.train,
        training.splits.train.targets,
        classes=len(training.splits.labels),
        l2_grid=training.plan.l2_grid,
        folds=training.plan.folds,
        seed=training.plan.seed,
        emit=training.emit,
    )
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(linear.weight))
        classifier.head.bias.copy_(torch.from_numpy(linear.bias))
        logits: Tensor = classifier.head(torch.from_numpy(found.validation))
    return _trained(training, classifier.eval(), logits.double().softmax(dim=1).numpy())


def _train_full(training: _Training) -> Trained:
    """Every layer, from the first to the last."""
    classifier = _build(training)
    fitting = Fitting(
        splits=training.splits,
        plan=training.plan,
        preprocessing=classifier.preprocessing,
        max_pixels=training.max_pixels,
        workdir=training.workdir,
        fingerprint=_fingerprint(training),
        device=training.device,
        emit=training.emit,
    )
    classifier = fit.fit(classifier, fitting)
    probabilities = evaluate.predict(
        classifiers.inference_form(classifier),
        training.splits.validation,
        classifier.preprocessing,
        max_pixels=training.max_pixels,
        phase="evaluate",
        emit=training.emit,
        device=training.device,
    )
    return _trained(training, classifier.cpu(), probabilities)


STRATEGIES: dict[str, Callable[[_Training], Trained]] = {"head": _train_head, "full": _train_full}


def _build(training: _Training) -> Classifier:
    classes, seed, file = len(training.splits.labels), training.plan.seed, training.weights
    if file is None:
        return classifiers.build(training.backbone, classes, state=None, seed=seed)
    state = classifiers.read_state(file.path)
    return classifiers.build(training.backbone, classes, state=state, seed=seed, weights=file.weights)


def _trained(training: _Training, classifier: Classifier, probabilities: NDArray[np.float64]) -> Trained:
    splits = training.splits
    return Trained(
        classifier=classifier,
        evaluation=evaluate.evaluate(probabilities, splits.validation.targets, splits.labels),
        probabilities=probabilities,
    )


def _fingerprint(training: _Training) -> str:
    """sha256 over all that the trained network depends on."""
    splits = training.splits
    facts = [
        {**asdict(training.plan), "reasons": None},
        None if training.weights is None else training.weights.sha256,
        splits.labels,
        [[images.sha256, images.targets.tolist()] for images in (splits.train, splits.validation)],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
