"""Networks with short cuts: ResNet, Wide ResNet, ResNeXt, RegNet, DenseNet."""

from app.backbones.chain import Chain, Stage
from app.backbones.entry import Entry

_CHAIN = Chain(
    stages=(
        Stage("stem", ("conv1", "bn1", "relu", "maxpool")),
        *(Stage(f"layer{number}", (f"layer{number}",)) for number in (1, 2, 3, 4)),
    ),
    pool=("avgpool", ":flatten"),
    head="fc",
)

_RESNETS = {
    18: "The small residual network: layers learn what to add to their input, so depth stops hurting. A sturdy default "
    "for fine-tuning.",
    34: "The largest residual network of plain blocks, two 3 x 3 filters each: a step up from 18 layers at twice the "
    "computation.",
    50: "The residual network that most of transfer learning is measured with. Blocks of 1 x 1, 3 x 3 and 1 x 1 "
    "filters (bottlenecks) keep 50 layers affordable; torchvision's puts the stride on the 3 x 3 filter (v1.5).",
    101: "ResNet-50 with 23 instead of 6 blocks in its third layer: a little more accuracy for twice the computation.",
    152: "The deepest of the published residual networks, winner of ImageNet 2015. Little is gained over 101 layers.",
}


def _resnet(depth: int, summary: str) -> Entry:
    return Entry(
        name=f"resnet{depth}",
        family="ResNet",
        year=2015,
        paper="https://arxiv.org/abs/1512.03385",
        summary=summary,
        chain=_CHAIN,
    )


def _variant(name: str, family: str, year: int, paper: str, summary: str) -> Entry:
    return Entry(name=name, family=family, year=year, paper=paper, summary=summary, chain=_CHAIN)


_WIDE_PAPER = "https://arxiv.org/abs/1605.07146"
_NEXT_PAPER = "https://arxiv.org/abs/1611.05431"
_VARIANTS = (
    _variant(
        "wide_resnet50_2",
        "Wide ResNet",
        2016,
        _WIDE_PAPER,
        "ResNet-50 with the 3 x 3 filters of each block twice as wide: width instead of depth, which graphics cards "
        "compute more quickly for the same accuracy.",
    ),
    _variant(
        "wide_resnet101_2",
        "Wide ResNet",
        2016,
        _WIDE_PAPER,
        "ResNet-101 with the 3 x 3 filters of each block twice as wide; heavy, with little gain over its smaller one.",
    ),
    _variant(
        "resnext50_32x4d",
        "ResNeXt",
        2016,
        _NEXT_PAPER,
        "ResNet-50 with each 3 x 3 filter in 32 groups of 4 channels: more paths through a block instead of more depth "
        "or width, for better accuracy at the same cost.",
    ),
    _variant(
        "resnext101_32x8d",
        "ResNeXt",
        2016,
        _NEXT_PAPER,
        "The 101 layers of ResNeXt with 32 groups of 8 channels: wide, heavy and strong, with two sets of weights.",
    ),
    _variant(
        "resnext101_64x4d",
        "ResNeXt",
        2016,
        _NEXT_PAPER,
        "The 101 layers of ResNeXt with 64 groups of 4 channels; its published weights come from a modern recipe.",
    ),
)

_REGNET_CHAIN = Chain(
    stages=(
        Stage("stem", ("stem",)),
        *(Stage(f"block{number}", (f"trunk_output.block{number}",)) for number in (1, 2, 3, 4)),
    ),
    pool=("avgpool", ":flatten"),
    head="fc",
)


def _regnet(kind: str, size: str) -> Entry:
    speed = f"{size.replace('mf', ' million').replace('gf', ' thousand million').replace('_', '.')} multiply-adds"
    gates = ", and with channels weighted by squeeze-and-excitation" if kind == "y" else ""
    return Entry(
        name=f"regnet_{kind}_{size}",
        family="RegNet",
        year=2020,
        paper="https://arxiv.org/abs/2003.13678",
        summary="A design space instead of a single network: widths and depths of all stages follow from a line with "
        f"few parameters, found by studying populations of networks. This one spends about {speed} an image{gates}.",
        chain=_REGNET_CHAIN,
    )


def _densenet(depth: int) -> Entry:
    return Entry(
        name=f"densenet{depth}",
        family="DenseNet",
        year=2016,
        paper="https://arxiv.org/abs/1608.06993",
        summary=f"{depth} layers, each of which sees the results of all layers before it in its block, so that "
        "features are used again instead of learnt again: few weights for its accuracy, at a price in memory.",
        chain=Chain(
            stages=(
                Stage("stem", tuple(f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0"))),
                *(Stage(f"denseblock{n}", (f"features.denseblock{n}", f"features.transition{n}")) for n in (1, 2, 3)),
                Stage("denseblock4", ("features.denseblock4", "features.norm5", ":relu")),
            ),
            pool=(":mean_nchw",),
            head="classifier",
        ),
    )


ENTRIES = (
    *(_resnet(depth, summary) for depth, summary in _RESNETS.items()),
    *_VARIANTS,
    *(_regnet("y", size) for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf")),
    *(_regnet("x", size) for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf")),
    *(_densenet(depth) for depth in (121, 161, 169, 201)),
)
