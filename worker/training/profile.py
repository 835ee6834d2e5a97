"""The profile of a version with a backbone: how much data there is, and how close it is to what the backbone knows."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.backbones.weights import WeightsFile
from app.profile import HEAD, Costs, CurvePoint, Depth, Probe, Profile
from worker.training import costs, data, depths, features
from worker.training.data import Images, Selection, Splits
from worker.training.depths import Values
from worker.training.events import Emit, Event, Profiled, Progress
from worker.training.features import Extractor

Result = TypeVar("Result")

RANDOM_IMAGES = 512
"""About so many images go through the network with random values."""

_STATISTICS_IMAGES, _STATISTICS_BATCH = 64, 32
_PERCENT = 100


@dataclass(frozen=True)
class _Measuring:
    splits: Splits
    backbone: Backbone
    weights: WeightsFile
    feature_cache: Path
    max_pixels: int
    seed: int
    emit: Emit
    device: torch.device


def measure(
    splits: Splits,
    *,
    backbone: Backbone,
    weights: WeightsFile,
    feature_cache: Path,
    max_pixels: int,
    seed: int,
    emit: Emit,
    device: torch.device,
) -> Profile:
    """The profile of `splits` with the values in `weights`. Every figure comes from the training images alone; the
    features of the validation images are computed along, as a training will want them, and not looked at.

    Labels with a single training image are left out of all figures but the counts: no classifier without that image
    could know them. `feature_cache` is that of the trainings. Raises `Invalid` where not two labels are left,
    `Unavailable` and `BadImage`.
    """
    asked = _Measuring(splits, backbone, weights, feature_cache, max_pixels, seed, emit, device)
    rows = depths.measurable(splits.train.targets, seed=seed)
    few = depths.sample(splits.train.targets[rows], size=RANDOM_IMAGES, seed=seed)
    chosen = Selection(splits.train, rows[few])
    classifier, loading = _timed(lambda: _pretrained(asked))
    extractor = Extractor(classifiers.inference_form(classifier), classifier.preprocessing, weights.sha256)
    known = _values(asked, splits, extractor, rows)
    random = _random_values(asked, chosen)
    spent = costs.measure(classifier, extractor.network, chosen, max_pixels=max_pixels, device=device)
    profile = _judge(asked, known, rows, random, few, replace(spent, load=loading))
    emit(_summary(profile))
    return profile


def _pretrained(asked: _Measuring) -> Classifier:
    state = classifiers.read_state(asked.weights.path)
    classes = len(asked.splits.labels)
    return classifiers.build(asked.backbone, classes, state=state, seed=asked.seed, weights=asked.weights.weights)


def _values(asked: _Measuring, splits: Splits, extractor: Extractor, rows: NDArray[np.int64]) -> Values:
    """The features of the training images of `splits` at positions `rows`."""
    found = features.extract(
        splits,
        extractor,
        cache_dir=asked.feature_cache,
        max_pixels=asked.max_pixels,
        emit=asked.emit,
        device=asked.device,
    )
    return {depth: found.at(depth).train[rows] for depth in found.columns}


def _random_values(asked: _Measuring, chosen: Images) -> Values:
    """The features of `chosen` that the network has with random values."""
    classifier = classifiers.build(asked.backbone, len(asked.splits.labels), state=None, seed=asked.seed)
    _measure_statistics(asked, classifier, chosen)
    extractor = Extractor(
        classifiers.inference_form(classifier), classifier.preprocessing, features.digest(classifier.state())
    )
    nothing = Selection(asked.splits.validation, np.arange(0))
    return _values(asked, Splits(asked.splits.labels, chosen, nothing), extractor, np.arange(len(chosen)))


def _measure_statistics(asked: _Measuring, classifier: Classifier, images: Images) -> None:
    """Give each BatchNorm the mean and variance of what reaches it, as a training would: with those it is built with, 0
    and 1, signals grow or fade from layer to layer, which is no fair picture of an untrained network."""
    norms = [module for module in classifier.modules() if isinstance(module, _BatchNorm)]
    classifier.eval().to(asked.device)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    # In random order, since a batch of one label would miss how far labels lie apart.
    order = np.random.default_rng(asked.seed).permutation(len(images))[:_STATISTICS_IMAGES].tolist()
    parts = [order[part.start : part.stop] for part in data.parts_of(len(order), _STATISTICS_BATCH)]
    several = [part for part in parts if norms and len(part) > 1]
    with torch.no_grad():
        for batch in features.views(images, several, classifier.preprocessing, max_pixels=asked.max_pixels):
            classifier.features(batch.to(asked.device))
    classifier.eval()


def _judge(
    asked: _Measuring,
    known: Values,
    rows: NDArray[np.int64],
    random: Values,
    few: NDArray[np.int64],
    spent: Costs,
) -> Profile:
    """All figures, of the features that pre-trained values give of the training images at `rows`, and random ones of
    `few` of those."""
    every = asked.splits.train.targets
    targets = depths.numbered(every[rows])
    is_sample = len(few) < len(targets)
    of_few = depths.numbered(targets[few])
    groups = asked.splits.train.groups[rows]
    points = len(depths.shares(targets)) + len(depths.shares(of_few))
    probes = len(known) + 1 + len(random) + 1 + points + is_sample * len(known)
    tally = _Tally(asked.emit, probes=probes)
    found, together, costs = _judge_known(asked, known, targets, groups, tally, spent)
    same_images = {depth: values[few] for depth, values in known.items()} if is_sample else {}
    untrained = _untrained(random, same_images, of_few, groups[few], seed=asked.seed, emit=tally)
    counts = np.bincount(every, minlength=len(asked.splits.labels))
    return Profile(
        backbone=asked.backbone.name,
        weights=asked.weights.weights.name,
        weights_sha256=asked.weights.sha256,
        classes=len(counts),
        images=len(asked.splits.train),
        smallest_class=int(counts.min()),
        largest_class=int(counts.max()),
        measured=len(targets),
        measured_labels=depths.drawn_labels(every, rows),
        depths=found,
        together=together,
        curve=depths.curve(known[HEAD], targets, found[-1].probe, seed=asked.seed, emit=tally, groups=groups),
        random=untrained.depths,
        random_images=len(few),
        random_labels=depths.drawn_labels(targets, few),
        reference=untrained.reference,
        random_together=untrained.together,
        random_curve=untrained.curve,
        costs=replace(costs, measured=len(targets), labels=depths.known_labels(every) / depths.known_labels(targets)),
    )


def _judge_known(
    asked: _Measuring,
    known: Values,
    targets: NDArray[np.int64],
    groups: NDArray[np.int64],
    tally: Emit,
    spent: Costs,
) -> tuple[tuple[Depth, ...], Probe, Costs]:
    """What the features of each depth tell, the head's last, and those of all side by side; and `spent` with what it
    took to find out."""
    below = {depth: values for depth, values in known.items() if depth != HEAD}
    measured = partial(depths.measure, targets=targets, seed=asked.seed, emit=tally, groups=groups)
    stages, probing_stages = _timed(lambda: measured(below))
    head, probing_head = _timed(lambda: measured({HEAD: known[HEAD]}))
    together, probing_together = _timed(
        lambda: depths.together(known, targets, seed=asked.seed, emit=tally, groups=groups)
    )
    costs = replace(spent, probe=probing_head, probes=probing_stages + probing_head, together=probing_together)
    return (*stages, *head), together, costs


@dataclass(frozen=True)
class _Untrained:
    """What was measured of the network with random values, and for comparison of the pre-trained one on those images
    (`reference`, empty where they are all)."""

    depths: tuple[Depth, ...]
    reference: tuple[Depth, ...]
    together: Probe
    curve: tuple[CurvePoint, ...]


def _untrained(
    random: Values,
    same_images: Values,
    targets: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    seed: int,
    emit: Emit,
) -> _Untrained:
    measured = partial(depths.measure, targets=targets, seed=seed, emit=emit, groups=groups)
    found = measured(random)
    return _Untrained(
        depths=found,
        reference=measured(same_images),
        together=depths.together(random, targets, seed=seed, emit=emit, groups=groups),
        curve=depths.curve(random[HEAD], targets, found[-1].probe, seed=seed, emit=emit, groups=groups),
    )


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` gives, and its seconds."""
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


class _Tally:
    """An `emit` that tells how far so many probes are, in place of the progress of each."""

    def __init__(self, emit: Emit, *, probes: int) -> None:
        self._emit = emit
        self._total = _PERCENT * probes
        self._begun = 0
        self._last: Progress | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            share = _PERCENT * event.done // event.total
            # What is told again is a sign of life.
            self._begun += event.done == 0 and event != self._last
            self._last = event
            event = Progress("measure", _PERCENT * (self._begun - 1) + share, self._total)
        self._emit(event)


def _summary(profile: Profile) -> Profiled:
    best = max(profile.depths, key=lambda depth: depth.probe.accuracy)
    return Profiled(
        images=profile.measured,
        accuracy=profile.depth(HEAD).probe.accuracy,
        best_depth=best.name,
        best_accuracy=best.probe.accuracy,
        random_accuracy=max(depth.probe.accuracy for depth in profile.random),
    )
