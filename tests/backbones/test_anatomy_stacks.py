"""Stacks of layers as somebody describes them."""

from typing import Any

import pytest

from app import errors
from app.backbones import anatomy, stacks
from app.backbones.stacks import Layer
from tests.backbones.samples import ALEXNET_LAYERS, ALEXNET_POOLS, weighted


def conv(channels: int, kernel: int, **options: Any) -> Layer:
    return Layer(type="conv", out_channels=channels, kernel=kernel, **options)


def alexnet(groups: int) -> list[Layer]:
    """AlexNet as in "ImageNet Classification with Deep Convolutional Neural Networks", section 3.5."""
    relu, lrn, dropout = Layer(type="relu"), Layer(type="lrn"), Layer(type="dropout")
    pool = Layer(type="max_pool", kernel=3, stride=2)
    return [
        *(conv(96, 11, stride=4), relu, lrn, pool),
        *(conv(256, 5, padding=2, groups=groups), relu, lrn, pool),
        *(conv(384, 3, padding="same"), relu),
        *(conv(384, 3, padding="same", groups=groups), relu),
        *(conv(256, 3, padding="same", groups=groups), relu, pool),
        *(Layer(type="flatten"), dropout, Layer(type="linear", out_channels=4096), relu),
        *(dropout, Layer(type="linear", out_channels=4096), relu, Layer(type="linear", out_channels=1000)),
    ]


def test_alexnet_has_the_layers_of_its_case_study() -> None:
    found = anatomy.of_stack(alexnet(groups=1), size=227)
    assert weighted(found) == ALEXNET_LAYERS
    assert [row.output for row in found.rows if row.type == "max_pool"] == ALEXNET_POOLS
    assert found.totals.parameters == 62_378_344
    assert found.layers == 8


def test_alexnet_on_two_cards_has_half_the_weights_where_they_do_not_talk() -> None:
    found = anatomy.of_stack(alexnet(groups=2), size=227)
    assert [parameters for _, parameters in weighted(found)][1:5] == [307_456, 885_120, 663_936, 442_624]
    assert found.totals.parameters == 60_965_224


@pytest.mark.parametrize(("count", "side"), [(1, 3), (2, 5), (3, 7)])
def test_small_filters_in_a_row_see_what_a_large_one_sees(count: int, side: int) -> None:
    found = anatomy.of_stack([conv(64, 3, padding="same")] * count, size=56, channels=64)
    assert found.rows[-1].receptive_field == (side, side)
    assert found.layers == count


def test_three_small_filters_cost_less_than_a_large_one() -> None:
    relu = Layer(type="relu")
    small = anatomy.of_stack([conv(64, 3, padding="same", bias=False), relu] * 3, size=56, channels=64)
    large = anatomy.of_stack([conv(64, 7, padding="same", bias=False), relu], size=56, channels=64)
    assert (small.totals.parameters, large.totals.parameters) == (27 * 64**2, 49 * 64**2)
    assert (small.totals.macs, large.totals.macs) == (27 * 64**2 * 56**2, 49 * 64**2 * 56**2)
    assert [sum(row.type == "relu" for row in found.rows) for found in (small, large)] == [3, 1]


def test_a_depthwise_separable_convolution_costs_less_than_a_full_one() -> None:
    separable = [Layer(type="depthwise_conv", kernel=3, padding="same", bias=False), conv(128, 1, bias=False)]
    found = anatomy.of_stack(separable, size=14, channels=64)
    assert [(row.type, row.groups) for row in found.rows] == [("depthwise_conv", 64), ("conv", 1)]
    assert found.totals.parameters == 64 * 9 + 64 * 128


def test_every_kind_of_layer_has_its_row() -> None:
    layers = [
        conv(8, 3, padding=1),
        Layer(type="batch_norm"),
        Layer(type="relu"),
        Layer(type="lrn"),
        Layer(type="depthwise_conv", kernel=(1, 3), padding="same"),
        Layer(type="max_pool", kernel=2),
        Layer(type="avg_pool", kernel=2),
        Layer(type="global_avg_pool"),
        Layer(type="flatten"),
        Layer(type="dropout"),
        Layer(type="linear", out_channels=5),
    ]
    found = anatomy.of_stack(layers, size=16)
    assert [row.type for row in found.rows] == [layer.type for layer in layers]
    assert {layer.type for layer in layers} == set(stacks.TYPES)
    assert found.rows[4].kernel == (1, 3)


@pytest.mark.parametrize("kind", ["relu", "lrn", "dropout", "batch_norm", "flatten", "global_avg_pool"])
def test_a_layer_by_itself_has_its_row_too(kind: stacks.Type) -> None:
    found = anatomy.of_stack([Layer(type=kind)], size=1)
    assert [row.type for row in found.rows] == [kind]
    assert found.layers == 0


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([conv(10, 3, groups=4)], r"layer 1 \(conv\): 4 groups must divide .* a map of 3 x 8 x 8 comes in"),
        ([conv(4, 9)], "the kernel 9 x 9 must fit into height and width with padding, 8 x 8"),
        ([conv(4, 2, padding="same")], "padding 'same' needs odd kernels, not 2 x 2"),
        ([Layer(type="conv", kernel=3)], "needs out_channels"),
        ([Layer(type="relu", kernel=3, stride=1)], "takes no kernel, stride"),
        ([Layer(type="linear", out_channels=3)], r"needs a vector, so put flatten .* a map of 3 x 8 x 8 comes in"),
        (
            [conv(4, 3), Layer(type="flatten"), conv(4, 3)],
            r"layer 3 \(conv\): needs a map .* a vector of 144 comes in",
        ),
        ([Layer(type="max_pool", kernel=2, padding=2)], "padding must be at most half of the kernel 2 x 2"),
        ([Layer(type="depthwise_conv", kernel=3, out_channels=4)], "must be a multiple of the channels that come in"),
        ([], "a stack without layers"),
    ],
)
def test_layers_that_do_not_fit_together_are_refused_by_name(layers: list[Layer], message: str) -> None:
    with pytest.raises(errors.Invalid, match=message):
        anatomy.of_stack(layers, size=8)


def test_layers_beyond_all_counting_are_refused() -> None:
    wide = conv(16384, 1, padding=1024)
    with pytest.raises(errors.Invalid, match=r"layer 202 \(linear\): cannot be counted"):
        anatomy.of_stack([*[wide] * 200, Layer(type="flatten"), Layer(type="linear", out_channels=16384)], size=4096)
    with pytest.raises(errors.Invalid, match="training with 4096 images at once cannot be counted"):
        anatomy.of_stack([wide] * 200, size=4096, batch=4096)


def test_a_stack_for_no_image_is_refused() -> None:
    with pytest.raises(errors.Invalid, match="every number must be at least 1"):
        anatomy.of_stack([conv(4, 1)], size=0)
