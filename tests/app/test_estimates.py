"""Time and memory of a plan from what one image costs: made-up costs in, sums out."""

from dataclasses import replace
from typing import Any

import pytest

from app import estimates
from app.backbones import catalogue
from app.facts import VersionFacts
from app.limits import Search
from app.plan import Estimate, Plan, resolve
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


def memory(recipe: Recipe) -> int:
    found = estimates.of(resolve(recipe, FACTS, RESNET.facts), FACTS, RESNET, COSTS).memory_bytes
    assert found is not None
    return found


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


def test_the_memory_of_each_gpu_holds_its_share_of_a_batch() -> None:
    share, whole = (
        resolve(Recipe(backbone="resnet18", strategy="full", batch_size=size), FACTS, RESNET.facts) for size in (8, 16)
    )
    shared = estimates.of(whole, FACTS, RESNET, replace(GPU, devices=2)).memory_bytes
    assert shared == estimates.of(share, FACTS, RESNET, GPU).memory_bytes
    recipe = Recipe(backbone="resnet18", strategy="full")
    plan = resolve(recipe, replace(FACTS, train_images=800), RESNET.facts)
    cramped = replace(GPU, memory_bytes=2 * memory(Recipe(backbone="resnet18", strategy="full", batch_size=8)))
    one, two = (estimates.fitted(plan, recipe, RESNET, replace(cramped, devices=devices)).descent for devices in (1, 2))
    assert one is not None
    assert two is not None
    assert two.batch_size == 2 * one.batch_size


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


def test_memory_grows_with_the_batch_and_with_what_is_trained() -> None:
    small, large = (Recipe(backbone="resnet18", strategy="full", batch_size=size) for size in (8, 32))
    assert memory(large) > 2 * memory(small)
    assert memory(Recipe(backbone="resnet18", strategy="head")) < memory(Recipe(backbone="resnet18", strategy="top"))
    assert memory(Recipe(backbone="resnet18", strategy="top", batch_size=8)) < memory(small)


def test_memory_knows_what_the_optimizer_keeps_and_the_moving_average() -> None:
    weights = 4 * RESNET.parameters
    usual = Recipe(backbone="resnet18", strategy="full", batch_size=8)
    assert memory(replace(usual, optimizer="adamw")) - memory(usual) == weights
    assert memory(replace(usual, ema=0.99)) - memory(usual) == weights
    top = replace(usual, strategy="top")
    frozen = sum(stage.parameters or 0 for stage in RESNET.stages[: RESNET.facts.stages.index("layer3") + 1])
    assert memory(replace(top, optimizer="adamw")) - memory(top) == pytest.approx(weights - 4 * frozen, abs=1)
    assert memory(replace(top, ema=0.99)) - memory(top) == weights  # of frozen layers as well


def test_memory_goes_by_the_parameters_that_are_trained_also_where_they_take_few_multiply_adds() -> None:
    network = catalogue.find("vgg16")
    plan = resolve(Recipe(backbone="vgg16", strategy="top", freeze="conv4"), FACTS, network.facts)
    trained = network.parameters - sum(stage.parameters or 0 for stage in network.stages[:4])
    found = estimates.of(plan, FACTS, network, COSTS).memory_bytes
    assert found is not None
    assert found >= 4 * (network.parameters + 2 * trained)  # the dense layers, with their gradients and momenta


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


def test_of_networks_outside_of_the_catalogue_the_memory_is_told_by_what_was_counted_of_a_step() -> None:
    network = catalogue.find("timm:vit_large_patch16_224")
    recipe = Recipe(backbone=network.name, strategy="full")
    plan = resolve(recipe, replace(FACTS, train_images=800), network.facts)
    assert plan.descent is not None
    gpu = replace(GPU, memory_bytes=16 * 10**9, kept_bytes_per_pixel=8000.0)
    told = estimates.of(plan, FACTS, network, gpu).memory_bytes
    values = 3 * 4 * network.parameters  # with gradients and momenta
    assert told == pytest.approx(values + 1.5 * plan.descent.batch_size * 8000 * 224 * 224, abs=1)
    cut = estimates.fitted(plan, recipe, network, gpu).descent
    assert cut is not None
    assert (cut.batch_size, cut.accumulate) == (plan.descent.batch_size // 4, 4)
    uncounted = replace(gpu, kept_bytes_per_pixel=None)
    assert estimates.fitted(plan, recipe, network, uncounted) == plan
    assert estimates.of(plan, FACTS, network, uncounted).memory_bytes is None


def test_what_the_catalogue_knows_goes_before_what_was_counted() -> None:
    plan = resolve(Recipe(backbone="resnet18", strategy="full"), FACTS, RESNET.facts)
    counted = replace(COSTS, kept_bytes_per_pixel=1.0)
    assert estimates.of(plan, FACTS, RESNET, counted) == estimates.of(plan, FACTS, RESNET, COSTS)


def test_batches_are_cut_to_the_memory_of_the_device_and_make_the_same_steps() -> None:
    recipe = Recipe(backbone="resnet18", strategy="full", batch_size=None)
    plan = resolve(recipe, replace(FACTS, train_images=800), RESNET.facts)
    assert plan.descent is not None
    assert estimates.fitted(plan, recipe, RESNET, COSTS) == plan
    assert estimates.fitted(plan, recipe, RESNET, replace(COSTS, memory_bytes=10**11)) == plan

    small = replace(COSTS, memory_bytes=memory(Recipe(backbone="resnet18", strategy="full", batch_size=8)) * 2)
    cut = estimates.fitted(plan, recipe, RESNET, small)
    assert cut.descent is not None
    assert 2 <= cut.descent.batch_size < plan.descent.batch_size
    assert cut.descent.batch_size * cut.descent.accumulate == plan.descent.batch_size
    assert cut.descent.learning_rate == plan.descent.learning_rate
    assert "would not fit" in cut.reasons[-1]
    by_hand = replace(recipe, batch_size=32)
    assert estimates.fitted(plan, by_hand, RESNET, small) == plan
    nothing = replace(COSTS, memory_bytes=1)
    least = estimates.fitted(plan, recipe, RESNET, nothing).descent
    assert least is not None
    assert least.batch_size == 2


@pytest.mark.parametrize(
    ("backbone", "weights", "gigabytes", "pieces"),
    [
        ("resnet18", "pretrained", 64, 1),
        ("resnet50", "pretrained", 64, 2),
        ("efficientnet_b4", "pretrained", 64, 4),  # batches of eight take more than the 4 GB, and are whole
        ("efficientnet_b4", "pretrained", 4, 16),  # of two, which are the least
        ("vit_b_16", "pretrained", 64, 4),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 4, 16),  # images of 384 pixels
        ("timm:resnet26", "pretrained", 1, 1),  # of which it is not known
    ],
)
def test_a_cpu_computes_batches_in_as_many_pieces_as_fit(
    backbone: str, weights: str, gigabytes: int, pieces: int
) -> None:
    network = catalogue.find(backbone)
    recipe = Recipe(backbone=backbone, strategy="full", weights=weights)
    plan = resolve(recipe, replace(FACTS, train_images=800), network.facts)
    assert plan.descent is not None
    assert plan.descent.batch_size == 32
    memory_bytes = gigabytes * 10**9
    assert estimates.pieces(plan, network, device="cpu", memory_bytes=memory_bytes) == pieces
    assert estimates.pieces(plan, network, device="cuda", memory_bytes=memory_bytes) == 1
    assert estimates.pieces(plan, network, device="cpu", memory_bytes=memory_bytes, is_batch_by_hand=True) == 1
    head = resolve(replace(recipe, strategy="head"), FACTS, network.facts)
    assert estimates.pieces(head, network, device="cpu", memory_bytes=1) == 1


def test_the_memory_that_is_told_of_a_cpu_is_that_of_pieces_unless_the_batch_is_set_by_hand() -> None:
    network = catalogue.find("resnet50")
    plan = resolve(Recipe(backbone="resnet50", strategy="full"), replace(FACTS, train_images=800), network.facts)
    assert plan.descent is not None
    half = replace(plan, descent=replace(plan.descent, batch_size=16))

    def told(plan: Plan, costs: Costs, *, is_batch_by_hand: bool = False) -> int | None:
        return estimates.of(plan, FACTS, network, costs, is_batch_by_hand=is_batch_by_hand).memory_bytes

    cpu, gpu = replace(COSTS, memory_bytes=64 * 10**9), replace(COSTS, memory_bytes=64 * 10**9, device="cuda")
    assert told(plan, cpu) == told(half, gpu)
    assert told(plan, cpu, is_batch_by_hand=True) == told(plan, gpu)
    assert told(plan, COSTS) == told(plan, gpu)  # of a profile that was kept before the memory was in it


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
