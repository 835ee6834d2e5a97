"""The layers of a network one by one, held against what papers and libraries say of the same networks."""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from app import errors
from app.backbones import anatomy
from app.backbones.anatomy import Anatomy, Row

MIB = 2**20


@dataclass(frozen=True)
class Published:
    """Figures of the literature: multiply-adds in thousand millions, outputs of conv and fc layers in millions."""

    name: str
    parameters: int
    gmac: float
    millions: float
    layers: int | None = None
    size: int = 224


TORCHVISION = [
    Published("alexnet", 61_100_840, 0.714, 0.49, 8),
    Published("vgg16", 138_357_544, 15.47, 13.56, 16),
    Published("vgg19", 143_667_240, 19.632, 14.86, 19),
    Published("googlenet", 6_624_904, 1.498, 3.23, 22),
    Published("inception_v3", 23_834_568, 5.713, 8.97, 48, 299),
    Published("resnet18", 11_689_512, 1.814, 2.48, 18),
    Published("resnet34", 21_797_672, 3.664, 3.74, 34),
    Published("resnet50", 25_557_032, 4.089, 11.11, 50),
    Published("resnet101", 44_549_160, 7.801, 16.23, 101),
    Published("resnet152", 60_192_808, 11.514, 22.56, 152),
    Published("squeezenet1_0", 1_248_424, 0.819, 4.35, 18),
    Published("squeezenet1_1", 1_235_496, 0.349, 2.59, 18),
    Published("shufflenet_v2_x1_0", 2_278_604, 0.145, 1.95),
    Published("mobilenet_v2", 3_504_872, 0.301, 6.68, 53),
    Published("mobilenet_v3_large", 5_483_032, 0.217, 4.41),
    Published("mnasnet1_0", 4_383_312, 0.314, 5.46),
    Published("efficientnet_b0", 5_288_548, 0.386, 6.75),
    Published("vit_b_16", 86_567_656, 17.564, 16.49),
    Published("swin_t", 28_288_354, 4.491, 13.44),
    Published("convnext_tiny", 28_589_128, 4.456, 13.44),
]
TIMM = [
    Published("inception_v4", 42_679_816, 12.25, 15.09, size=299),
    Published("inception_resnet_v2", 55_843_464, 13.16, 25.06, size=299),
    Published("mobilenetv1_100", 4_231_976, 0.569, 5.04, 28),
    Published("mobilenetv4_conv_small", 3_774_024, 0.186, 1.97),
    Published("ghostnet_100", 5_182_508, 0.141, 3.55),
]


def network(name: str) -> nn.Module:
    heads = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        return cast("nn.Module", torchvision.models.get_model(name, weights=None, **heads))


@cache
def computed(name: str, size: int = 224, **options: Any) -> Anatomy:
    return anatomy.of(network(name), size=size, **options)


def row(found: Anatomy, name: str) -> Row:
    return next(row for row in found.rows if row.name == name)


def assert_as_published(found: Anatomy, published: Published) -> None:
    digits = len(str(published.gmac).partition(".")[2])
    assert found.totals.parameters == published.parameters
    assert sum(row.parameters for row in found.rows) == published.parameters
    assert round(found.totals.macs / 1e9, digits) == published.gmac
    # Some of the published figures are cut off and not rounded.
    assert found.totals.conv_fc_values / 1e6 == pytest.approx(published.millions, abs=0.0055)
    if published.layers is not None:
        assert found.layers == published.layers


@pytest.mark.parametrize("published", TORCHVISION, ids=lambda published: published.name)
def test_sums_are_those_that_are_published(published: Published) -> None:
    assert_as_published(computed(published.name, published.size), published)


@pytest.mark.parametrize("published", TIMM, ids=lambda published: published.name)
def test_sums_of_networks_of_another_library_are_those_that_are_published(published: Published) -> None:
    with torch.device("meta"):
        built = timm.create_model(published.name)
    assert_as_published(anatomy.of(built, size=published.size), published)


def test_a_row_tells_all_of_its_layer() -> None:
    first = computed("alexnet", batch=2, dtype="float16", stages=(("features", ("features",)),)).rows[0]
    assert first == Row(
        name="features.0",
        type="conv",
        kernel=(11, 11),
        stride=(4, 4),
        padding=(2, 2),
        groups=1,
        output=(64, 55, 55),
        parameters=64 * 3 * 11 * 11 + 64,
        macs=64 * 55 * 55 * 3 * 11 * 11,
        values=64 * 55 * 55,
        bytes=64 * 55 * 55 * 2 * 2,
        in_place=False,
        receptive_field=(11, 11),
        depth=1,
        stage="features",
    )


def test_the_memory_of_vgg16_depends_on_what_is_counted() -> None:
    totals = computed("vgg16").totals
    assert totals.layer_values == 15_237_608
    assert round(totals.layer_values * 4 / MIB, 1) == 58.1
    assert totals.all_values == 28_793_320
    assert round(totals.all_values * 4 / MIB, 1) == 109.8


def test_most_activations_of_vgg16_are_in_the_first_layers_and_most_parameters_in_the_last() -> None:
    rows = computed("vgg16").rows
    half = len(rows) // 3
    assert sum(row.values for row in rows[:half]) > 0.75 * sum(row.values for row in rows)
    assert sum(row.parameters for row in rows if row.type == "linear") == 123_642_856


def test_most_parameters_of_resnet50_are_in_its_last_stage() -> None:
    modules = ("layer1", "layer2", "layer3", "layer4", "fc")
    found = computed("resnet50", stages=(("stem", ("conv1", "bn1")), *((name, (name,)) for name in modules)))
    parameters = {stage.name: stage.parameters for stage in found.stages}
    assert parameters == {
        "stem": 9_536,
        "layer1": 215_808,
        "layer2": 1_219_584,
        "layer3": 7_098_368,
        "layer4": 14_964_736,
        "fc": 2_049_000,
    }
    assert round(100 * parameters["layer4"] / found.totals.parameters) == 59
    assert {row.stage for row in found.rows if row.name.startswith(("maxpool", "avgpool", "relu"))} == {None}
    assert sum(stage.macs for stage in found.stages) == found.totals.macs


# Output channels of the columns 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection: table 1 of "Going Deeper with
# Convolutions" gives them, and the weights follow.
@pytest.mark.parametrize(
    ("block", "weights"),
    [
        ("3a", 163_328),
        ("3b", 388_096),
        ("4a", 375_552),
        ("4b", 448_512),
        ("4c", 509_440),
        ("4d", 604_672),
        ("4e", 867_328),
        ("5a", 1_042_432),
        ("5b", 1_442_816),
    ],
)
def test_the_blocks_of_googlenet_have_the_weights_of_the_paper(block: str, weights: int) -> None:
    built = network("googlenet")
    inception = built.get_submodule(f"inception{block}")
    narrow = inception.get_submodule("branch3.1.conv")
    assert isinstance(narrow, nn.Conv2d)
    # torchvision's 5x5 convolutions are 3x3.
    wide = nn.Conv2d(narrow.in_channels, narrow.out_channels, 5, padding=2, bias=False, device="meta")
    inception.set_submodule("branch3.1.conv", wide)
    found = anatomy.of(built, size=224)
    rows = [row for row in found.rows if row.name.startswith(f"inception{block}.") and row.type == "conv"]
    assert sum(row.parameters for row in rows) == weights


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [
        ("vgg16", "features.28", 196),  # conv5_3
        ("vgg16", "features.30", 212),
        ("alexnet", "features.10", 163),
        ("alexnet", "features.12", 195),
        ("resnet50", "layer4.2.relu:3", 427),  # 483 where the stride is on the 1x1 convolutions
        ("resnet18", "layer4.1.relu:2", 435),
    ],
)
def test_receptive_fields_are_known(name: str, layer: str, side: int) -> None:
    assert row(computed(name), layer).receptive_field == (side, side)


def test_the_receptive_field_of_a_concatenation_is_the_largest_of_its_parts() -> None:
    found = computed("googlenet")
    branches = [row for row in found.rows if row.name.startswith("inception3a.branch")]
    sides = {row.receptive_field for row in branches}
    assert len(sides) > 1
    assert row(found, "inception3a.concat").receptive_field == max(field for field in sides if field)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "avgpool"), ("vgg16", "classifier.0")])
def test_behind_global_pooling_and_the_first_fully_connected_layer_it_is_the_whole_image(name: str, layer: str) -> None:
    assert row(computed(name), layer).receptive_field is None


def test_attention_sees_the_whole_image() -> None:
    rows = computed("vit_b_16").rows
    products = [row for row in rows if row.type == "attention_product"]
    assert len(products) == 2 * 12
    assert all(row.receptive_field is None for row in products)
    assert sum(row.macs for row in products) == 12 * 2 * 197 * 197 * 768


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in computed("resnet50").rows]
    assert len(set(names)) == len(names)
    assert names[:4] == ["conv1", "bn1", "relu", "maxpool"]
    assert "layer1.0.relu:3" in names


def test_preparing_the_image_is_no_layer() -> None:
    with torch.device("meta"):
        scaled = torchvision.models.inception_v3(
            weights=None, transform_input=True, aux_logits=False, init_weights=False
        )
    assert anatomy.of(scaled, size=299).rows == computed("inception_v3", 299).rows


def test_layers_used_twice_have_their_parameters_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.conv(self.conv(images))
            return result

    found = anatomy.of(Twice(), size=8)
    assert [(row.name, row.parameters) for row in found.rows] == [("conv", 84), ("conv:2", 0)]
    assert found.totals.parameters == 84
    assert found.layers == 2
    assert found.rows[1].receptive_field == (5, 5)


def test_inference_holds_what_is_needed_at_the_same_moment() -> None:
    # The first two convolutions of VGG16 are the largest, each 64 x 224 x 224.
    memory = computed("vgg16", batch=3).memory
    assert memory.inference_activations == 3 * 2 * 64 * 224 * 224 * 4
    assert memory.weights == 138_357_544 * 4
    assert memory.inference == memory.weights + memory.inference_activations


def test_training_holds_what_autograd_keeps() -> None:
    small = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    memory = anatomy.of(small, size=8, batch=4).memory
    parameters = 8 * 3 * 9 + 8 + 1280 + 10
    # The image, the ReLU's output (which is the pool's input too), places of the maxima (8 bytes), the pool's output.
    kept = 4 * (4 * 3 * 64 + 4 * 8 * 64 + 8 * 128 + 4 * 128)
    assert memory.training_activations == kept
    assert memory.training == 4 * 3 * parameters + kept


def test_half_precision_halves_the_memory() -> None:
    full, half = (computed("mobilenet_v2", dtype=dtype).memory for dtype in (torch.float32, torch.bfloat16))
    assert 2 * half.inference_activations == full.inference_activations
    assert 2 * half.gradients == full.gradients


@pytest.mark.parametrize(
    ("name", "smallest"), [("alexnet", 63), ("vgg16", 32), ("googlenet", 15), ("inception_v3", 75), ("resnet18", 1)]
)
def test_the_smallest_size_is_found(name: str, smallest: int) -> None:
    assert anatomy.smallest_size(network(name)) == smallest


def test_an_image_too_small_is_answered_with_the_smallest_possible() -> None:
    with pytest.raises(errors.Invalid, match="31 x 31 pixels; the smallest it can take is 32 x 32") as caught:
        computed("vgg16", 31)
    assert caught.value.detail["smallest"] == 32


def test_a_network_for_a_single_size_tells_it() -> None:
    with pytest.raises(errors.Invalid, match="it takes 224 x 224"):
        computed("vit_b_16", 300)


@pytest.mark.parametrize("batch", [0, -4])
def test_a_batch_without_images_is_refused(batch: int) -> None:
    with pytest.raises(errors.Invalid, match=f"a batch of {batch} images"):
        computed("alexnet", batch=batch)


def test_an_unknown_dtype_is_answered_with_the_nearest() -> None:
    with pytest.raises(errors.UnknownName, match="did you mean float64, float16"):
        computed("alexnet", dtype="float61")


def test_the_network_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    images = torch.rand(2, 3, 8, 8)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    anatomy.of(small, size=8)
    assert small.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert small(images).shape == (2, 4, 6, 6)


def test_networks_at_work_in_other_threads_notice_nothing() -> None:
    torch.manual_seed(0)
    working = torchvision.models.squeezenet1_1(weights=None).eval()
    images = torch.rand(1, 3, 64, 64)
    stop = threading.Event()
    answers: list[Tensor] = []

    def predict() -> None:
        with torch.inference_mode():
            while not stop.is_set():
                answers.append(working(images))

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        found = [anatomy.of(working, size=64) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert all(other == found[0] for other in found)
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_threads_at_once_give_the_same() -> None:
    alone = computed("resnet18")
    found: list[Anatomy] = []
    threads = [threading.Thread(target=lambda: found.append(computed("resnet18"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 4
