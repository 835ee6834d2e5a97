"""What a search may change: fields that the recipe leaves open, around the plan's own values."""

from dataclasses import replace
from typing import Any

import pytest

from app import errors, space
from app.augmentation import Augmentation
from app.backbones import catalogue
from app.facts import VersionFacts
from app.limits import Search
from app.plan import Plan, resolve
from app.recipe import Recipe
from app.space import Numbers, Space, Values, Ways

FACTS = VersionFacts(classes=2, train_images=200, validation_images=50, smallest_class=90)
NETWORK = catalogue.find("resnet18").facts


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"backbone": "resnet18", "search": Search(trials=5), **fields})


def space_of(wanted: Recipe, default: Plan | None = None) -> Space:
    default = default or resolve(wanted, FACTS, NETWORK)
    return space.of(wanted, default, FACTS, NETWORK)


def planned(**fields: Any) -> Plan:
    return resolve(recipe(**fields), FACTS, NETWORK)


def test_the_plans_own_values_are_among_those_tried() -> None:
    for wanted in (recipe(strategy="full"), recipe(strategy="top"), recipe(strategy="scratch")):
        found = space_of(wanted)
        values = found.values(found.default)
        assert values is not None
        # They are as if set by hand, and for those there are no reasons.
        assert replace(found.plan(values), reasons=()) == replace(found.default, reasons=())


def test_what_the_recipe_sets_by_hand_is_not_searched() -> None:
    assert set(space_of(recipe(strategy="full")).dimensions) == {
        "learning_rate",
        "weight_decay",
        "augmentation",
        "epochs",
    }
    found = space_of(recipe(strategy="full", learning_rate=0.003, epochs=7, augmentation=Augmentation(policy="rand")))
    assert set(found.dimensions) == {"weight_decay"}
    plan = found.plan({"weight_decay": 0.001})
    assert plan.descent is not None
    assert (plan.descent.learning_rate, plan.descent.epochs, plan.descent.weight_decay) == (0.003, 7, 0.001)
    assert plan.descent.augmentation.policy == "rand"


def test_numbers_lie_around_the_default() -> None:
    found = space_of(recipe(strategy="full"))
    assert found.default.descent is not None
    rate = found.default.descent.learning_rate
    assert found.dimensions["learning_rate"] == Numbers(pytest.approx(rate / 10), pytest.approx(10 * rate))  # type: ignore[arg-type]
    epochs = found.dimensions["epochs"]
    assert isinstance(epochs, Ways)
    assert set(epochs.fields) == {"15", "30", "60"}


def test_where_the_strategy_is_open_so_is_how_deep_it_goes() -> None:
    found = space_of(recipe(), planned(strategy="top", freeze="layer3"))
    layers = found.dimensions["layers"]
    assert isinstance(layers, Ways)
    assert set(layers.fields) == {"behind layer3", "behind layer1", "all"}
    values = dict(found.values(found.default) or {})
    assert values["layers"] == "behind layer3"
    assert found.plan({**values, "layers": "behind layer1"}).freeze == "layer1"
    assert found.plan({**values, "layers": "all"}).strategy == "full"


def test_a_plan_that_trains_nothing_can_be_searched_for_one_that_does() -> None:
    found = space_of(recipe(), planned(strategy="head"))
    assert found.values(found.default) is None
    assert set(found.dimensions) == {"layers", "learning_rate", "weight_decay", "augmentation", "epochs"}
    assert [plan.strategy for plan in found.fixed()] == ["stage_probe"]


def test_an_augmentation_that_changes_nothing_is_tried_with_one_view_whatever_the_recipe_wants_of_others() -> None:
    found = space_of(recipe(strategy="top", views=3))
    ways = {name: {**(found.values(found.default) or {}), "augmentation": name} for name in ("none", "trivial")}
    assert {name: found.plan(values).views for name, values in ways.items()} == {"none": 1, "trivial": 3}


@pytest.mark.parametrize(
    ("fields", "is_tried"),
    [
        ({"strategy": "top", "views": 1}, False),
        ({"strategy": "top", "epochs": 1}, False),
        ({"strategy": "top"}, True),
        ({"strategy": "full", "epochs": 1}, True),
        ({"strategy": "auto", "views": 1}, False),  # which `full` does not know
        ({"strategy": "auto", "epochs": 1}, True),
    ],
)
def test_where_no_image_is_changed_no_ways_to_do_it_are_tried(fields: dict[str, Any], is_tried: bool) -> None:
    default = planned(**{**fields, "strategy": "top"}) if fields["strategy"] == "auto" else None
    assert ("augmentation" in space_of(recipe(**fields), default).dimensions) == is_tried


def test_what_the_recipe_sets_rules_out_layers_that_do_not_know_it() -> None:
    by_stage = space_of(recipe(layer_decay=0.5), planned(strategy="full", layer_decay=0.5))
    assert by_stage.dimensions["layers"] == Ways({"all": {"strategy": "full"}})
    mixed = space_of(recipe(augmentation=Augmentation(mixup=0.2)), planned(strategy="full"))
    assert mixed.dimensions["layers"] == Ways({"all": {"strategy": "full"}})
    frozen = space_of(recipe(freeze="layer1"), planned(strategy="top", freeze="layer1"))
    assert set(frozen.dimensions["layers"].fields) == {"behind layer1"}  # type: ignore[union-attr]
    anew = space_of(recipe(reinit="retrained"), planned(strategy="top", reinit="retrained"))
    assert "all" not in anew.dimensions["layers"].fields  # type: ignore[union-attr]


def test_classifiers_on_fixed_features_are_tried_where_the_default_does_not_look_at_them() -> None:
    def tried(default: Plan, **fields: Any) -> list[str]:
        return [plan.strategy for plan in space_of(recipe(**fields), default).fixed()]

    assert tried(planned(strategy="full")) == ["stage_probe"]
    assert tried(planned(strategy="full", reinit="head"), reinit="head") == ["head", "stage_probe"]
    rival = planned(strategy="stage_probe", stage="all")
    assert tried(replace(planned(strategy="full"), rival=rival)) == []
    assert tried(planned(strategy="full"), strategy="full") == []
    assert tried(planned(strategy="scratch", weights="none"), weights="none") == []


def test_a_recipe_that_leaves_nothing_open_is_refused() -> None:
    closed = {"learning_rate": 0.01, "weight_decay": 0.0, "augmentation": Augmentation(), "epochs": 3}
    for wanted in (
        recipe(strategy="head"),
        recipe(strategy="stage_probe"),
        recipe(strategy="full", **closed),
        recipe(strategy="top", freeze="layer3", **closed),
    ):
        with pytest.raises(errors.Invalid) as raised:
            space_of(wanted)
        assert raised.value.code == "nothing_to_search"
    assert set(space_of(recipe(strategy="top", **closed)).dimensions) == {"layers"}


def test_values_are_made_shorter_by_epochs_where_these_are_open() -> None:
    found = space_of(recipe(strategy="full"), planned(strategy="full", epochs=10))
    values: Values = {"learning_rate": 0.01, "weight_decay": 0.0, "augmentation": "crop", "epochs": "20"}
    assert [one["epochs"] for one in found.shorter(values)] == ["10", "5"]
    assert all(one["learning_rate"] == 0.01 for one in found.shorter(values))
    assert found.shorter({**values, "epochs": "5"}) == []
    assert space_of(recipe(strategy="full", epochs=3)).shorter({"learning_rate": 0.01}) == []
