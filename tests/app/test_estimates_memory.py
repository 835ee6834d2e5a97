"""What a plan tells of the memory that a training takes, and how batches are cut to it."""

from dataclasses import replace

import pytest

from app import estimates
from app.backbones import catalogue
from app.plan import Plan, resolve
from app.profile import Costs
from app.recipe import Recipe
from tests.app.test_estimates import COSTS, FACTS, GPU, RESNET


def memory(recipe: Recipe) -> int:
    found = estimates.of(resolve(recipe, FACTS, RESNET.facts), FACTS, RESNET, COSTS).memory_bytes
    assert found is not None
    return found


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
