"""What plans say of each stage."""

from dataclasses import replace

import pytest

from app.facts import NetworkFacts, VersionFacts
from app.plan import Plan, resolve
from app.recipe import Recipe

FACTS = VersionFacts(classes=2, train_images=800, validation_images=20, smallest_class=40)
STAGES = ("stem", "layer1", "layer2", "layer3")
NETWORK = NetworkFacts(stages=STAGES)


def plan(strategy: str, **fields: object) -> Plan:
    recipe = Recipe(backbone="resnet18", strategy=strategy, learning_rate=0.1, **fields)  # type: ignore[arg-type]
    return resolve(recipe, FACTS, NETWORK)


def told(made: Plan) -> list[tuple[str, str, float | None]]:
    return [(each.stage, each.values, each.learning_rate) for each in made.treatments]


def frozen(*names: str) -> list[tuple[str, str, float | None]]:
    return [(name, "pretrained", None) for name in names]


def test_under_a_new_head_everything_stays_as_it_is() -> None:
    made = resolve(Recipe(backbone="resnet18", strategy="head"), FACTS, NETWORK)
    assert told(made) == [*frozen(*STAGES), ("head", "fitted", None)]


@pytest.mark.parametrize("stage", ["best", "all"])
def test_stages_that_are_compared_are_all_there(stage: str) -> None:
    made = resolve(Recipe(backbone="resnet18", strategy="stage_probe", stage=stage), FACTS, NETWORK)
    assert told(made) == [*frozen(*STAGES), ("head", "fitted", None)]


def test_the_network_ends_behind_the_stage_whose_features_are_used() -> None:
    made = resolve(Recipe(backbone="resnet18", strategy="stage_probe", stage="layer1"), FACTS, NETWORK)
    assert told(made) == [*frozen("stem", "layer1"), ("head", "fitted", None)]


def test_of_the_top_the_frozen_stages_have_no_rate() -> None:
    trained = [("layer2", "pretrained", 0.1), ("layer3", "pretrained", 0.1)]
    assert told(plan("top", freeze="layer1")) == [*frozen("stem", "layer1"), *trained, ("head", "fitted", 0.1)]
    renewed = [("layer2", "random", 0.1), ("layer3", "random", 0.1)]
    made = plan("top", freeze="layer1", reinit="retrained")
    assert told(made) == [*frozen("stem", "layer1"), *renewed, ("head", "random", 0.1)]


def test_layers_between_the_last_stage_and_the_head_are_treated_as_the_head_is() -> None:
    network = replace(NETWORK, pre_logits=True)

    def last(strategy: str, **fields: object) -> list[tuple[str, str, float | None]]:
        recipe = Recipe(backbone="vgg16", strategy=strategy, **fields)  # type: ignore[arg-type]
        return told(resolve(recipe, FACTS, network))[-2:]

    assert last("head") == [*frozen("pre_logits"), ("head", "fitted", None)]
    rated = {"learning_rate": 0.1}
    tuned = [("pre_logits", "pretrained", 0.1), ("head", "fitted", 0.1)]
    assert last("top", freeze="layer3", **rated) == last("full", layer_decay=0.5, **rated) == tuned
    drawn = [("pre_logits", "random", 0.1), ("head", "random", 0.1)]
    assert last("top", reinit="retrained", **rated) == last("scratch", weights="none", **rated) == drawn
    assert last("stage_probe", stage="layer1") == [*frozen("layer1"), ("head", "fitted", None)]


def test_rates_shrink_from_the_head_down() -> None:
    made = plan("full", layer_decay=0.5)
    assert [each.learning_rate for each in made.treatments] == pytest.approx([0.1 / 16, 0.1 / 8, 0.1 / 4, 0.1 / 2, 0.1])
    assert {each.values for each in made.treatments[:-1]} == {"pretrained"}
    assert made.treatments[-1].values == "fitted"
    assert plan("full", reinit="head").treatments[-1].values == "random"


def test_from_scratch_all_is_random() -> None:
    assert told(plan("scratch", weights="none")) == [(name, "random", 0.1) for name in (*STAGES, "head")]
