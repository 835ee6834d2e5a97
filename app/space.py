"""What a search may change of a recipe: the fields that it leaves open, with the values that are tried for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from app import errors
from app.augmentation import Augmentation
from app.descent import Descent
from app.facts import NetworkFacts, VersionFacts
from app.narrowing import narrowed
from app.plan import Plan, halfway, resolve
from app.profile import HEAD
from app.recipe import ALL_STAGES, Recipe, Strategy

_FACTOR = 10.0
"""A number is tried from its default divided by this to its default times this."""

_AUGMENTATIONS = {
    "none": Augmentation(policy="none"),
    "crop": Augmentation(policy="crop"),
    "trivial": Augmentation(policy="trivial"),
    "trivial, erasing": Augmentation(policy="trivial", erasing=0.1),
}

Values = Mapping[str, float | str]
"""By dimension: a number, or the name of a way."""


@dataclass(frozen=True)
class Numbers:
    """Any number between these, all orders of magnitude alike."""

    low: float
    high: float


@dataclass(frozen=True)
class Ways:
    """One of several ways, by name, each with the fields of a recipe that make it."""

    fields: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Space:
    """The plans that a search can choose from, for one recipe on one version."""

    recipe: Recipe
    default: Plan
    """How the recipe is carried out without a search."""
    version: VersionFacts
    network: NetworkFacts
    dimensions: Mapping[str, Numbers | Ways] = field(default_factory=dict)

    def plan(self, values: Values) -> Plan:
        """The plan with these values, of which there is one for each dimension."""
        fields: dict[str, Any] = {}
        for name, value in values.items():
            dimension = self.dimensions[name]
            fields |= dimension.fields[str(value)] if isinstance(dimension, Ways) else {name: value}
        strategy = fields.pop("strategy", self.default.strategy)
        return self._resolved(strategy, fields)

    def shorter(self, values: Values) -> list[Values]:
        """These values with fewer epochs, the most of them first; none where their number is not open."""
        dimension = self.dimensions.get("epochs")
        if not isinstance(dimension, Ways):
            return []
        counts = sorted(map(int, dimension.fields), reverse=True)
        return [{**values, "epochs": str(count)} for count in counts if count < int(values["epochs"])]

    def values(self, plan: Plan) -> Values | None:
        """The values with which `plan` is that of the space; None where it is not among those."""
        if plan.descent is None:
            return None
        found: dict[str, float | str] = {}
        for name, dimension in self.dimensions.items():
            if isinstance(dimension, Numbers):
                number: float = getattr(plan.descent, name)
                if not dimension.low <= number <= dimension.high:
                    return None
                found[name] = number
            else:
                way = next((way for way, fields in dimension.fields.items() if _has(plan, fields)), None)
                if way is None:
                    return None
                found[name] = way
        return found

    def fixed(self) -> list[Plan]:
        """Classifiers on fixed features, where the strategy is open and the default does not look at them already:
        each takes next to no time, and there is nothing to vary."""
        if self.recipe.strategy != "auto" or self.default.strategy == "scratch":
            return []
        looked_at = {_kind(plan) for plan in (self.default, self.default.rival) if plan is not None}
        if self.default.descent is not None and self.default.reinit == "none":
            looked_at.add(("head", None))  # it is the network before the first step
        choices: list[tuple[Strategy, dict[str, Any]]] = [("head", {}), ("stage_probe", {"stage": ALL_STAGES})]
        plans = [self._resolved(strategy, fields) for strategy, fields in choices]
        return [plan for plan in plans if _kind(plan) not in looked_at]

    def _resolved(self, strategy: Strategy, fields: Mapping[str, Any]) -> Plan:
        settled, _ = narrowed(self.recipe, strategy, **fields)
        return resolve(settled, self.version, self.network)


def of(recipe: Recipe, default: Plan, version: VersionFacts, network: NetworkFacts) -> Space:
    """The space around `default`, which is the plan for `recipe`. Raises `Invalid` where the recipe leaves nothing
    open."""
    layers = _layers(recipe, default, network.stages)
    space = Space(recipe, default, version, network, {"layers": Ways(layers)} if layers else {})
    descent = default.descent or (space.plan({"layers": next(iter(layers))}).descent if layers else None)
    numbers = {} if descent is None else _of_descent(descent)
    if all(plan.strategy == "top" and plan.views == 1 for plan in _by_layers(space)):
        del numbers["augmentation"]  # of a single view nothing is changed
    opened = {name: dimension for name, dimension in numbers.items() if getattr(recipe, name) is None}
    space = replace(space, dimensions={**space.dimensions, **opened})
    if not space.dimensions or (
        space.values(default) is not None and not any(map(_is_open, space.dimensions.values()))
    ):
        said = "the recipe leaves nothing open that could be searched"
        raise errors.Invalid(said, code="nothing_to_search").at("recipe.search")
    return space


def _by_layers(space: Space) -> list[Plan]:
    """The plans that differ by the layers alone."""
    layers = space.dimensions.get("layers")
    return [space.plan({"layers": way}) for way in layers.fields] if isinstance(layers, Ways) else [space.default]


def _is_open(dimension: Numbers | Ways) -> bool:
    return isinstance(dimension, Numbers) or len(dimension.fields) > 1


def _of_descent(descent: Descent) -> dict[str, Numbers | Ways]:
    epochs = sorted({max(1, descent.epochs // 2), descent.epochs, min(1000, 2 * descent.epochs)})
    return {
        "learning_rate": _around(descent.learning_rate, most=10.0),
        "weight_decay": _around(descent.weight_decay, most=1.0),
        "augmentation": Ways({name: {"augmentation": value} for name, value in _AUGMENTATIONS.items()}),
        "epochs": Ways({str(count): {"epochs": count} for count in epochs}),
    }


def _around(default: float, *, most: float) -> Numbers:
    return Numbers(default / _FACTOR, min(most, default * _FACTOR))


def _layers(recipe: Recipe, default: Plan, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Which layers may be trained, as far as the recipe leaves that open and the rest of it allows for."""
    if default.strategy == "scratch" or recipe.strategy not in ("auto", "top"):
        return {}
    ways: dict[str, dict[str, Any]] = {}
    tops = dict.fromkeys([default.freeze, *([stages[-2], halfway(stages)] if len(stages) > 1 else [])])
    for freeze in tops if recipe.freeze is None else [recipe.freeze]:
        if freeze is not None:
            ways[f"behind {freeze}"] = {"strategy": "top", "freeze": freeze}
    if recipe.strategy == "auto":
        ways["all"] = {"strategy": "full"}
    return {name: fields for name, fields in ways.items() if _keeps(recipe, fields)}


def _keeps(recipe: Recipe, fields: Mapping[str, Any]) -> bool:
    """Whether a strategy knows all that the recipe sets by hand."""
    known = {name: value for name, value in fields.items() if name != "strategy"}
    try:
        _, lost = narrowed(recipe, fields["strategy"], **known)
    except ValidationError:  # known to it, but not with this value
        return False
    return not set(lost) - {"stage"}


def _has(plan: Plan, fields: Mapping[str, Any]) -> bool:
    """Whether `plan` is carried out with these fields of a recipe."""
    return all(getattr(plan, name, getattr(plan.descent, name, None)) == value for name, value in fields.items())


def _kind(plan: Plan) -> tuple[str, str | None]:
    return plan.strategy, None if plan.stage in (None, HEAD) else plan.stage
