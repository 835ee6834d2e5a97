"""The work of a training: a plan carried out on a version, ending in an artifact."""

import platform
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from app import budgets, errors, estimates, evaluation, files, planning, policy
from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.datasets import store
from app.evaluation import Evaluation
from app.limits import Budget
from app.models import artifact
from app.models.artifact import Artifact, Calibration
from app.plan import Plan
from app.profile import Profile, check_measurable
from app.ranking import Ranking
from app.recipe import NO_WEIGHTS, OF_BASE
from worker import analyse, bases, rank, searching
from worker.places import Places
from worker.searching import SearchWork
from worker.splits import splits_of
from worker.training import caches, checkpoint, costs, frequencies, report, strategies, trials
from worker.training.data import Splits
from worker.training.events import Emit, Planned
from worker.training.rivals import Trained
from worker.training.warm import Base
from worker.works import TrainOutcome, TrainWork

_CHECKPOINTS, _SEARCH, _ARTIFACT = "checkpoints", "search", "artifact"
"""In the folder of an attempt."""
_SETTLED = "settled.json"
"""In that of the job."""
_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pylance")


@dataclass(frozen=True)
class _Settled:
    """A plan, and what was measured for it here."""

    plan: Plan
    measured: Profile | None = None
    ranked: Ranking | None = None


_KEPT = TypeAdapter(_Settled)


def train(work: TrainWork, emit: Emit) -> TrainOutcome:
    """Carry out `work`, after deciding what with and how, where that is left open. Raises `WeightsUnavailable`, and
    `Invalid` where no backbone fits."""
    began = time.monotonic()
    splits = splits_of(work.table, work.tag)
    base = _base(work)
    settled = _settled(work, splits, emit)
    plan = settled.plan
    backbone = catalogue.find(plan.backbone)
    file = _weights(work.places, backbone, plan.weights)
    # Each attempt writes into a folder of its own: a stale one that is still at work spoils nothing.
    folder = work.folder / work.version_id
    earlier = _earlier_attempts(work)
    training = _Training(work, splits, backbone, file, base)
    _take_over(earlier, folder)
    if work.recipe.search is None:
        trained = training.carry_out(plan, folder / _CHECKPOINTS, emit)
    else:
        trained = training.search(plan, settled.measured or work.profile, folder / _SEARCH, emit, began=began)
    chosen = _is_choosing(plan) or work.recipe.search is not None
    most = work.places.max_image_pixels
    found = report.report(trained, splits, also_chosen_by=chosen, max_pixels=most, emit=emit)
    figures = _with_paths(found.evaluation, work)
    result = Artifact(
        backbone=backbone.name,
        labels=splits.labels,
        preprocessing=trained.preprocessing,
        plan=asdict(trained.plan),
        evaluation=evaluation.plain(figures),
        provenance=_provenance(training, file, trained),
        state=trained.classifier.state(),
        outlet=trained.classifier.outlet,
        calibration=_calibration(figures, trained),
    )
    _write(folder, result, thumbnails=found.thumbnails)
    return TrainOutcome(
        artifact=folder / _ARTIFACT,
        version_id=work.version_id,
        plan=trained.plan,
        labels=splits.labels,
        evaluation=dict(evaluation.brief(figures)),
        provenance=dict(result.provenance),
        measured=settled.measured,
        ranked=settled.ranked,
        is_optimised=work.is_optimised,
    )


def _write(folder: Path, result: Artifact, *, thumbnails: Sequence[bytes]) -> None:
    """Write the artifact of the attempt with this `folder`. Raises what the disk says where it has no room even so."""
    try:
        artifact.write(folder / _ARTIFACT, result, thumbnails=thumbnails)
    except Exception as error:
        if not files.is_of_full_disk(error):
            raise
        # What the attempt has kept on its way takes more, and would be of use only if all was lost now.
        for name in (_ARTIFACT, _CHECKPOINTS, _SEARCH):
            shutil.rmtree(folder / name, ignore_errors=True)
        artifact.write(folder / _ARTIFACT, result, thumbnails=thumbnails)


@dataclass(frozen=True)
class _Training:
    """What every training of the job has in common."""

    work: TrainWork
    splits: Splits
    backbone: Backbone
    weights: WeightsFile | None
    base: Base | None

    def carry_out(self, plan: Plan, workdir: Path, emit: Emit) -> Trained:
        device, *others = _devices(plan)
        return strategies.train(
            self.splits,
            plan,
            backbone=self.backbone,
            weights=self.weights,
            feature_cache=self.work.places.feature_cache,
            workdir=workdir,
            max_pixels=self.work.places.max_image_pixels,
            max_activation_bytes=self.work.max_activation_bytes,
            emit=emit,
            device=device,
            others=tuple(others),
            base=self.base,
            pieces=self._pieces(plan, device),
        )

    def _pieces(self, plan: Plan, device: torch.device) -> int:
        """In how many each batch is computed, so that it fits the memory and takes less of it than in the attempts
        that were killed."""
        fitting = estimates.pieces(
            plan,
            self.backbone,
            device=device.type,
            memory_bytes=costs.device_bytes(device),
            is_batch_by_hand=self.work.recipe.batch_size is not None,
        )
        # The trials of a search are to be the same, and compared, whatever has happened meanwhile.
        if self.work.recipe.search is not None:
            return fitting
        return fitting << self.work.memory_kills

    def search(self, plan: Plan, profile: Profile | None, workdir: Path, emit: Emit, *, began: float) -> Trained:
        work = SearchWork(
            recipe=replace(self.work.recipe, backbone=plan.backbone, budget=None),
            plan=plan,
            facts=self.work.facts,
            backbone=self.backbone,
            weights=self.weights,
            costs=None if profile is None else profile.costs,
            began=began,
            job_folder=self.work.folder,
            is_last_retry=self.work.is_last_retry,
        )
        return searching.carry_out(work, self.splits, self.carry_out, folder=workdir, emit=emit)


def _earlier_attempts(work: TrainWork) -> list[Path]:
    """Their folders, in which there is no more than another attempt goes on with. One of them may still be at work:
    what it maps it has, what it misses ends it, and nothing of it counts."""
    # Ids sort by the time they were made: an attempt that begins late, its lease being over, spoils nothing of the one
    # that has taken its place.
    found = [path for path in work.folder.glob("*") if path.is_dir() and path.name < work.version_id]
    for path in found:
        caches.discard(path)
        shutil.rmtree(path / _ARTIFACT, ignore_errors=True)
    return found


def _take_over(earlier: list[Path], folder: Path) -> None:
    """Make the furthest of the `earlier` states that of `folder`, and remove those that have nothing more."""
    checkpoint.take_over(folder / _CHECKPOINTS, [path / _CHECKPOINTS for path in earlier])
    trials.take_over(folder / _SEARCH, [path / _SEARCH for path in earlier])
    for path in earlier:
        if _reach(path) <= _reach(folder):
            shutil.rmtree(path, ignore_errors=True)


def _reach(folder: Path) -> tuple[tuple[int, ...], ...]:
    """Of an attempt, which has trained or searched."""
    return checkpoint.reach(folder / _CHECKPOINTS), trials.reach(folder / _SEARCH)


def _base(work: TrainWork) -> Base | None:
    if work.base is None or work.plan is None or work.plan.base is None:
        return None
    return bases.read(work.base, work.plan.base)


def _is_choosing(plan: Plan) -> bool:
    """Whether the validation images may decide which of several classifiers is kept."""
    descent = plan.descent
    return plan.rival is not None or (
        descent is not None and (plan.reinit == "none" or descent.patience is not None)  # the start counts, or an epoch
    )


def _with_paths(found: Evaluation, work: TrainWork) -> Evaluation:
    """`found`, whose mistakes say which files they are."""
    mistakes = found.mistakes or ()
    paths = store.paths_of(work.table, work.tag, [one.sha256 for one in mistakes])
    named = tuple(replace(one, path=paths.get((one.sha256, one.label))) for one in mistakes)
    return replace(found, mistakes=named)


def _calibration(found: Evaluation, trained: Trained) -> Calibration:
    """What serving needs of the evaluation, which a report has in full."""
    assert found.reliability is not None
    assert found.unknown is not None
    assert found.conformal is not None
    return Calibration(
        temperature=found.reliability.temperature,
        unknown_below=found.unknown.threshold,
        conformal=tuple((one.alpha, one.threshold) for one in found.conformal),
        means=torch.from_numpy(trained.means),
    )


def _weights(places: Places, backbone: Backbone, choice: str) -> WeightsFile | None:
    if choice in (NO_WEIGHTS, OF_BASE):
        return None
    return places.obtain_chosen(backbone, choice)


def _devices(plan: Plan) -> list[torch.device]:
    """What this machine has for the training, the leading one first."""
    if not torch.cuda.is_available():
        return [torch.device("cpu")]
    most = None if plan.descent is None else plan.descent.devices
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())][:most]


def _settled(work: TrainWork, splits: Splits, emit: Emit) -> _Settled:
    """The job's plan with what was measured for it, which the first attempt leaves to those after it."""
    place = work.folder / _SETTLED
    if work.plan is None:
        settled = _settle(work, splits, emit)
        _keep(settled, place, work.version_id)
        emit(Planned(asdict(settled.plan)))
        return settled
    with suppress(OSError, ValueError):
        kept = _KEPT.validate_json(place.read_bytes())
        # An attempt whose lease was over may have left what it decided, and not what the job goes by.
        if kept.plan == work.plan:
            return kept
    return _Settled(work.plan)


def _keep(settled: _Settled, place: Path, attempt: str) -> None:
    """For later attempts, which can do without it."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{attempt}.part")
        part.write_bytes(_KEPT.dump_json(settled))
        part.replace(place)


def _settle(work: TrainWork, splits: Splits, emit: Emit) -> _Settled:
    """Decide what the recipe leaves open."""
    recipe, ranked = work.recipe, None
    reasons: tuple[str, ...] = ()
    if recipe.picks_backbone:
        name, reasons, ranked = _pick(work, splits, emit)
        recipe = replace(recipe, backbone=name, budget=None)
    plan, measured = _decide(replace(work, recipe=recipe), splits, emit)
    return _Settled(replace(plan, reasons=(*reasons, *plan.reasons)), measured, ranked)


def _pick(work: TrainWork, splits: Splits, emit: Emit) -> tuple[str, tuple[str, ...], Ranking | None]:
    """The backbone to take, why, and the ranking that was made for it."""
    budget, lacks = work.recipe.budget or Budget(), partial(planning.lacking, work.recipe)
    if why := _why_unmeasurable(splits):
        costs = rank.cheapest_first(rank.at_hand(work.places), len(splits.labels), places=work.places, emit=emit)
        return *budgets.choose_unmeasured(costs, budget, why, lacks), None
    known, ranked = _ranking(work, splits, emit)
    chosen, reasons = budgets.choose(known, budget, lacks)
    return chosen.name, reasons, ranked


def _ranking(work: TrainWork, splits: Splits, emit: Emit) -> tuple[Ranking, Ranking | None]:
    """The ranking of all backbones at hand, the one that is known where it is still that; and what was ranked here."""
    known, weights_here = work.ranking, work.places.weights_at_hand()
    if known is not None and known.is_of(weights_here) and known.setting.device == rank.device().type:
        return known, None
    candidates = rank.at_hand(work.places)
    made = rank.compare(splits, candidates, places=work.places, seed=rank.SEED, emit=emit)
    return made, made


def _decide(work: TrainWork, splits: Splits, emit: Emit) -> tuple[Plan, Profile | None]:
    """Measure, if that has not been done, and plan by it; what was measured."""
    backbone = catalogue.find(work.recipe.backbone)
    file = _weights(work.places, backbone, work.recipe.start)
    assert file is not None
    if work.profile is not None and work.profile.weights_sha256 == file.sha256:
        return planning.measured(work.recipe, work.facts, backbone, work.profile), None
    if why := _why_unmeasurable(splits):
        return policy.unmeasured(work.recipe, work.facts, why, backbone.facts), None
    measured = analyse.measure(
        splits,
        backbone,
        file,
        feature_cache=work.places.feature_cache,
        max_pixels=work.places.max_image_pixels,
        emit=emit,
    )
    return planning.measured(work.recipe, work.facts, backbone, measured), measured


def _why_unmeasurable(splits: Splits) -> str:
    """Why there are too few images to measure anything; empty where there are enough."""
    try:
        check_measurable(np.bincount(splits.train.targets, minlength=len(splits.labels)).tolist())
    except errors.Invalid as error:
        return error.message
    return ""


def _provenance(training: _Training, file: WeightsFile | None, trained: Trained) -> dict[str, Any]:
    work, start = training.work, trained.plan.base
    return {
        "dataset": {"id": work.dataset_id, "version": work.version, "content_hash": work.content_hash},
        "backbone": {
            "name": training.backbone.name,
            "weights": None if file is None else _weights_provenance(file),
            "outlet": asdict(trained.classifier.outlet),
        },
        "base": None if start is None else asdict(start),
        "learned": frequencies.learned(training.splits, training.base, start),
        "seed": work.recipe.seed,
        "libraries": {"python": platform.python_version(), **{name: installed(name) for name in _LIBRARIES}},
    }


def _weights_provenance(file: WeightsFile) -> dict[str, Any]:
    # A file of the operator's own only stands in for published weights.
    digits = file.weights.sha256_prefix
    name = file.weights.name if digits is None or file.sha256.startswith(digits) else None
    return {"name": name, "file": file.path.name, "sha256": file.sha256, "source": file.source}
