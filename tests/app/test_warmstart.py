"""Which label of a base is which of a version."""

from dataclasses import replace

import pytest

from app import errors
from app.facts import NetworkFacts, VersionFacts
from app.recipe import Recipe
from app.warm import PULL, plan
from app.warmstart import Kept, WarmStart, match

FACTS = VersionFacts(classes=3, train_images=60, validation_images=15, smallest_class=20)
NETWORK = NetworkFacts(stages=("stem", "layer1", "layer2", "layer3", "layer4"))


def start(*, replay: bool = False) -> WarmStart:
    kept, fresh, dropped = match(("rose", "tulip", "weed"), ("daisy", "roses", "tulip"), {"rose": "roses"})
    return WarmStart(base="flowers@1", version_id="mv_1", kept=kept, fresh=fresh, dropped=dropped, replay=replay)


def test_labels_are_matched_by_name_wherever_they_are() -> None:
    kept, fresh, dropped = match(("tulip", "daisy"), ("daisy", "rose", "tulip"), None)
    assert kept == (Kept(old="tulip", new="tulip"), Kept(old="daisy", new="daisy"))
    assert (fresh, dropped) == (("rose",), ())


def test_the_same_number_of_labels_means_nothing() -> None:
    kept, fresh, dropped = match(("a", "b", "c"), ("c", "d", "e"), None)
    assert kept == (Kept(old="c", new="c"),)
    assert (fresh, dropped) == (("d", "e"), ("a", "b"))


def test_a_renamed_label_is_mapped_by_hand_and_labels_can_change_places() -> None:
    assert match(("rose",), ("roses", "tulip"), {"rose": "roses"})[0] == (Kept(old="rose", new="roses"),)
    kept, _, _ = match(("a", "b"), ("a", "b"), {"a": "b", "b": "a"})
    assert kept == (Kept(old="a", new="b"), Kept(old="b", new="a"))


@pytest.mark.parametrize(
    ("label_map", "code", "field"),
    [
        ({"rosa": "roses"}, "unknown_label", "recipe.label_map"),
        ({"rose": "rosess"}, "unknown_label", "recipe.label_map"),
        ({"rose": "tulip"}, "label_map_ambiguous", "recipe.label_map"),
        ({"tulip": "roses", "rose": "roses"}, "label_map_ambiguous", "recipe.label_map"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused_at_its_field(label_map: dict[str, str], code: str, field: str) -> None:
    with pytest.raises(errors.Invalid) as raised:
        match(("rose", "tulip"), ("roses", "tulip"), label_map)
    assert (raised.value.code, raised.value.field) == (code, field)


def test_a_label_that_the_base_has_not_is_told_as_such() -> None:
    with pytest.raises(errors.UnknownName, match=r"^the base has no label 'rosa'; did you mean rose"):
        match(("rose", "tulip"), ("roses", "tulip"), {"rosa": "roses"})


def test_a_base_that_knows_none_of_the_labels_is_refused_though_it_has_as_many() -> None:
    with pytest.raises(errors.Invalid) as raised:
        match(("rose", "tulip"), ("cat", "dog"), None)
    assert (raised.value.code, raised.value.field) == ("no_common_labels", "recipe.base")
    assert raised.value.detail == {"old": ["rose", "tulip"], "new": ["cat", "dog"]}


def test_the_plan_says_which_rows_are_kept_which_are_new_and_which_go() -> None:
    recipe = Recipe(backbone="resnet18", strategy="head", base="flowers@1", label_map={"rose": "roses"})
    made = plan(recipe, start(), FACTS, NETWORK)
    assert (made.weights, made.base) == ("base", start())
    assert {one.values for one in made.treatments} == {"base"}
    told = " ".join(made.reasons)
    new = "; new are those of 1 label: daisy"
    for said in ("kept for 2 labels", "rose as roses", new, "no weed any more", "in flowers@1"):
        assert said in told, said


def test_of_a_base_that_knows_all_labels_no_row_is_new() -> None:
    recipe = Recipe(backbone="resnet18", strategy="head", base="flowers@1")
    told = " ".join(plan(recipe, replace(start(), kept=start().kept[:1], fresh=()), FACTS, NETWORK).reasons)
    assert "kept for 1 label, matched by name" in told
    assert "is penalised is the distance from them." in told
    assert "new" not in told


def test_replay_is_spoken_of_only_where_the_images_are_there() -> None:
    recipe = Recipe(backbone="resnet18", strategy="head", base="flowers@1")
    assert "replay would add those" in plan(recipe, start(), FACTS, NETWORK).reasons[-1]
    told = plan(recipe, start(), FACTS, NETWORK, can_replay=False).reasons[-1]
    assert told.endswith("those that flowers@1 was made from are deleted.")


def test_layers_that_are_trained_are_pulled_back_to_the_base() -> None:
    made = plan(Recipe(backbone="resnet18", strategy="top", base="flowers@1"), start(), FACTS, NETWORK)
    assert made.descent is not None
    assert (made.descent.decay_to, made.descent.weight_decay) == ("start", PULL)
    by_hand = Recipe(backbone="resnet18", strategy="full", base="flowers@1", weight_decay=0.5)
    made = plan(by_hand, start(replay=True), FACTS, NETWORK)
    assert made.descent is not None
    assert made.descent.weight_decay == 0.5
    assert any("trained on besides" in reason for reason in made.reasons)


def test_what_decides_itself_extends_the_classifier_and_says_what_it_leaves_out() -> None:
    made = plan(Recipe(backbone="resnet18", base="flowers@1", epochs=3), start(), FACTS, NETWORK)
    assert (made.strategy, made.descent) == ("head", None)
    assert any("left out: epochs" in reason for reason in made.reasons)
