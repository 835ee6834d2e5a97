"""Whether a search can begin: there is something to search, and time for its first trial as far as that is known."""

from app import errors, estimates, space
from app.backbones.catalogue import Backbone
from app.facts import VersionFacts
from app.limits import Search
from app.plan import Plan
from app.profile import Profile
from app.recipe import Recipe


def check(recipe: Recipe, version: VersionFacts, backbone: Backbone, plan: Plan | None, known: Profile | None) -> None:
    """Raises `Invalid` where the search of `recipe` would have nothing to try, or would be over before the `plan` as it
    stands, None where nothing is `known` to decide it by, is carried out once."""
    if recipe.search is None or plan is None:
        return
    space.of(recipe, plan, version, backbone.facts_with(recipe.start))
    if known is not None:
        check_seconds(recipe.search, estimates.of(plan, version, backbone, known.costs).seconds)


def check_seconds(search: Search, estimated: float) -> None:
    """Raises `Invalid` where the search is given less time than its first trial is estimated to take."""
    if search.seconds is not None and search.seconds < estimated:
        raise errors.Invalid(
            f"the first trial, the plan's own defaults, takes about {estimated:.1f} s here, longer than the "
            f"{search.seconds:g} s of the search",
            code="budget_too_short",
            detail={"seconds": search.seconds, "estimated_seconds": round(estimated, 1)},
        ).at("recipe.search.seconds")
