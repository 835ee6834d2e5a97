"""Whether a search can begin: there is something to search, and time for its first trial as far as that is known."""

from sqlalchemy.orm import Session

from app import errors, estimates, policy, space
from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.datasets.tables import DatasetVersion
from app.facts import VersionFacts
from app.limits import Search
from app.plan import Plan
from app.profile import Profile
from app.profiles import service as profiles
from app.recipe import Recipe


def check(
    session: Session,
    version: DatasetVersion,
    facts: VersionFacts,
    recipe: Recipe,
    backbone: Backbone,
    plan: Plan | None,
) -> None:
    """Raises `Invalid` where the search of `recipe` would have nothing to try, or would be over before the `plan` as it
    stands, None where it is decided by measurements, is carried out once."""
    if recipe.search is None:
        return
    if plan is not None:
        space.of(recipe, plan, facts, backbone.facts)
    known = _known(session, version, recipe, backbone)
    if known is not None:
        first = plan or estimates.fitted(
            policy.plan(recipe, known, facts, backbone.facts), recipe, backbone, known.costs
        )
        check_seconds(recipe.search, estimates.of(first, facts, backbone, known.costs).seconds)


def check_seconds(search: Search, estimated: float) -> None:
    """Raises `Invalid` where the search is given less time than its first trial is estimated to take."""
    if search.seconds is not None and search.seconds < estimated:
        raise errors.Invalid(
            f"the first trial, the plan's own defaults, takes about {estimated:.1f} s here, longer than the "
            f"{search.seconds:g} s of the search",
            code="budget_too_short",
            detail={"seconds": search.seconds, "estimated_seconds": round(estimated, 1)},
        ).at("recipe.search.seconds")


def _known(session: Session, version: DatasetVersion, recipe: Recipe, backbone: Backbone) -> Profile | None:
    if not backbone.weights:
        return None
    # Also of a training from random values the costs are known by what was measured with others.
    name = backbone.find_weights(catalogue.PRETRAINED if recipe.from_random else recipe.start).name
    found = profiles.newest(session, version, backbone=backbone.name, weights=name)
    return None if found is None else profiles.figures(found)
