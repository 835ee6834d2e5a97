"""Time and memory of a plan from what one image costs: made-up costs in, sums out."""

from dataclasses import replace
from typing import Any

import pytest

from app import estimates
from app.backbones import catalogue
from app.facts import VersionFacts
from app.limits import Search
from app.plan import Estimate, resolve
from app.profile import Costs, StageCosts
from app.recipe import Recipe, Strategy

COSTS = Costs(
    decode=0.01, forward=0.02, step=0.06, device="cpu", threads=2, measured=80, probe=0.4, probes=1.5, together=0.5
)
FIT = 1.5
"""Times as long as cross-validation as it is measured."""
BEHIND_LAYER3 = StageCosts(name="layer3", forward=0.015, step_before=0.018, step_behind=0.013)
MEASURED = replace(COSTS, stages=(BEHIND_LAYER3,))
LOOK = 20 * 0.03
"""At all validation images."""
COMPARED = LOOK / 20 * 64
"""A look at the training images that others are compared with, 32 of each label."""
FACTS = VersionFacts(classes=2, train_images=80, validation_images=20, smallest_class=40)
RESNET = catalogue.find("resnet18")


def seconds(recipe: Recipe, costs: Costs = COSTS, facts: VersionFacts = FACTS) -> float:
    return estimates.of(resolve(recipe, facts, RESNET.facts), facts, RESNET, costs).seconds


def test_a_head_takes_its_fit_alone_as_the_features_are_there() -> None:
    assert seconds(Recipe(backbone="resnet18", strategy="head")) == pytest.approx(FIT * 0.4)


def test_a_networks_values_are_read_and_written() -> None:
    slow = replace(COSTS, load=3.0)
    for strategy in ("head", "stage_probe", "full", "scratch"):
        recipe = Recipe(backbone="resnet18", strategy=strategy)
        assert seconds(recipe, slow) - seconds(recipe) == pytest.approx(2 * 3.0)


def test_a_job_takes_a_process_and_a_report_of_all_images_and_labels_besides() -> None:
    training = Estimate(seconds=100, memory_bytes=7)
    job = estimates.of_job(training, FACTS)
    assert job.memory_bytes == 7
    assert 0.5 < job.seconds - 100 < 1
    many = replace(FACTS, classes=1500, validation_images=4500)
    assert 3 < estimates.of_job(training, many).seconds - job.seconds < 5


def test_classifiers_on_stages_take_longer_the_more_are_compared() -> None:
    one, best, every = (
        seconds(Recipe(backbone="resnet18", strategy="stage_probe", stage=stage)) for stage in ("layer2", "best", "all")
    )
    assert one == pytest.approx(FIT * 0.4 + LOOK + COMPARED)
    # All are cross-validated, and the best one is fitted.
    assert best == pytest.approx(FIT * (0.4 + 0.7 * (1.5 - 0.4)) + LOOK + COMPARED)
    assert every == pytest.approx(6.0 * 0.5 + LOOK + COMPARED)
    assert every > best


def test_scratch_takes_a_step_for_each_image_and_epoch_and_looks_at_the_validation_images() -> None:
    found = seconds(Recipe(backbone="resnet18", strategy="scratch", epochs=5))
    assert found == pytest.approx(5 * (80 * 0.07 + LOOK) + 2 * LOOK + COMPARED)


def test_steps_that_a_gpu_repeats_take_less_but_not_those_of_several_batches_nor_deterministic_ones() -> None:
    quick = replace(COSTS, device="cuda", gain=3.0)
    usual = replace(COSTS, device="cuda")
    recipe = Recipe(backbone="resnet18", strategy="scratch", epochs=5)
    assert seconds(recipe, usual) - seconds(recipe, quick) == pytest.approx(5 * 80 * (0.06 - 0.02))
    for other in (replace(recipe, accumulate=2), replace(recipe, deterministic=True)):
        assert seconds(other, quick) == seconds(other, usual)


GPU = replace(MEASURED, device="cuda", gain=3.0, devices=1)


@pytest.mark.parametrize(
    ("devices", "recipe", "shared"),
    [
        (None, {}, 1),
        (1, {}, 1),
        (2, {}, 2),
        (4, {}, 4),
        (4, {"devices": 2}, 2),
        (2, {"devices": 4}, 2),
        (4, {"devices": 1}, 1),
        (4, {"batch_size": 6}, 3),
        (4, {"batch_size": 3}, 1),
        (4, {"strategy": "full"}, 4),
        (4, {"strategy": "top"}, 1),  # whose activations are kept
        (4, {"strategy": "head"}, 1),
    ],
    ids=str,
)
def test_batches_are_shared_by_the_gpus_of_the_machine_as_far_as_the_plan_lets_them(
    devices: int | None, recipe: dict[str, Any], shared: int
) -> None:
    plan = resolve(Recipe(backbone="resnet18", **{"strategy": "scratch", **recipe}), FACTS, RESNET.facts)
    assert estimates.sharing(plan, replace(GPU, devices=devices)) == shared
    assert estimates.sharing(plan, replace(COSTS, devices=devices)) == 1


def test_the_steps_that_several_gpus_share_take_a_part_of_the_time_and_the_rest_as_long() -> None:
    recipe = Recipe(backbone="resnet18", strategy="scratch", epochs=5)
    plain = replace(GPU, gain=1.0)
    one, several = (seconds(recipe, replace(plain, devices=devices)) for devices in (1, 4))
    assert one - several == pytest.approx(5 * 80 * (0.06 - 0.06 / 4))
    # Steps that are shared are not repeated as they were captured.
    assert seconds(recipe, replace(GPU, devices=4)) == several
    assert seconds(recipe, replace(GPU, devices=None)) == seconds(recipe, GPU)
    without_room = replace(FACTS, max_activation_bytes=1000)
    top = Recipe(backbone="resnet18", strategy="top", epochs=10)
    one, several = (seconds(top, replace(plain, devices=devices), without_room) for devices in (1, 4))
    assert one - several == pytest.approx(10 * 80 * 0.75 * (0.018 + 0.013))


@pytest.mark.parametrize(
    ("changes", "recipe", "said"),
    [
        ({"devices": 2}, {}, ["The estimate is for 2 GPUs, which share each batch"]),
        ({"devices": 1}, {}, []),
        ({"devices": None}, {}, ["The estimate is for one GPU: how many the machine has was not noted"]),
        ({"devices": None}, {"devices": 1}, []),
        ({"devices": None}, {"strategy": "top"}, []),
        ({"devices": None}, {"strategy": "head"}, []),
        ({"device": "cpu", "devices": None}, {}, []),
    ],
    ids=str,
)
def test_a_plan_says_for_how_many_gpus_its_estimate_is(
    changes: dict[str, Any], recipe: dict[str, Any], said: list[str]
) -> None:
    plan = resolve(Recipe(backbone="resnet18", **{"strategy": "scratch", **recipe}), FACTS, RESNET.facts)
    found = list(estimates.about_sharing(plan, replace(GPU, **changes)))
    assert len(found) == len(said)
    assert all(sentence.startswith(part) for sentence, part in zip(found, said, strict=True))


def test_steps_in_fp32_take_as_much_longer_as_was_measured_where_others_are_in_bf16() -> None:
    half = replace(MEASURED, full_precision=2.5)
    scratch = Recipe(backbone="resnet18", strategy="scratch", epochs=5)
    full = replace(scratch, precision="fp32")
    assert seconds(full, half) - seconds(scratch, half) == pytest.approx(1.5 * 5 * 80 * 0.06)
    assert seconds(scratch, half) == seconds(scratch, MEASURED) == seconds(full, MEASURED)
    top = Recipe(backbone="resnet18", strategy="top", freeze="layer3", epochs=5, reinit="head")
    more = seconds(replace(top, precision="fp32"), half) - seconds(top, half)
    assert more == pytest.approx(1.5 * 5 * 80 * 0.013)


@pytest.mark.parametrize("strategy", ["full", "top"])
@pytest.mark.parametrize("has_rival", [False, True])
def test_features_that_a_cpu_has_in_bf16_are_computed_anew_where_a_plan_wants_them_in_fp32(
    strategy: Strategy, has_rival: bool
) -> None:
    def of(costs: Costs, **fields: Any) -> float:
        recipe = Recipe(backbone="resnet18", strategy=strategy, epochs=1, precision="fp32", **fields)
        plan = resolve(recipe, FACTS, RESNET.facts)
        rival = resolve(Recipe(backbone="resnet18", strategy="head"), FACTS, RESNET.facts) if has_rival else None
        return estimates.of(replace(plan, rival=rival), FACTS, RESNET, costs).seconds

    plain, half = replace(MEASURED, full_precision=1.0), replace(MEASURED, full_precision=1.0 + 1e-9)
    anew = 80 * 0.03
    assert of(half) - of(plain) == pytest.approx(anew if has_rival or strategy == "full" else 0.0, abs=1e-6)
    assert of(half, reinit="head") - of(plain, reinit="head") == pytest.approx(anew * has_rival, abs=1e-6)
    on_gpu = [of(replace(costs, device="cuda")) for costs in (plain, half)]
    assert on_gpu[0] == pytest.approx(on_gpu[1], abs=1e-6)


def test_steps_in_fp32_that_a_gpu_repeats_take_as_much_less_as_was_measured_of_these() -> None:
    recipe = Recipe(backbone="resnet18", strategy="scratch", epochs=5, precision="fp32")
    measured = replace(GPU, full_precision=2.0, full_gain=1.2)
    unknown = replace(measured, full_gain=None)
    assert seconds(recipe, measured) - seconds(recipe, unknown) == pytest.approx(5 * 80 * (0.12 / 1.2 - 0.12 / 3.0))
    auto = replace(recipe, precision="auto")
    assert seconds(auto, measured) == seconds(auto, unknown)


def test_for_a_gpu_images_are_decoded_once() -> None:
    plans = [resolve(Recipe(backbone="resnet18", strategy="scratch", epochs=e), FACTS, RESNET.facts) for e in (5, 6)]
    costs = replace(COSTS, device="cuda")
    short, long = (estimates.of(plan, FACTS, RESNET, costs).seconds for plan in plans)

    assert long - short == pytest.approx(80 * 0.06 + 20 * 0.02)
    assert short == pytest.approx(100 * 0.01 + 5 * (long - short) + 20 * 0.02 + LOOK + COMPARED)


def test_full_fits_the_head_first_that_it_begins_with() -> None:
    begun_well = seconds(Recipe(backbone="resnet18", strategy="full", epochs=5))
    from_random_head = seconds(Recipe(backbone="resnet18", strategy="full", epochs=5, reinit="head"))
    assert begun_well - from_random_head == pytest.approx(FIT * 0.4 + 3 * LOOK)


def test_classifiers_take_longer_the_more_images_there_are_than_were_measured() -> None:
    head = Recipe(backbone="resnet18", strategy="head")
    every = Recipe(backbone="resnet18", strategy="stage_probe", stage="all")
    few, many = (replace(FACTS, train_images=count, smallest_class=count // 2) for count in (2_000, 200_000))
    costs = replace(COSTS, measured=2_000)
    # The penalty is chosen among 10,000 images, what is fitted in the end takes a hundred times as long.
    assert seconds(head, costs, many) == pytest.approx((0.7 * 5 + 0.3 * 100) * seconds(head, costs, few))
    assert seconds(every, costs, few) < seconds(every, costs, many) < 10 * seconds(every, costs, few)
    best, one = (Recipe(backbone="resnet18", strategy="stage_probe", stage=stage) for stage in ("best", "layer2"))
    # Of the other stages none is fitted in the end.
    assert seconds(best, costs, many) - seconds(one, costs, many) == pytest.approx(FIT * 0.7 * (1.5 - 0.4) * 5)


def test_classifiers_take_longer_the_more_labels_there_are_than_were_measured() -> None:
    recipe = Recipe(backbone="resnet18", strategy="head")
    measured = replace(COSTS, measured=FACTS.train_images)
    assert seconds(recipe, replace(measured, labels=10.0)) == pytest.approx(10 * seconds(recipe, measured))


def test_epochs_of_the_top_take_what_a_step_was_measured_to_take_behind_the_frozen_stages() -> None:
    short, long = (Recipe(backbone="resnet18", strategy="top", epochs=epochs, views=1) for epochs in (1, 11))
    assert seconds(long, MEASURED) - seconds(short, MEASURED) == pytest.approx(10 * (80 * 0.013 + 20 * 0.005))


def test_the_frozen_stages_are_gone_through_once_for_each_view() -> None:
    one, two = (Recipe(backbone="resnet18", strategy="top", epochs=5, views=views) for views in (1, 2))
    assert seconds(two, MEASURED) - seconds(one, MEASURED) == pytest.approx(80 * (0.01 + 0.015))
    in_bf16 = replace(MEASURED, stages=(replace(BEHIND_LAYER3, step_before=0.007),))
    assert seconds(two, in_bf16) - seconds(one, in_bf16) == pytest.approx(80 * (0.01 + 0.007))


def test_without_room_the_frozen_stages_are_gone_through_in_every_epoch() -> None:
    facts = replace(FACTS, max_activation_bytes=1000)
    short, long = (Recipe(backbone="resnet18", strategy="top", epochs=epochs) for epochs in (1, 11))
    found = seconds(long, MEASURED, facts) - seconds(short, MEASURED, facts)
    assert found == pytest.approx(10 * (80 * (0.01 + 0.018 + 0.013) + LOOK))
    for_one_view = replace(FACTS, max_activation_bytes=100 * 2 * 256 * 14 * 14)
    asked = replace(long, views=2)
    assert seconds(asked, MEASURED, for_one_view) == seconds(replace(long, views=1), MEASURED)


def test_a_gpu_that_has_no_room_for_decoded_images_waits_for_them_in_every_epoch() -> None:
    costs = replace(COSTS, device="cuda")
    short, long = (Recipe(backbone="resnet18", strategy="scratch", epochs=epochs) for epochs in (5, 6))
    kept = 3 * (80 * 320 * 320 + 20 * 224 * 224)
    facts = replace(FACTS, max_activation_bytes=kept - 1)
    assert seconds(long, costs, facts) - seconds(short, costs, facts) == pytest.approx(80 * 0.07 + LOOK)
    enough = replace(FACTS, max_activation_bytes=kept)
    assert seconds(long, costs, enough) == seconds(long, costs)


def test_networks_between_start_and_end_of_the_top_are_judged_by_what_lies_behind_the_frozen_stages() -> None:
    several, none = (Recipe(backbone="resnet18", strategy="top", views=1, patience=patience) for patience in (None, 9))
    assert seconds(several, MEASURED) - seconds(none, MEASURED) == pytest.approx(3 * 20 * 0.005)


def test_networks_that_cannot_be_entered_go_through_the_frozen_stages_in_every_epoch() -> None:
    short, long = (Recipe(backbone="resnet18", strategy="top", epochs=epochs, views=1) for epochs in (1, 11))
    share = estimates.share_up_to(RESNET, "layer3")
    assert 0.6 < share < 0.9
    step = share * 0.02 + (1 - share) * 0.06
    assert seconds(long) - seconds(short) == pytest.approx(10 * (80 * (0.01 + step) + LOOK))
    # To begin with a fitted head takes its fit, and the features of all training images.
    fresh = Recipe(backbone="resnet18", strategy="top", epochs=1, views=1, reinit="head")
    assert seconds(short) - seconds(fresh) == pytest.approx(FIT * 0.4 + 80 * 0.03 + 3 * LOOK)


def test_a_rival_takes_its_time_besides() -> None:
    alone = resolve(Recipe(backbone="resnet18", strategy="full"), FACTS, RESNET.facts)
    rival = resolve(Recipe(backbone="resnet18", strategy="stage_probe"), FACTS, RESNET.facts)
    both = estimates.of(replace(alone, rival=rival), FACTS, RESNET, COSTS).seconds
    assert both == pytest.approx(sum(estimates.of(plan, FACTS, RESNET, COSTS).seconds for plan in (alone, rival)))


def test_where_multiply_adds_are_not_known_stages_count_alike() -> None:
    network = catalogue.find("timm:resnet26")
    names = [stage.name for stage in network.stages]
    assert estimates.share_up_to(network, names[0]) == pytest.approx(1 / len(names))
    assert estimates.share_up_to(network, None) == 0
    assert (
        estimates.of(
            resolve(Recipe(backbone="timm:resnet26", strategy="head"), FACTS, network.facts), FACTS, network, COSTS
        ).memory_bytes
        is None
    )


@pytest.mark.parametrize(
    ("search", "seconds"),
    [
        (None, 100),
        (Search(seconds=300), 300),
        (Search(seconds=50), 50),
        (Search(trials=5), 500),
        (Search(seconds=300, trials=2), 200),
        (Search(seconds=300, trials=5), 300),
    ],
)
def test_a_search_takes_what_its_limits_allow_and_what_any_job_does_besides(
    search: Search | None, seconds: float
) -> None:
    first = Estimate(seconds=100, memory_bytes=7)
    found = estimates.of_job(first, FACTS, search)
    assert found.seconds == pytest.approx(seconds + estimates.around(FACTS))
    assert found.memory_bytes == 7
