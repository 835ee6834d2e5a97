"""The strategies of a plan: from labelled images to a classifier and how good it is."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from app import errors
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.backbones.taps import WHOLE, Outlet
from app.backbones.weights import WeightsFile
from app.plan import Plan
from app.recipe import ALL_STAGES, BEST_STAGE
from app.runtimes import memory
from app.warmstart import Kept, WarmStart
from worker.training import (
    caches,
    evaluate,
    features,
    fit,
    frequencies,
    outcomes,
    precision,
    probe,
    retention,
    rivals,
    stage_probe,
    warm,
)
from worker.training.caches import Caches
from worker.training.data import Splits
from worker.training.evaluate import Answers, Judge
from worker.training.events import BaseHasSeen, Emit, Evaluated
from worker.training.features import Extractor, Features
from worker.training.feed import Feed, ImageFeed
from worker.training.fitting import Fitting
from worker.training.learner import Diverged
from worker.training.probe import Linear
from worker.training.retention import Pair
from worker.training.rivals import Trained
from worker.training.stage_probe import Fitted, Grid
from worker.training.table import Rows
from worker.training.warm import Base


@dataclass(frozen=True)
class _Training:
    splits: Splits
    plan: Plan
    backbone: Backbone
    weights: WeightsFile | None
    base: Base | None
    feature_cache: Path
    workdir: Path
    max_pixels: int
    max_activation_bytes: int
    emit: Emit
    device: torch.device
    others: tuple[torch.device, ...]
    pieces: int
    is_exact: bool
    """Whether classifiers on features, the rival among them, get those that serving would compute."""

    @property
    def values_sha256(self) -> str | None:
        """Of the values that the network starts from; None for random ones."""
        if self.base is not None:
            return self.base.sha256
        return None if self.weights is None else self.weights.sha256

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The labels of the base whose rows are kept."""
        return () if self.plan.base is None else self.plan.base.kept


def train(
    splits: Splits,
    plan: Plan,
    *,
    backbone: Backbone,
    weights: WeightsFile | None,
    feature_cache: Path,
    workdir: Path,
    max_pixels: int,
    max_activation_bytes: int,
    emit: Emit,
    device: torch.device,
    others: tuple[torch.device, ...] = (),
    base: Base | None = None,
    pieces: int = 1,
) -> Trained:
    """Carry out `plan` on `splits`, from the values in `weights`, from those of `base` where the plan has one, or else
    from random ones.

    `feature_cache` may be shared by all trainings; `workdir` is this one's own, and a later call with the same one
    goes on where an interrupted call stopped. At most so many bytes of activations are kept in it. `others` are devices
    besides `device` that share the steps of the training, as far as the plan has any; on a CPU each batch is cut in so
    many `pieces` for the same steps. Raises `Invalid`, `Unavailable`, `BadImage`, `PeerLost`, and `OutOfMemoryError`
    where even less at a time has no room.
    """
    _check(splits)
    if base is not None and plan.base is not None and plan.base.replay:
        splits = warm.with_replay(splits, base, plan.base)
    training = _Training(
        splits=splits,
        plan=plan,
        backbone=backbone,
        weights=weights,
        base=base,
        feature_cache=feature_cache,
        workdir=workdir,
        max_pixels=max_pixels,
        max_activation_bytes=max_activation_bytes,
        emit=emit,
        device=device,
        others=others,
        pieces=pieces,
        is_exact=plan.descent is not None and plan.descent.precision == "fp32",
    )
    with memory.told_alike(), precision.deterministic(wanted=plan.deterministic):
        trained = _carried_out(training) if plan.rival is None else _best_of_two(training, plan.rival)
    figures = trained.evaluation
    emit(Evaluated(images=figures.images, accuracy=figures.accuracy, log_loss=figures.log_loss))
    return trained if base is None or plan.base is None else _compared(training, base, plan.base, trained)


def _carried_out(training: _Training) -> Trained:
    def carry_out(emit: Emit) -> Trained:
        noting = replace(training, emit=emit)
        _tell_of_seen_images(noting)
        return STRATEGIES[training.plan.strategy](noting)

    try:
        return outcomes.noted(carry_out, training.emit, training.splits.validation.targets)
    finally:
        # One that is paused may wait for days, and goes on from its checkpoints alone.
        caches.discard(training.workdir)


def _tell_of_seen_images(training: _Training) -> None:
    # It may be of another data set, which has divided the same photos otherwise.
    seen = 0 if training.base is None else warm.seen(training.base, training.splits)
    if seen:
        training.emit(BaseHasSeen(images=seen, all_images=len(training.splits.validation)))


def _compared(training: _Training, base: Base, start: WarmStart, trained: Trained) -> Trained:
    """`trained` with what it does for the labels that the base knew."""
    pair = Pair(base, training.backbone.name, start, trained.classifier, training.splits)
    judged = retention.judge(pair, max_pixels=training.max_pixels, emit=training.emit, device=training.device)
    trained.classifier.cpu()
    return replace(trained, old_labels=judged)


def _best_of_two(training: _Training, other: Plan) -> Trained:
    plan = training.plan
    trained: Trained | None = None
    try:
        trained = _carried_out(training)
    except Diverged as error:
        said = f"The rival is kept: the training of strategy '{plan.strategy}' diverged in epoch {error.epoch}."
    rival = _carried_out(replace(training, plan=other, workdir=training.workdir / "rival"))
    if trained is None:
        return rivals.instead(rival, plan, said)
    return rivals.better(trained, rival, plan, training.splits.validation.targets, training.emit)


def _check(splits: Splits) -> None:
    for name, images in (("training", splits.train), ("validation", splits.validation)):
        if len(images) == 0:
            raise errors.Invalid(f"the version has no {name} images", code=f"no_{name}_images")


def _train_head(training: _Training) -> Trained:
    """Only a linear classifier, on features that the network gives as it is."""
    classifier = _build(training)
    found = _features(training, classifier).at(features.HEAD)
    _fit_head(training, classifier, found.train)
    _raise_old_labels(training, classifier)
    answers = evaluate.answer_from(found, classifier.eval().head, training.splits, seed=training.plan.seed)
    return _trained(training, classifier, answers)


def _features(training: _Training, classifier: Classifier) -> Features:
    """What the network gives at every depth as it is."""
    if training.values_sha256 is None:
        raise errors.Invalid(f"strategy {training.plan.strategy!r} needs pre-trained weights", code="weights_needed")
    extractor = Extractor(
        classifiers.inference_form(classifier),
        classifier.preprocessing,
        training.values_sha256,
        is_exact=training.is_exact,
    )
    return features.extract(
        training.splits,
        extractor,
        cache_dir=training.feature_cache,
        max_pixels=training.max_pixels,
        emit=training.emit,
        device=training.device,
    )


def _fit_head(training: _Training, classifier: Classifier, values: Rows) -> None:
    """Make the head the best linear classifier on the features `values (N, D)` of the training images."""
    _set_head(classifier, _linear(training, values))


def _linear(training: _Training, values: Rows) -> Linear:
    return probe.fit(
        values,
        training.splits.train.targets,
        classes=len(training.splits.labels),
        l2_grid=training.plan.l2_grid,
        folds=training.plan.folds,
        seed=training.plan.seed,
        emit=training.emit,
        # Fitted anew, it would throw the rows of the old labels away.
        prior=None if training.base is None else warm.prior(training.base, training.splits, training.kept),
        groups=training.splits.train.groups if len(training.plan.l2_grid) > 1 else None,
    )


def _raise_old_labels(training: _Training, classifier: Classifier) -> None:
    if training.base is not None and training.plan.base is not None:
        frequencies.raise_old(classifier, training.splits, training.base, training.plan.base, training.emit)


def _set_head(classifier: Classifier, linear: Linear) -> None:
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(linear.weight))
        classifier.head.bias.copy_(torch.from_numpy(linear.bias))


def _train_stage_probe(training: _Training) -> Trained:
    """A linear classifier on the features of a stage or of all stages, and a network that ends where they come from."""
    found = _features(training, _build(training))
    fitted = _fit_stages(training, found)
    columns = None if fitted.columns is None else torch.from_numpy(fitted.columns)
    classifier = _build(training, outlet=fitted.outlet, columns=columns)
    _set_head(classifier, fitted.linear)
    return _judged(training, classifier.eval())


def _fit_stages(training: _Training, found: Features) -> Fitted:
    plan, images, classes = training.plan, training.splits.train, len(training.splits.labels)
    if plan.stage in _COMPARED:
        grid = Grid(plan.l2_grid, plan.folds, plan.shares)
        fitted = _COMPARED[plan.stage]
        return fitted(
            found, images.targets, classes=classes, grid=grid, seed=plan.seed, emit=training.emit, groups=images.groups
        )
    # Of a network whose own classifier gets the mean over its last stage there are no features of that stage besides.
    depth = plan.stage if plan.stage and plan.stage in found.columns else features.HEAD
    return Fitted(_linear(training, found.at(depth).train), stage_probe.outlet_of(depth), columns=None)


_COMPARED = {ALL_STAGES: stage_probe.fit_selected, BEST_STAGE: stage_probe.fit_best}


def _train_top(training: _Training) -> Trained:
    """The last stages, the others as they are, their activations computed once."""
    plan = training.plan
    assert plan.freeze is not None
    classifier = _build(training)
    if plan.reinit == "retrained":
        others = classifiers.build(training.backbone, len(training.splits.labels), state=None, seed=plan.seed)
        classifiers.renew(classifier, others, behind=plan.freeze)
    classifier.freeze(plan.freeze)
    feed = _caches(training, classifier).activations(_images(training, classifier))
    if plan.reinit == "none":
        _fit_head(training, classifier, feed.features(classifier, folder=training.workdir, emit=training.emit))
    return _fitted(training, classifier, feed)


def _train_full(training: _Training) -> Trained:
    """Every layer, from the first to the last."""
    classifier = _build(training)
    if training.values_sha256 is not None and training.plan.reinit == "none":
        # Kept on disk, they are there already where the plan has come from a comparison of backbones.
        _fit_head(training, classifier, _features(training, classifier).at(features.HEAD).train)
    return _fitted(training, classifier, _caches(training, classifier).decoded(_images(training, classifier)))


def _caches(training: _Training, classifier: Classifier) -> Caches:
    return Caches(classifier, training.plan, training.workdir, training.max_activation_bytes, training.emit)


def _images(training: _Training, classifier: Classifier) -> ImageFeed:
    assert training.plan.descent is not None
    return ImageFeed(
        splits=training.splits,
        preprocessing=classifier.preprocessing,
        augmentation=training.plan.descent.augmentation,
        seed=training.plan.seed,
        max_pixels=training.max_pixels,
        device=training.device,
    )


def _fitted(training: _Training, classifier: Classifier, feed: Feed) -> Trained:
    assert training.plan.descent is not None
    fitting = Fitting(
        splits=training.splits,
        feed=feed,
        descent=training.plan.descent,
        seed=training.plan.seed,
        workdir=training.workdir,
        fingerprint=_fingerprint(training),
        others=training.others,
        pieces=training.pieces,
        device=training.device,
        emit=training.emit,
        start_counts=training.plan.reinit == "none",
    )
    fitted = fit.fit(classifier, fitting)
    _raise_old_labels(training, fitted)
    return _judged(training, fitted)


def _judged(training: _Training, classifier: Classifier) -> Trained:
    """With its figures on the validation images, which take the same way as in serving."""
    judge = Judge(
        network=classifiers.inference_form(classifier),
        preprocessing=classifier.preprocessing,
        max_pixels=training.max_pixels,
        device=training.device,
        emit=training.emit,
    )
    return _trained(training, classifier.cpu(), evaluate.answer(judge, training.splits, seed=training.plan.seed))


STRATEGIES: dict[str, Callable[[_Training], Trained]] = {
    "head": _train_head,
    "stage_probe": _train_stage_probe,
    "top": _train_top,
    "full": _train_full,
    "scratch": _train_full,
}


def _build(training: _Training, *, outlet: Outlet = WHOLE, columns: Tensor | None = None) -> Classifier:
    if training.base is not None:
        return warm.build(training.backbone.name, training.base, training.splits.labels, training.kept)
    classes, seed, file = len(training.splits.labels), training.plan.seed, training.weights
    if file is None:
        return classifiers.build(training.backbone, classes, state=None, seed=seed)
    state = classifiers.read_state(file.path)
    return classifiers.build(
        training.backbone, classes, state=state, seed=seed, weights=file.weights, outlet=outlet, columns=columns
    )


def _trained(training: _Training, classifier: Classifier, answers: Answers) -> Trained:
    splits = training.splits
    return Trained(
        classifier=classifier,
        evaluation=evaluate.evaluate(answers.probabilities, splits.validation.targets, splits.labels),
        probabilities=answers.probabilities,
        similarities=answers.similarities,
        means=answers.means,
        plan=training.plan,
    )


def _fingerprint(training: _Training) -> str:
    """sha256 over all that the trained network depends on."""
    splits = training.splits
    plan = replace(training.plan, reasons=(), rival=None, quadrant=None, expected=None, estimate=None)
    told = asdict(plan)
    if plan.base is not None:
        del told["base"]["label_prior"]  # which counts when all else is done
    facts = [
        told,
        training.values_sha256,
        splits.labels,
        [[images.sha256, images.targets.tolist()] for images in (splits.train, splits.validation)],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
