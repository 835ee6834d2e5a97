"""The plan for a recipe, with all that was measured of the version: the same for a dry run, for the job that is queued,
and for a training that decides itself."""

from dataclasses import replace

from app import errors, estimates, policy
from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.facts import VersionFacts
from app.narrowing import left_out, narrowed
from app.plan import Plan, check_stages, named_stages, resolve
from app.profile import Profile
from app.recipe import Recipe


def plan(recipe: Recipe, version: VersionFacts, backbone: Backbone, profile: Profile | None) -> Plan | None:
    """The plan for `recipe`, which names its `backbone` and no base; with a `profile` of the version also where it
    lies, what to expect and what it will take, in batches that the device has room for. None where the strategy is open
    and nothing is measured. Raises `UnknownName` and `Invalid`."""
    check_stages(recipe, backbone.facts)
    if profile is not None:
        return measured(recipe, version, backbone, profile)
    return None if is_open(recipe, backbone) else _at_once(recipe, version, backbone)


def measured(recipe: Recipe, version: VersionFacts, backbone: Backbone, profile: Profile) -> Plan:
    """As `plan`, of a version that was measured."""
    made = _fitted(recipe, version, backbone, profile)
    is_by_hand = recipe.batch_size is not None
    training = estimates.of(made, version, backbone, profile.costs, is_batch_by_hand=is_by_hand)
    estimate = estimates.of_job(training, version, recipe.search)
    told = replace(made, reasons=(*made.reasons, *estimates.about_sharing(made, profile.costs)))
    return policy.informed(told, profile, estimate, backbone.facts)


def check(recipe: Recipe) -> None:
    """Raises `UnknownName` or `Invalid` for a recipe that no data set would make right."""
    if recipe.picks_backbone:
        check_candidates(recipe)
        return
    backbone = named_backbone(recipe)
    if recipe.base is None:
        check_stages(recipe, backbone.facts)


def named_backbone(recipe: Recipe) -> Backbone:
    """The backbone of `recipe`. Raises `UnknownName` or `Invalid` where it or its weights cannot be started from."""
    with errors.blaming("recipe.backbone"):
        backbone = catalogue.find(recipe.backbone)
    if recipe.base is None and not starts_from_random(recipe, backbone):
        with errors.blaming("recipe.backbone" if recipe.weights is None else "recipe.weights"):
            backbone.find_weights(recipe.start)
    return backbone


def check_candidates(recipe: Recipe) -> None:
    """Raises `UnknownName` where no backbone of the catalogue that has weights has the stages that `recipe` names."""
    candidates = catalogue.select(has_weights=True)
    for field, stage in named_stages(recipe).items():
        having = [backbone for backbone in candidates if stage in backbone.facts.stages]
        if not having:
            known = dict.fromkeys(name for backbone in candidates for name in backbone.facts.stages)
            raise errors.UnknownName("stage", stage, known).at(f"recipe.{field}")
        candidates = having


def lacking(recipe: Recipe, name: str) -> tuple[str, ...]:
    """What `recipe` asks of its backbone and the one called `name` has not got, in words."""
    stages = catalogue.find(name).facts.stages
    return tuple(f"has no stage {stage}" for stage in named_stages(recipe).values() if stage not in stages)


def is_open(recipe: Recipe, backbone: Backbone) -> bool:
    """Whether the strategy is left to what is measured."""
    return recipe.strategy == "auto" and not starts_from_random(recipe, backbone)


def starts_from_random(recipe: Recipe, backbone: Backbone) -> bool:
    """Whether there is nothing pre-trained to begin with: none is wanted, or what decides itself finds none."""
    return recipe.from_random or (recipe.strategy == "auto" and recipe.weights is None and not backbone.weights)


def _fitted(recipe: Recipe, version: VersionFacts, backbone: Backbone, profile: Profile) -> Plan:
    """The plan whose batches the device has room for; what hangs on the images of a step, such as the learning rate, is
    that of a recipe which asks for them."""

    def made(asked: Recipe) -> Plan:
        if is_open(asked, backbone):
            return policy.plan(asked, profile, version, backbone.facts_with(asked.start))
        return _at_once(asked, version, backbone)

    found = made(recipe)
    fitting = estimates.fitted(found, recipe, backbone, profile.costs)
    if fitting is found or fitting.descent is None:
        return found
    batches = fitting.descent
    cut = made(replace(recipe, batch_size=batches.batch_size, accumulate=batches.accumulate))
    return replace(cut, reasons=(*cut.reasons, fitting.reasons[-1]))


def _at_once(recipe: Recipe, version: VersionFacts, backbone: Backbone) -> Plan:
    """The plan for a `recipe` that leaves nothing to what is measured."""
    if recipe.strategy != "auto":
        return resolve(recipe, version, backbone.facts_with(recipe.start))
    settled, lost = narrowed(recipe, "scratch")
    made = resolve(settled, version, backbone.facts_with(recipe.start))
    return replace(made, reasons=(*made.reasons, *left_out("scratch", lost)))
