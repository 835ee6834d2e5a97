"""How well the features of several networks suit a version, and what each costs: one pass of the images for each."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app import errors, ranking
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier, InferenceForm
from app.profile import HEAD
from app.ranking import Cost, MeasuredNetwork, Ranking, Refused, Setting
from app.runtimes import memory
from worker.training import costs, depths, features, transferability
from worker.training.data import Splits
from worker.training.events import CandidateMeasured, CandidateRefused, Emit, Event, FeaturesNotKept, Progress, Ranked
from worker.training.features import Extractor

_PART = 1000
"""Steps of progress for each network."""
_FEATURES_SHARE = 0.8


@dataclass(frozen=True)
class Network:
    """A frozen network, ready to be measured."""

    classifier: Classifier
    weights: str
    """Name of the published weights."""
    weights_sha256: str
    macs: int | None
    """Multiply-adds of one image; None where they are not known."""
    has_seen: bool
    """Whether it may have been trained on images of this version."""


@dataclass(frozen=True)
class Candidate:
    """What is to be ranked under `name`; the network is made when its turn comes, and only one is there at a time."""

    name: str
    make: Callable[[int], Network]
    """From the number of labels. What it raises as `Unavailable`, `Invalid` or `NotFound` is why it is not ranked."""


@dataclass(frozen=True)
class _Measuring:
    splits: Splits
    rows: NDArray[np.int64]
    """Positions of the training images that are measured."""
    targets: NDArray[np.int64]
    """Of those, from 0 on without gaps."""
    groups: NDArray[np.int64]
    """Of those, a number that near copies have in common."""
    feature_cache: Path
    max_pixels: int
    seed: int
    device: torch.device


def rank(
    splits: Splits,
    candidates: Sequence[Candidate],
    *,
    feature_cache: Path,
    max_pixels: int,
    seed: int,
    emit: Emit,
    device: torch.device,
) -> Ranking:
    """The ranking of `candidates` on the training images of `splits`; `feature_cache` is that of the trainings.

    One that cannot be had is told with its reason, and the rest is ranked. Raises `Unavailable` where none is left,
    `Invalid` where there are too few images, and `BadImage`.
    """
    if not candidates:
        raise _nothing_at_hand()
    rows = depths.measurable(splits.train.targets, seed=seed)
    targets = depths.numbered(splits.train.targets[rows])
    groups = splits.train.groups[rows]
    measuring = _Measuring(splits, rows, targets, groups, feature_cache, max_pixels, seed, device)
    measured: list[MeasuredNetwork] = []
    refused: list[Refused] = []
    for place, candidate in enumerate(candidates):
        tally = _Tally(emit, place=place, of=len(candidates))
        found = _tried(measuring, candidate, tally)
        if isinstance(found, Refused):
            refused.append(found)
            emit(CandidateRefused(found.name, found.code, found.message))
        else:
            measured.append(found)
            emit(_told(found))
    if not measured:
        raise _all_refused(refused)
    setting = Setting(
        classes=len(splits.labels),
        images=len(splits.train),
        measured_images=len(rows),
        measured_labels=depths.drawn_labels(splits.train.targets, rows),
        seed=seed,
        device=device.type,
        threads=torch.get_num_threads(),
    )
    made = ranking.order(setting, measured, refused)
    emit(Ranked(order=tuple(entry.name for entry in made.measured), remarks=made.remarks))
    return made


def costs_of(
    candidates: Sequence[Candidate], *, classes: int, emit: Emit, device: torch.device
) -> Iterator[tuple[str, Cost]]:
    """What each of `candidates` costs, in their order, as it is asked for; one that cannot be had is told and passed
    over. Raises `Unavailable` where none is left."""
    if not candidates:
        raise _nothing_at_hand()
    refused: list[Refused] = []
    for candidate in candidates:
        try:
            network = candidate.make(classes)
            found = _cost(network, classifiers.inference_form(network.classifier), device)
        except (errors.Unavailable, errors.Invalid, errors.NotFound) as error:
            refused.append(Refused(name=candidate.name, code=error.code, message=error.message))
            emit(CandidateRefused(candidate.name, error.code, error.message))
        else:
            yield candidate.name, found
    if len(refused) == len(candidates):
        raise _all_refused(refused)


def _nothing_at_hand() -> errors.Unavailable:
    return errors.Unavailable("no backbone's weights are at hand, so nothing can be ranked", code="nothing_to_rank")


def _all_refused(refused: Sequence[Refused]) -> errors.Unavailable:
    return errors.Unavailable(
        f"nothing could be ranked: {'; '.join(f'{entry.name}: {entry.message}' for entry in refused)}",
        code="nothing_to_rank",
        detail={"refused": {entry.name: entry.code for entry in refused}},
    )


def _cost(network: Network, form: InferenceForm, device: torch.device) -> Cost:
    classifier = network.classifier
    kept = classifier.state()
    return Cost(
        parameters=sum(value.numel() for name, value in classifier.named_parameters() if name in kept),
        size_bytes=sum(value.nbytes for value in kept.values()),
        macs=network.macs,
        latency=costs.latency(form, classifier.preprocessing.crop, device=device),
    )


def _tried(measuring: _Measuring, candidate: Candidate, emit: "_Tally") -> MeasuredNetwork | Refused:
    started = time.perf_counter()
    try:
        network = candidate.make(len(measuring.splits.labels))
    except (errors.Unavailable, errors.Invalid, errors.NotFound) as error:
        return Refused(name=candidate.name, code=error.code, message=error.message)
    try:
        with memory.told_alike():
            return _measured(measuring, candidate.name, network, started, emit)
    except torch.OutOfMemoryError:
        return Refused(
            name=candidate.name,
            code=ranking.OUT_OF_MEMORY,
            message=f"the memory of the {measuring.device.type} is too small for it",
        )


def _measured(measuring: _Measuring, name: str, network: Network, started: float, emit: "_Tally") -> MeasuredNetwork:
    classifier = network.classifier
    form = classifiers.inference_form(classifier)
    found = features.extract(
        measuring.splits,
        Extractor(form, classifier.preprocessing, network.weights_sha256),
        cache_dir=measuring.feature_cache,
        max_pixels=measuring.max_pixels,
        emit=emit,
        device=measuring.device,
    )
    values = found.at(HEAD).train[measuring.rows]
    targets, seed = measuring.targets, measuring.seed
    scores = transferability.score(values, targets, classes=int(targets.max()) + 1, seed=seed)
    probe = depths.linear(values, targets, seed=seed, emit=emit, groups=measuring.groups)
    return MeasuredNetwork(
        name=name,
        weights=network.weights,
        weights_sha256=network.weights_sha256,
        features=values.shape[1],
        log_me=scores.log_me,
        h_score=scores.h_score,
        neighbours=scores.neighbours,
        probe=probe,
        cost=_cost(network, form, measuring.device),
        has_seen=network.has_seen,
        seconds=time.perf_counter() - started,
        cached=emit.cached,
    )


class _Tally:
    """An `emit` that tells how far the ranking is, in place of the progress of each part of it."""

    def __init__(self, emit: Emit, *, place: int, of: int) -> None:
        self._emit = emit
        self._place = place
        self._of = of
        self.cached = True
        """Whether no features had to be computed."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._emit(Progress("rank", round(_PART * (self._place + self._share(event))), _PART * self._of))
        elif isinstance(event, FeaturesNotKept):
            self._emit(event)

    def _share(self, event: Progress) -> float:
        """Of the work on this network that is done."""
        share = event.done / max(1, event.total)
        if event.phase == "features":
            self.cached = False
            return _FEATURES_SHARE * share
        return _FEATURES_SHARE + (1 - _FEATURES_SHARE) * share


def _told(found: MeasuredNetwork) -> CandidateMeasured:
    return CandidateMeasured(
        name=found.name,
        accuracy=found.probe.accuracy,
        log_me=found.log_me,
        h_score=found.h_score,
        neighbours=found.neighbours,
        latency=found.cost.latency.seconds,
        seconds=found.seconds,
        cached=found.cached,
    )
