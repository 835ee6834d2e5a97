"""Resolving a recipe without training, and having the version measured where that is needed."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import budgets, errors, planning
from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.jobs import service as jobs
from app.jobs.schemas import RankingCreate
from app.jobs.tables import Job, Worker
from app.limits import Budget
from app.plan import Plan
from app.plans.schemas import PlanCreate
from app.profiles import service as profiles
from app.profiles.tables import StoredProfile
from app.rankings import service as rankings
from app.rankings.tables import StoredRanking
from app.recipe import Recipe

_PRESENT = timedelta(minutes=1)
"""A worker that was heard of so lately is there."""


@dataclass(frozen=True)
class Planned:
    """A plan, and what is known of the version by measuring it."""

    version: DatasetVersion
    plan: Plan
    profile: StoredProfile | None
    ranking: StoredRanking | None = None
    """Where the backbone was chosen by one."""


def needs_profile(wanted: PlanCreate) -> bool:
    """Whether the plan is not to be made before the version was measured with the backbone."""
    return wanted.measure or wanted.recipe.strategy == "auto"


def plan(
    session: Session, wanted: PlanCreate, *, max_activation_bytes: int, max_attempts: int, now: datetime
) -> Planned | Job:
    """The plan for a recipe; or the job that has to rank backbones or to measure the version first, the one that is at
    it if there is one.

    Raises `NotFound`, `UnknownName`, `Invalid` or `Conflict` as a training would.
    """
    version = datasets.asked_version(session, wanted.dataset, wanted.version)

    def planned(recipe: Recipe) -> Planned | Job:
        found = jobs.resolve_recipe(session, version, recipe, max_activation_bytes=max_activation_bytes)
        is_asked_for = wanted.measure and found.profile is None and recipe.base is None
        if found.plan is not None and not is_asked_for:
            return Planned(version, found.plan, found.profile)
        choice = profiles.choice_of(recipe)
        return jobs.submit_analysis(session, version, found.backbone, choice=choice, max_attempts=max_attempts, now=now)

    if not wanted.recipe.picks_backbone:
        return planned(wanted.recipe)
    planning.check_candidates(wanted.recipe)
    _check_comparable(version)
    row = rankings.newest_of_all(session, version)
    if row is None or not _is_current(session, row, now):
        asked = RankingCreate(kind="rank", dataset=version.dataset_id)
        return jobs.submit_ranking(session, version, asked, max_attempts=max_attempts, now=now)
    lacks = partial(planning.lacking, wanted.recipe)
    chosen, reasons = budgets.choose(rankings.figures(row), wanted.recipe.budget or Budget(), lacks)
    found = planned(replace(wanted.recipe, backbone=chosen.name, budget=None))
    if not isinstance(found, Planned):
        return found
    return replace(found, plan=replace(found.plan, reasons=(*reasons, *found.plan.reasons)), ranking=row)


def _is_current(session: Session, row: StoredRanking, now: datetime) -> bool:
    """Whether a worker would rank the same networks today, with as much memory. Where none is there that could say, it
    is taken as it is."""
    present = select(Worker.weights).where(Worker.seen_at > now - _PRESENT)
    known = [weights for weights in session.scalars(present) if weights is not None]
    found = rankings.figures(row)
    if not known:
        return True
    return not found.is_outdated(now - row.created_at) and any(found.is_of(weights) for weights in known)


def _check_comparable(version: DatasetVersion) -> None:
    try:
        jobs.check_measurable(version)
    except errors.Invalid as error:
        raise errors.Invalid(
            f"{error.message}, so backbones cannot be compared; a training takes the cheapest one at hand then, which "
            "its worker alone knows; name one to see its plan",
            code=error.code,
            detail=error.detail,
        ).at("recipe.backbone") from error
