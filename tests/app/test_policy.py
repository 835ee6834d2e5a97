"""The two by two rule as a table: made-up measurements in, decisions out."""

from dataclasses import replace

import pytest

from app import policy
from app.augmentation import Augmentation
from app.facts import NetworkFacts, VersionFacts
from app.plan import Quadrant, resolve
from app.policy import Decision
from app.profile import HEAD, Profile
from app.recipe import Recipe
from tests.app.profiled import profile

AUTO = Recipe(backbone="resnet18")
FEW_MISSED, MUCH_MISSED = (0.4, 0.6, 0.8, 0.96, 0.96), (0.4, 0.6, 0.8, 0.89, 0.89)
"""What is right at each depth, where with much, similar data the top stages are to be trained, and where all are."""


def stages_of(measured: Profile) -> list[str]:
    return [depth.name for depth in measured.depths if depth.name != HEAD]


def decide(measured: Profile) -> Decision:
    return policy.decide(AUTO, measured, stages_of(measured))


def locate(measured: Profile) -> Quadrant:
    return policy.locate(measured, stages_of(measured))


def without_last_stage(measured: Profile) -> Profile:
    """As of networks whose own classifier gets the mean over the last stage: it has no figures of its own."""
    return replace(measured, depths=(*measured.depths[:-2], measured.depths[-1]))


@pytest.mark.parametrize(
    ("measured", "amount", "likeness", "strategy"),
    [
        (profile(images=300, stages=(0.4, 0.6, 0.98, 0.985, 0.985)), "little", "similar", "head"),
        # What the head misses, the last stage may learn.
        (profile(images=300), "little", "similar", "top"),
        # Of which fixed features miss much.
        (profile(images=300, stages=(0.5, 0.6, 0.8, 0.84, 0.84)), "little", "similar", "full"),
        (profile(images=300, stages=(0.5, 0.6, 0.8, 0.86, 0.86)), "little", "similar", "top"),
        (profile(images=3000, stages=FEW_MISSED), "much", "similar", "top"),
        (profile(images=3000, stages=(0.5, 0.6, 0.8, 0.91, 0.91)), "much", "similar", "top"),
        (profile(images=3000, stages=MUCH_MISSED), "much", "similar", "full"),
        # An earlier stage beats the top by far: what comes behind it is made for other things.
        (profile(images=300, stages=(0.5, 0.7, 0.95, 0.88, 0.88)), "little", "dissimilar", "stage_probe"),
        (profile(images=3000, stages=(0.5, 0.7, 0.95, 0.88, 0.88)), "much", "dissimilar", "full"),
        # The top knows a lot, and what would be frozen no more than random values do.
        (profile(images=3000, stages=(0.4, 0.54, 0.8, 0.96, 0.96)), "much", "similar", "full"),
        (profile(images=3000, stages=(0.3, 0.4, 0.8, 0.96, 0.96)), "much", "similar", "full"),
        (profile(images=3000, stages=(0.4, 0.57, 0.8, 0.96, 0.96)), "much", "similar", "top"),
        # Random values do nearly as well, and much is left to be learnt.
        (profile(images=300, stages=(0.4, 0.5, 0.6, 0.6), random=0.55), "little", "dissimilar", "full"),
        (profile(images=3000, stages=(0.4, 0.5, 0.6, 0.6), random=0.55), "much", "dissimilar", "full"),
        # Random values do nearly as well, and next to nothing is left to be learnt.
        (profile(images=300, stages=(0.9, 0.95, 0.96, 0.96), random=0.94), "little", "dissimilar", "head"),
        # Random values leave no errors that pre-training could remove.
        (profile(images=300, stages=(1,) * 5, random=1), "little", "similar", "head"),
        (profile(images=3000, stages=(1,) * 5, random=1), "much", "similar", "head"),
        (profile(images=3000, stages=(0.98, 0.99, 0.99, 0.99, 0.99), random=0.985), "much", "similar", "head"),
        (profile(images=3000, stages=(0.98, 0.99, 0.99, 0.99, 0.99), random=0.975), "much", "similar", "top"),
        (profile(images=3000, stages=(0.9, 0.95, 0.95, 0.95, 0.95), random=0.99), "much", "dissimilar", "full"),
    ],
)
def test_each_quadrant_has_its_strategy(measured: Profile, amount: str, likeness: str, strategy: str) -> None:
    decision = decide(measured)
    assert (decision.quadrant.amount, decision.quadrant.likeness) == (amount, likeness)
    assert decision.strategy == strategy
    short = policy.decide(AUTO, without_last_stage(measured), stages_of(measured))
    assert (short.quadrant, short.strategy, short.freeze) == (decision.quadrant, strategy, decision.freeze)


@pytest.mark.parametrize(
    ("images", "count", "freeze"),
    [
        (300, 2, "stage1"),
        (300, 3, "stage1"),
        (300, 4, "stage2"),
        (300, 6, "stage4"),
        (3000, 2, "stage1"),
        (3000, 3, "stage1"),
        (3000, 4, "stage2"),
        (3000, 6, "stage3"),
    ],
)
def test_with_little_data_the_last_two_stages_are_trained_and_with_much_the_upper_half(
    images: int, count: int, freeze: str
) -> None:
    measured = profile(images=images, stages=[0.6] * (count - 2) + [0.8, 0.96, 0.96])
    decision = decide(measured)
    assert (decision.strategy, decision.freeze) == ("top", freeze)
    assert freeze in " ".join(decision.reasons)


def test_the_stage_before_the_last_one_counts_as_an_earlier_one() -> None:
    """Also where the profile has no figures of the last one."""
    measured = profile(images=300, stages=(0.5, 0.7, 0.95, 0.88, 0.88))
    assert policy.locate(without_last_stage(measured), stages_of(measured)).likeness == "dissimilar"


@pytest.mark.parametrize(
    ("images", "classes", "gain", "amount"),
    [
        (1000, 5, 0.05, "much"),
        (999, 5, 0.05, "little"),
        (999, 5, 0.01, "much"),
        (499, 5, 0.01, "little"),
        (1000, 100, 0.01, "little"),
    ],
)
def test_how_much_data_there_is_depends_on_images_and_on_what_twice_as_many_gave(
    images: int, classes: int, gain: float, amount: str
) -> None:
    assert locate(profile(images=images, classes=classes, gain=gain)).amount == amount


def test_an_earlier_stage_must_beat_the_top_by_more_than_chance() -> None:
    stages = (0.5, 0.7, 0.91, 0.88, 0.88)
    assert locate(profile(images=300, stages=stages, error=0.01)).likeness == "dissimilar"
    assert locate(profile(images=300, stages=stages, error=0.02)).likeness == "similar"


def test_the_rival_is_the_best_classifier_on_fixed_features() -> None:
    plain = decide(profile(images=3000))
    assert (plain.rival, plain.rival_stage) == ("head", None)
    inner = decide(profile(images=3000, stages=(0.5, 0.7, 0.95, 0.88, 0.88)))
    assert (inner.rival, inner.rival_stage) == ("stage_probe", "stage3")
    all_stages = decide(profile(images=3000, together=0.94))
    assert (all_stages.rival, all_stages.rival_stage) == ("stage_probe", "all")


def test_the_reasons_give_the_figures_that_decided() -> None:
    told = " ".join(decide(profile(images=3000, stages=FEW_MISSED)).reasons)
    assert "3000 training images, 600 of each of 5 labels" in told
    assert "96.0 %" in told
    assert "45.0 %" in told
    assert "stage2 are trained" in told


def test_where_random_values_solve_the_task_no_errors_are_said_to_be_removed() -> None:
    (told,) = locate(profile(images=3000, stages=(1,) * 5, random=1)).evidence[1:]
    assert "too few errors are left to tell what pre-training is worth" in told
    assert "removes" not in told


def test_where_much_is_missed_the_reasons_say_so_and_that_all_layers_are_trained() -> None:
    told = " ".join(decide(profile(images=3000, stages=MUCH_MISSED)).reasons)
    assert "Much and similar data, of which classifiers on fixed features miss 11.0 %: all layers are trained" in told


def test_errors_on_some_labels_are_those_on_all_of_them_at_the_least() -> None:
    measured = profile(images=10_000, classes=1000, stages=(0.4, 0.6, 0.985, 0.985, 0.985), gain=0.0)
    assert (locate(measured).amount, decide(measured).strategy) == ("little", "head")
    found = decide(replace(measured, measured=2_000, measured_labels=200))
    assert found.strategy == "top"
    assert "of which classifiers on fixed features miss up to 7.5 %" in " ".join(found.reasons)


def test_the_evidence_says_of_how_many_labels_it_is() -> None:
    measured = replace(profile(images=2_000, classes=101), measured_labels=100, random_labels=25)
    assert " on 512 images of 25 of the 101 labels a linear" in " ".join(locate(measured).evidence)
    alike = replace(measured, random_labels=None)
    assert " on 512 images of 100 of the 101 labels a linear" in " ".join(locate(alike).evidence)


def test_a_network_with_a_single_stage_has_no_top() -> None:
    assert decide(profile(images=3000, stages=(0.9, 0.9))).strategy == "full"


@pytest.mark.parametrize(
    ("images", "asked", "lost"),
    [
        (300, Recipe(backbone="resnet18", augmentation=Augmentation(mixup=0.2)), "augmentation.mixup"),
        (300, Recipe(backbone="resnet18", unfreeze="gradual"), "unfreeze"),
        (3000, Recipe(backbone="resnet18", layer_decay=0.8), "layer_decay"),
    ],
)
def test_what_the_chosen_strategy_cannot_take_is_left_out_and_told(images: int, asked: Recipe, lost: str) -> None:
    version = VersionFacts(classes=5, train_images=images, validation_images=images // 4, smallest_class=images // 5)
    network = NetworkFacts(stages=("stage1", "stage2", "stage3", "stage4"))
    made = policy.plan(asked, profile(images=images, stages=FEW_MISSED), version, network)
    assert made.strategy == "top"
    assert f"Not for strategy 'top', and so left out: {lost}." in made.reasons


@pytest.mark.parametrize("best", ["stage3", HEAD])
def test_a_stage_set_by_hand_is_left_out_unless_the_classifier_that_competes_is_on_it(best: str) -> None:
    version = VersionFacts(classes=5, train_images=3000, validation_images=600, smallest_class=600)
    stages = (0.4, 0.5, 0.8, 0.6, 0.6) if best == "stage3" else (0.4, 0.5, 0.55, 0.6, 0.6)
    network = NetworkFacts(stages=("stage1", "stage2", "stage3", "stage4"))
    measured = profile(images=3000, stages=stages, random=0.55)
    made = policy.plan(Recipe(backbone="resnet18", stage="stage1"), measured, version, network)
    told = " ".join(made.reasons)
    assert made.strategy == "full"
    assert (made.rival is not None) == (best == "stage3")
    is_taken = made.rival is not None and made.rival.stage == "stage1"
    assert ("Not for strategy 'full', and so left out: stage." in told) == (not is_taken)
    assert ("Set by hand for the classifier on fixed features alone: stage." in told) == is_taken


def test_what_cannot_be_reinitialised_in_full_is_left_out_and_told() -> None:
    version = VersionFacts(classes=5, train_images=3000, validation_images=600, smallest_class=600)
    dissimilar = profile(images=3000, stages=(0.4, 0.5, 0.6, 0.6), random=0.55)
    asked = Recipe(backbone="resnet18", reinit="retrained")
    made = policy.plan(asked, dissimilar, version, NetworkFacts(stages=("stage1", "stage2", "stage3")))
    assert (made.strategy, made.reinit) == ("full", "none")
    assert "Not for strategy 'full', and so left out: reinit." in made.reasons


@pytest.mark.parametrize(
    ("stages", "is_left"),
    [
        ((0.4, 0.54, 0.8, 0.9, 0.9), True),  # the second of four knows hardly more than the 0.45 of random values
        ((0.4, 0.54, 0.59, 0.6, 0.6), True),
        ((0.4, 0.57, 0.59, 0.6, 0.6), False),
    ],
)
def test_what_the_network_knows_is_left_behind_where_random_values_know_as_much(
    stages: tuple[float, ...], is_left: bool
) -> None:
    version = VersionFacts(classes=5, train_images=3000, validation_images=600, smallest_class=600)
    network = NetworkFacts(stages=("stage1", "stage2", "stage3", "stage4"))
    measured = profile(images=3000, stages=stages)
    open_, set_ = Recipe(backbone="resnet18"), Recipe(backbone="resnet18", epochs=3, learning_rate=0.002)
    made = policy.plan(open_, measured, version, network)
    scratch = resolve(replace(open_, strategy="scratch"), version, network).descent
    full = resolve(replace(open_, strategy="full"), version, network).descent
    assert made.strategy == "full"
    assert made.descent is not None
    assert scratch is not None
    assert full is not None
    like = scratch if is_left else full
    assert (made.descent.epochs, made.descent.learning_rate) == (like.epochs, like.learning_rate)
    assert made.descent.augmentation == full.augmentation
    assert any("of little use here" in reason for reason in made.reasons) == is_left
    by_hand = policy.plan(set_, measured, version, network).descent
    assert by_hand is not None
    assert (by_hand.epochs, by_hand.learning_rate) == (3, 0.002)


@pytest.mark.parametrize(
    ("by_hand", "said"),
    [
        ({}, ["So steps are as many and as long as from random values."]),
        ({"epochs": 3}, ["So steps are as long as from random values."]),
        ({"learning_rate": 0.002}, ["So steps are as many as from random values."]),
        ({"epochs": 3, "learning_rate": 0.002}, []),
    ],
)
def test_what_is_set_by_hand_is_not_said_to_follow_from_what_was_measured(
    by_hand: dict[str, float], said: list[str]
) -> None:
    decision = policy.decide(
        replace(AUTO, **by_hand),  # type: ignore[arg-type]
        profile(images=3000, stages=(0.4, 0.54, 0.8, 0.9, 0.9)),
        ["stage1", "stage2", "stage3", "stage4"],
    )
    assert decision.is_leaving
    assert [reason for reason in decision.reasons if reason.startswith("So ")] == said


@pytest.mark.parametrize("images", [300, 3000])
def test_where_the_frozen_stage_is_set_by_hand_the_reasons_speak_of_that_one(images: int) -> None:
    version = VersionFacts(classes=5, train_images=images, validation_images=images // 4, smallest_class=images // 5)
    network = NetworkFacts(stages=("stage1", "stage2", "stage3", "stage4"))
    made = policy.plan(replace(AUTO, freeze="stage3"), profile(images=images), version, network)
    assert (made.strategy, made.freeze) == ("top", "stage3")
    told = " ".join(made.reasons)
    assert "behind stage3" in told
    assert "stage1" not in told
    assert "stage2" not in told


@pytest.mark.parametrize(
    ("images", "stages"),
    [(3000, (0.4, 0.54, 0.8, 0.96, 0.96)), (3000, MUCH_MISSED), (300, (0.5, 0.6, 0.8, 0.84, 0.84))],
)
def test_what_is_to_stay_by_hand_stays_whatever_it_is_of_use(images: int, stages: tuple[float, ...]) -> None:
    measured = profile(images=images, stages=stages)
    assert decide(measured).strategy == "full"
    for stage in ("stage1", "stage2"):
        by_hand = policy.decide(replace(AUTO, freeze=stage), measured, stages_of(measured))
        assert (by_hand.strategy, by_hand.freeze) == ("top", stage)


@pytest.mark.parametrize(
    ("stages", "is_left"),
    [
        ((0.4, 0.5, 0.6, 0.6), True),  # a ninth of the errors of random values
        ((0.4, 0.6, 0.5, 0.5), True),
        ((0.4, 0.5, 0.6, 0.65), False),  # so far up it knows something
        ((0.4, 0.65, 0.6, 0.6), False),
    ],
)
def test_with_little_data_all_that_the_network_knows_has_to_be_of_little_use(
    stages: tuple[float, ...], is_left: bool
) -> None:
    made = decide(profile(images=300, stages=stages, random=0.55))
    assert (made.quadrant.amount, made.strategy, made.is_leaving) == ("little", "full", is_left)
    assert any("of little use here" in reason for reason in made.reasons) == is_left


def test_few_images_that_cannot_be_halved_are_little_data() -> None:
    measured = profile(images=600)
    short = Profile(**{**vars(measured), "curve": measured.curve[-1:]})
    assert locate(short).amount == "little"
