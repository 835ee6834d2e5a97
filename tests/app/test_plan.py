"""How a plan fills in what a recipe leaves open, and the reasons that it gives."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from app import errors
from app.augmentation import Augmentation
from app.facts import NetworkFacts, VersionFacts
from app.plan import Plan, resolve
from app.recipe import Recipe

NETWORK = NetworkFacts(stages=("stem", "layer1", "layer2"))
FACTS = VersionFacts(classes=3, train_images=240, validation_images=60, smallest_class=40)


def plan(version: VersionFacts = FACTS, **fields: Any) -> Plan:
    return resolve(Recipe(**{"backbone": "resnet18", "strategy": "head", **fields}), version, NETWORK)


def scratch(version: VersionFacts = FACTS, **fields: Any) -> Plan:
    return plan(version, strategy="scratch", **fields)


def rate(planned: Plan) -> float:
    assert planned.descent is not None
    return planned.descent.learning_rate


def test_from_random_values_the_rate_shrinks_by_the_root_of_the_batch_only() -> None:
    assert rate(scratch(batch_size=32)) == pytest.approx(0.05)
    assert rate(scratch(batch_size=8)) == pytest.approx(0.025)
    assert rate(scratch(batch_size=2)) == pytest.approx(0.0125)
    assert rate(scratch(batch_size=8, accumulate=4)) == pytest.approx(0.05)
    assert rate(plan(strategy="full", batch_size=8)) == pytest.approx(0.0025)


def test_the_rate_grows_with_a_step_no_further_than_there_are_images_or_512() -> None:
    assert rate(plan(strategy="full", batch_size=1024)) == pytest.approx(0.01 * 240 / 32)
    many = replace(FACTS, train_images=100_000)
    for asked in ({"batch_size": 512}, {"batch_size": 1024, "accumulate": 64}):
        assert rate(plan(many, strategy="full", **asked)) == pytest.approx(0.16)
    assert rate(scratch(many, batch_size=1024, accumulate=4)) == pytest.approx(0.2)


def test_a_network_that_normalises_nothing_is_given_a_lower_rate_and_the_plan_says_why() -> None:
    bare = replace(NETWORK, normalises=False)

    def rated(**fields: Any) -> Plan:
        return resolve(Recipe(**{"backbone": "squeezenet1_1", "batch_size": 32, **fields}), FACTS, bare)

    assert rate(rated(strategy="full")) == pytest.approx(0.003)
    assert rate(rated(strategy="top")) == pytest.approx(0.003)
    assert rate(rated(strategy="scratch")) == pytest.approx(0.005)
    assert any("its learning rate is lower" in reason for reason in rated(strategy="top").reasons)
    for asked in ({"optimizer": "adamw"}, {"learning_rate": 0.02}):
        assert not any("is lower" in reason for reason in rated(strategy="full", **asked).reasons)
    assert rate(rated(strategy="full", optimizer="adamw")) == pytest.approx(1e-4)
    assert rate(rated(strategy="full", learning_rate=0.02)) == 0.02


@pytest.mark.parametrize(("images", "epochs"), [(40, 120), (640, 100), (3200, 30), (100_000, 30)])
def test_few_images_are_seen_more_often_from_random_values(images: int, epochs: int) -> None:
    descent = scratch(replace(FACTS, train_images=images), batch_size=32).descent
    assert descent is not None
    assert descent.epochs == epochs


@pytest.mark.parametrize(("images", "epochs"), [(40, 30), (1600, 30), (3200, 15), (100_000, 10)])
def test_few_images_are_seen_more_often_where_all_layers_are_trained(images: int, epochs: int) -> None:
    version = replace(FACTS, train_images=images)
    for fields, expected in (({}, epochs), ({"base": "flowers@1"}, 10), ({"strategy": "top"}, 10)):
        descent = plan(version, **{"strategy": "full", "batch_size": 32, **fields}).descent
        assert descent is not None
        assert descent.epochs == expected


FEW, SOME, MANY = (replace(FACTS, train_images=images) for images in (240, 3200, 100_000))


@pytest.mark.parametrize(
    ("version", "fields", "said"),
    [
        (
            FEW,
            {"strategy": "full"},
            "Training all layers takes about 1500 steps, of which 240 images give 8 an epoch: hence 30 epochs, the "
            "most, as images that are seen more often are learnt by heart.",
        ),
        (
            SOME,
            {"strategy": "full"},
            "Training all layers takes about 1500 steps, of which 3200 images give 100 an epoch: hence 15 epochs.",
        ),
        (
            SOME,
            {"strategy": "full", "batch_size": 16, "accumulate": 4},
            "Training all layers takes about 1500 steps, of which 3200 images give 50 an epoch: hence 30 epochs, the "
            "most, as images that are seen more often are learnt by heart.",
        ),
        (
            MANY,
            {"strategy": "full"},
            "Training all layers takes about 1500 steps, of which 100000 images give 3125 an epoch: hence 10 epochs, "
            "the fewest, so that each image is seen in several ways.",
        ),
        (
            FEW,
            {"strategy": "scratch"},
            "Learning from random values takes about 2000 steps, of which 240 images give 8 an epoch: hence 120 "
            "epochs, the most, as images that are seen more often are learnt by heart.",
        ),
        (FEW, {"strategy": "top"}, "The lower stages stay, so that little has to change: hence 10 epochs."),
        (
            FEW,
            {"strategy": "full", "base": "flowers@1"},
            "What the base has learnt is not to be left far behind: hence 10 epochs.",
        ),
        (FEW, {"strategy": "full", "epochs": 3}, None),
        (FEW, {"strategy": "head"}, None),
    ],
)
def test_the_reasons_say_why_there_are_so_many_epochs(
    version: VersionFacts, fields: dict[str, Any], said: str | None
) -> None:
    made = plan(version, **fields)
    assert [reason for reason in made.reasons if "hence " in reason] == ([] if said is None else [said])
    if said is not None:
        assert made.descent is not None
        assert f"hence {made.descent.epochs} epochs" in said


CROPPED = (
    "Of images random parts are shown, mirrored every other time; stronger changes are for trainings from random "
    "values, which learn by heart sooner."
)
STRONG = (
    "Images are changed in shape or colour (TrivialAugment), and a part of every tenth is blotted out: from random "
    "values 240 images would be learnt by heart otherwise."
)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"strategy": "full"}, CROPPED),
        ({"strategy": "full", "base": "flowers@1"}, CROPPED),
        ({"strategy": "top"}, CROPPED),
        ({"strategy": "top", "views": 1}, None),  # which is the one that serving sees
        ({"strategy": "scratch"}, STRONG),
        ({"strategy": "full", "weights": "none"}, STRONG),
        ({"strategy": "scratch", "augmentation": {"policy": "crop"}}, None),
        ({"strategy": "full", "augmentation": {"policy": "trivial"}}, None),
        ({"strategy": "head"}, None),
    ],
    ids=str,
)
def test_the_reasons_say_why_images_are_changed_as_they_are(fields: dict[str, Any], said: str | None) -> None:
    reasons = plan(**fields).reasons
    assert [reason for reason in reasons if reason in (CROPPED, STRONG)] == ([] if said is None else [said])


@pytest.mark.parametrize(
    ("fields", "is_said"),
    [
        ({"strategy": "full"}, True),
        ({"strategy": "top"}, True),
        ({"strategy": "scratch"}, True),
        ({"strategy": "full", "label_smoothing": 0.0}, False),
        ({"strategy": "full", "label_smoothing": 0.1}, False),
        ({"strategy": "head"}, False),
    ],
    ids=str,
)
def test_the_reasons_say_why_labels_are_not_smoothed(fields: dict[str, Any], is_said: bool) -> None:
    said = "Labels are not smoothed: how sure the network is will be calibrated on the validation images anyway."
    assert (said in plan(**fields).reasons) == is_said


def test_from_random_values_images_are_changed_more_and_the_rate_rises_longer() -> None:
    descent, tuned = scratch().descent, plan(strategy="full").descent
    assert descent is not None
    assert tuned is not None
    assert (descent.augmentation.policy, tuned.augmentation.policy) == ("trivial", "crop")
    assert (descent.warm_up, descent.warm_up_epochs) == (0.1, 5)
    assert (tuned.warm_up, tuned.warm_up_epochs) == (0.05, 1)
    asked = scratch(augmentation={"policy": "none"}).descent
    assert asked is not None
    assert asked.augmentation == Augmentation(policy="none")


def test_full_starts_from_the_linear_classifier_unless_told_otherwise() -> None:
    fitted, random = plan(strategy="full"), plan(strategy="full", reinit="head")
    assert (fitted.reinit, len(fitted.l2_grid), fitted.folds) == ("none", 7, 5)
    assert (random.reinit, random.l2_grid, random.folds) == ("head", (), 0)
    assert any("LP-FT" in reason for reason in fitted.reasons)
    assert any("one on the way between" in reason for reason in fitted.reasons)
    for other in (random, plan(strategy="full", patience=2), plan(strategy="head")):
        assert not any("one on the way between" in reason for reason in other.reasons)
    assert any("head starts from random values" in reason for reason in random.reasons)


def test_the_reasons_give_the_rates_of_the_stages_and_their_order() -> None:
    planned = plan(strategy="full", learning_rate=0.08, layer_decay=0.5, unfreeze="gradual")
    assert any("0.08 at the head to 0.01 at stem" in reason for reason in planned.reasons)
    assert any("the 3 stages join it one by one" in reason for reason in planned.reasons)


@pytest.mark.parametrize(
    ("pre_logits", "freeze", "said"),
    [
        (False, None, "what is trained is layer2."),
        (False, "layer2", "what is trained is nothing but the head."),
        (True, None, "what is trained is layer2 and the layers between the last stage and the head."),
        (True, "layer2", "what is trained is the layers between the last stage and the head."),
        (None, "layer2", "what is trained is any layers between the last stage and the head."),
    ],
)
def test_layers_between_the_last_stage_and_the_head_are_among_what_is_trained(
    pre_logits: bool | None, freeze: str | None, said: str
) -> None:
    network = replace(NETWORK, pre_logits=pre_logits)
    planned = resolve(Recipe(backbone="vgg16", strategy="top", freeze=freeze), FACTS, network)
    assert planned.reasons[0].endswith(said)


@pytest.mark.parametrize(("pre_logits", "said"), [(True, ", and with it the layers between"), (False, "first (ULMFiT")])
def test_the_reasons_say_when_the_layers_in_front_of_the_head_join(pre_logits: bool, said: str) -> None:
    recipe = Recipe(backbone="vgg16", strategy="full", unfreeze="gradual")
    planned = resolve(recipe, FACTS, replace(NETWORK, pre_logits=pre_logits))
    assert any(said in reason for reason in planned.reasons)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"strategy": "full"}, "2 auxiliary heads at layer1 and layer2 help to train what comes before"),
        ({"strategy": "scratch", "weights": "none"}, "2 auxiliary heads at layer1 and layer2"),
        ({"strategy": "top", "freeze": "layer1"}, "An auxiliary head at layer2 helps"),
        ({"strategy": "top", "freeze": "layer2"}, None),
        ({"strategy": "head"}, None),
    ],
)
def test_the_reasons_name_the_auxiliary_heads_that_help_in_training(fields: dict[str, Any], said: str | None) -> None:
    planned = resolve(Recipe(backbone="googlenet", **fields), FACTS, replace(NETWORK, auxiliary=("layer1", "layer2")))
    told = [reason for reason in planned.reasons if "auxiliary head" in reason]
    assert len(told) == (said is not None)
    assert all(reason.startswith(str(said)) and "counts 0.3 times" in reason for reason in told)


@pytest.mark.parametrize(
    ("stage", "said"),
    [(None, "does best in cross-validation"), ("all", "Head2Toe"), ("layer1", "sees what layer1 gives")],
)
def test_the_reasons_say_which_stage_is_classified(stage: str | None, said: str) -> None:
    planned = plan(strategy="stage_probe", stage=stage)
    assert planned.stage == (stage or "best")
    assert any(said in reason for reason in planned.reasons)
    assert any("ends behind the last stage" in reason for reason in planned.reasons)
    assert bool(planned.shares) == (stage == "all")


@pytest.mark.parametrize(
    "fields", [{"strategy": "stage_probe", "stage": "layer"}, {"strategy": "top", "freeze": "layer"}]
)
def test_a_stage_that_does_not_exist_is_answered_with_the_nearest_names(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.UnknownName) as raised:
        plan(**fields)
    assert raised.value.code == "unknown_stage"
    assert raised.value.detail["nearest"] == ["layer2", "layer1"]


CONTRADICTIONS: list[tuple[dict[str, Any], list[tuple[str, ...]]]] = [
    ({"strategy": "head", "epochs": 3, "stage": "best"}, [("epochs",), ("stage",)]),
    ({"strategy": "head", "weights": "none"}, [("weights",)]),
    ({"strategy": "stage_probe", "weights": "none"}, [("weights",)]),
    ({"strategy": "stage_probe", "learning_rate": 0.1}, [("learning_rate",)]),
    ({"strategy": "scratch", "weights": "pretrained"}, [("weights",)]),
    ({"strategy": "scratch", "reinit": "none"}, [("reinit",)]),
    ({"strategy": "full", "weights": "none", "layer_decay": 0.5, "l2": 1.0}, [("l2",), ("layer_decay",)]),
    ({"strategy": "full", "weights": "none", "unfreeze": "gradual"}, [("unfreeze",)]),
    ({"strategy": "auto", "weights": "none", "freeze": "layer2", "views": 3}, [("freeze",), ("views",)]),
    ({"strategy": "auto", "weights": "none", "stage": "best"}, [("stage",)]),
    ({"strategy": "full", "reinit": "retrained"}, [("reinit",)]),
    ({"strategy": "full", "reinit": "head", "l2": 1.0}, [("l2",)]),
    ({"strategy": "top", "layer_decay": 0.5}, [("layer_decay",)]),
    (
        {"strategy": "top", "augmentation": {"mixup": 0.2, "cutmix": 1.0}},
        [("augmentation", "mixup"), ("augmentation", "cutmix")],
    ),
    ({"strategy": "top", "views": 5, "augmentation": {"policy": "none"}}, [("views",)]),
    ({"strategy": "auto", "views": 2, "augmentation": {"policy": "none", "mixup": 0.2}}, [("views",)]),
    ({"strategy": "full", "augmentation": {"strength": 0.5}}, [("augmentation", "strength")]),
    ({"strategy": "full", "augmentation": {"policy": "trivial", "strength": 0.9}}, [("augmentation", "strength")]),
    ({"strategy": "full", "layer_decay": 0.0}, [("layer_decay",)]),
    ({"strategy": "full", "layer_decay": 1.5}, [("layer_decay",)]),
    ({"strategy": "full", "precision": "fp16"}, [("precision",)]),
]


@pytest.mark.parametrize(("fields", "places"), CONTRADICTIONS)
def test_a_recipe_that_contradicts_itself_is_refused_with_the_field(
    fields: dict[str, Any], places: list[tuple[str, ...]]
) -> None:
    with pytest.raises(ValidationError) as raised:
        Recipe(**{"backbone": "resnet18", "strategy": "head", **fields})
    assert [error["loc"] for error in raised.value.errors()] == places


def test_images_that_look_the_same_in_every_view_have_one() -> None:
    def views(**fields: Any) -> int:
        return plan(strategy="top", **fields).views

    assert views() == 2
    assert views(augmentation={"policy": "none"}) == 1
    assert views(augmentation={"policy": "none", "erasing": 0.1}) == 2
    assert views(augmentation={"policy": "none", "erasing": 0.1}, views=5) == 5
    assert views(augmentation={"policy": "rand", "strength": 0.9}, views=5) == 5


def test_a_plan_with_a_single_view_says_that_no_image_is_changed() -> None:
    said = "A single view is the one that serving sees, so no image is changed."
    assert said in plan(strategy="top", views=1, augmentation={"policy": "trivial"}).reasons
    assert said in plan(strategy="top", epochs=1).reasons
    assert said not in plan(strategy="top").reasons
    assert said not in plan(strategy="top", augmentation={"policy": "none"}).reasons


def test_a_plan_with_fewer_views_than_asked_for_says_that_there_are_no_more_epochs() -> None:
    said = "Each epoch sees one view of an image, so that of the 9 asked for no more than 2 would be of use."
    found = plan(strategy="top", views=9, epochs=2)
    assert found.views == 2
    assert said in found.reasons
    for views in (None, 1, 2):
        reasons = plan(strategy="top", views=views, epochs=2).reasons
        assert not any("asked for no more" in reason for reason in reasons)


def test_full_without_weights_and_scratch_are_the_same_plan() -> None:
    assert plan(strategy="full", weights="none") == scratch() == scratch(weights="none")
    assert scratch().weights == "none"
    assert plan().weights == "pretrained"


def test_how_many_gpus_share_a_batch_is_the_workers_to_decide_unless_asked_for() -> None:
    free, asked = scratch(), scratch(devices=2)
    assert free.descent is not None
    assert asked.descent is not None
    assert (free.descent.devices, asked.descent.devices) == (None, 2)
    assert not any("GPUs" in reason for reason in free.reasons)
    assert "Each batch is shared by 2 GPUs at most." in asked.reasons
    with pytest.raises(ValidationError, match="not for strategy 'head'"):
        plan(strategy="head", devices=2)


@pytest.mark.parametrize(
    ("room", "views", "said"),
    [
        (None, 3, "is computed once, for 3 views of each image, and kept."),
        (3 * 600_000, 3, "is computed once, for 3 views of each image, and kept."),
        (
            3 * 600_000 - 1,
            2,
            "is computed once, for 2 views of each image in place of 3, and kept: a view of all images takes 0.0006 "
            "GB, and 0.0018 GB may be kept.",
        ),
        (
            600_000 - 1,
            0,
            "is computed anew in each epoch: a view of all images takes 0.0006 GB, and 0.0006 GB may be kept.",
        ),
    ],
)
def test_what_frozen_stages_give_is_kept_for_as_many_views_as_there_is_room_for(
    room: int | None, views: int, said: str
) -> None:
    network = replace(NETWORK, values=(4000, 1000, 200))
    version = replace(FACTS, max_activation_bytes=room)
    made = resolve(Recipe(backbone="resnet18", strategy="top", views=3), version, network)
    assert (made.freeze, made.views) == ("layer1", views)
    assert f"What the frozen stages give {said}" in made.reasons


def test_of_a_network_that_cannot_be_entered_nothing_is_kept() -> None:
    made = resolve(Recipe(backbone="timm:resnet26", strategy="top"), FACTS, replace(NETWORK, can_enter=False))
    assert made.views == 0
    assert any("anew in each epoch, as timm:resnet26 cannot be entered" in reason for reason in made.reasons)
