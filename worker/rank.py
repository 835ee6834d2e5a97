"""The work of a ranking: backbones and models of one's own compared on a version."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from app import errors
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import WHOLE, Outlet
from app.models import artifact
from app.profile import HEAD
from app.ranking import OWN, Cost, Ranking
from worker import machine
from worker.places import Places
from worker.splits import splits_of
from worker.training import ranking
from worker.training.data import Splits
from worker.training.events import Emit
from worker.training.ranking import Candidate, Network
from worker.works import Missing, Own, Published, RankWork

_WEIGHT, _BIAS = "head.weight", "head.bias"

SEED = 0
"""Of the rankings that choose a backbone: the same for all, so that they can be shared."""


def rank(work: RankWork, emit: Emit) -> Ranking:
    """Carry out `work`. Raises `Unavailable` where nothing can be ranked, `Invalid` where there are too few images, and
    `BadImage`."""
    splits = splits_of(work.table, work.tag)
    candidates = at_hand(work.places) if work.candidates is None else work.candidates
    return compare(splits, candidates, places=work.places, seed=work.seed, emit=emit)


def at_hand(places: Places) -> tuple[Published, ...]:
    """All backbones of the catalogue whose first weights are on this machine, smallest first."""
    return tuple(Published(name, name, catalogue.PRETRAINED, file) for name, file in places.weights_at_hand().items())


def compare(
    splits: Splits, candidates: tuple[Published | Own | Missing, ...], *, places: Places, seed: int, emit: Emit
) -> Ranking:
    """The ranking of `candidates` on this machine. Raises as `rank`."""
    here = device()
    found = ranking.rank(
        splits,
        [*_candidates(candidates, places, seed)],
        feature_cache=places.feature_cache,
        max_pixels=places.max_image_pixels,
        seed=seed,
        emit=emit,
        device=here,
    )
    files = {each.name: each.file for each in candidates if isinstance(each, Published)}
    return replace(
        found,
        setting=replace(found.setting, machine=machine.name(here)),
        refused=tuple(replace(entry, file=files.get(entry.name)) for entry in found.refused),
    )


def cheapest_first(
    candidates: tuple[Published, ...], classes: int, *, places: Places, emit: Emit
) -> Iterator[tuple[str, Cost]]:
    """What the `candidates` cost on this machine, those that were pre-trained on photographs first, and of these those
    that do the fewest multiply-adds. Raises `Unavailable` where none can be had."""
    ordered = sorted(candidates, key=_by_expense)
    return ranking.costs_of([*_candidates(tuple(ordered), places, SEED)], classes=classes, emit=emit, device=device())


def _by_expense(candidate: Published) -> tuple[bool, float, str]:
    backbone = catalogue.find(candidate.backbone)
    # Who publishes an accuracy on ImageNet has trained on its photographs.
    return backbone.top1 is None, math.inf if backbone.gmac is None else backbone.gmac, candidate.name


def device() -> torch.device:
    """Where networks are measured."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _candidates(wanted: tuple[Published | Own | Missing, ...], places: Places, seed: int) -> Iterator[Candidate]:
    for each in wanted:
        match each:
            case Published():
                yield Candidate(each.name, partial(_published, each, places, seed=seed))
            case Own():
                yield Candidate(each.name, partial(_own, each))
            case Missing():
                yield Candidate(each.name, partial(_missing, each))


def _published(wanted: Published, places: Places, classes: int, *, seed: int) -> Network:
    backbone = catalogue.find(wanted.backbone)
    file = places.obtain(backbone, wanted.choice)
    state = classifiers.read_state(file.path)
    built = classifiers.build(backbone, classes, state=state, seed=seed, weights=file.weights)
    macs = _macs(backbone, built.preprocessing, WHOLE)
    return Network(built, file.weights.name, file.sha256, macs=macs, has_seen=False)


def _own(wanted: Own, classes: int) -> Network:
    found = artifact.read(wanted.folder)
    # With a new classifier for the labels at hand, as all others have: nobody asks what its own says.
    old = found.state[_WEIGHT]
    state = {**found.state, _WEIGHT: old.new_zeros(classes, old.shape[1]), _BIAS: old.new_zeros(classes)}
    restored = classifiers.restore(found.backbone, classes, found.preprocessing, state, outlet=found.outlet)
    macs = _macs(catalogue.find(found.backbone), found.preprocessing, found.outlet)
    return Network(restored, OWN, artifact.weights_sha256(wanted.folder), macs=macs, has_seen=wanted.has_seen)


def _missing(wanted: Missing, _classes: int) -> Network:
    raise errors.NotFound(wanted.message, code=wanted.code)


def _macs(backbone: Backbone, preprocessing: Preprocessing, outlet: Outlet) -> int | None:
    """Multiply-adds of one image, as far as the catalogue knows them for images of this size."""
    if preprocessing.crop != backbone.input_size:
        return None
    last = outlet.stage or (outlet.taps[-1] if outlet.taps else HEAD)
    if last == HEAD:
        return None if backbone.gmac is None else round(backbone.gmac * 1e9)
    names = [stage.name for stage in backbone.stages]
    known = [stage.macs for stage in backbone.stages[: names.index(last) + 1]]
    return None if None in known else sum(count for count in known if count is not None)
