"""The work of a search: the trials of a training job, in a folder that the job's next attempt takes over."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from app import estimates, space
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.facts import VersionFacts
from app.plan import Plan
from app.profile import Costs
from app.recipe import Recipe
from worker import messages
from worker.training import search, trials
from worker.training.data import Splits
from worker.training.events import Emit
from worker.training.rivals import Trained
from worker.training.search import CarryOut, Searching
from worker.training.trials import State


@dataclass(frozen=True)
class SearchWork:
    """A recipe with a search, and what its plan goes by."""

    recipe: Recipe
    plan: Plan
    facts: VersionFacts
    backbone: Backbone
    weights: WeightsFile | None
    costs: Costs | None
    began: float
    """When the attempt did, by `time.monotonic`."""
    job_folder: Path
    is_last_retry: bool = False
    """Whether an attempt was lost before this one, and none is left after it."""


def carry_out(work: SearchWork, splits: Splits, train: CarryOut, *, folder: Path, emit: Emit) -> Trained:
    """Search as the recipe says, going on with what `folder` holds."""
    limits = work.recipe.search
    assert limits is not None
    fingerprint = _fingerprint(work, splits)
    state = trials.load(folder)
    if state is None or state.fingerprint != fingerprint:
        state = State(fingerprint=fingerprint, costs=work.costs)
    if work.is_last_retry and state.best is not None:
        state = replace(state, running=None)  # another trial may take along what the ones before have found
    costs = state.costs

    def fitted(plan: Plan) -> Plan:
        return plan if costs is None else estimates.fitted(plan, work.recipe, work.backbone, costs)

    def estimate(plan: Plan) -> float | None:
        return None if costs is None else estimates.of(plan, work.facts, work.backbone, costs).seconds

    searching = Searching(
        space=space.of(work.recipe, work.plan, work.facts, work.backbone.facts_with(work.recipe.start)),
        limits=limits,
        splits=splits,
        carry_out=train,
        fitted=fitted,
        estimate=estimate,
        folder=folder,
        seed=work.recipe.seed,
        clock=time.monotonic,
        began=work.began,
        is_to_end=partial(messages.is_to_finish, work.job_folder),
        is_cautious=work.is_last_retry,
        emit=emit,
    )
    return search.search(searching, state)


def _fingerprint(work: SearchWork, splits: Splits) -> str:
    """sha256 over all that the trials depend on."""
    facts = [
        asdict(work.recipe),
        asdict(work.plan),
        None if work.weights is None else work.weights.sha256,
        splits.labels,
        [[images.sha256, images.targets.tolist()] for images in (splits.train, splits.validation)],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
