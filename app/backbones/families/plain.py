"""Networks of our own, and plain stacks of convolutions: AlexNet, ZFNet, VGG, SqueezeNet."""

from itertools import accumulate

from app.backbones.chain import Chain, Stage, spans
from app.backbones.entry import Entry, scratch

_FIVE = ("conv1", "conv2", "conv3", "conv4", "conv5")
_DENSE = ("avgpool", ":flatten", *(f"classifier.{number}" for number in range(6)))

TINYNET = Entry(
    name="tinynet",
    family="TinyNet",
    year=2026,
    paper="",
    summary="A small residual network for images of 64 x 64 pixels that trains from scratch in a minute on a laptop, "
    "without any pre-trained weights: for trying things out, and for images that resemble no photo.",
    chain=Chain(
        stages=(Stage("stem", ("stem",)), *(Stage(f"stage{n}", (f"stages.{n - 1}",)) for n in (1, 2, 3))),
        pool=("pool", ":flatten"),
        head="head",
    ),
    source="graft",
    preprocessing=scratch(64, 72),
)

FORMNET = Entry(
    name="formnet",
    family="FormNet",
    year=2026,
    paper="https://arxiv.org/abs/2101.08515",
    summary="A small residual network for images of 128 x 128 pixels whose weights come with Graft. They were trained "
    "on images that formulas draw (textures, contours, fractals; Kataoka et al. 2020) and on no photo at all: for "
    "machines that reach no host of weights, and for a quick first classifier. Networks trained on photos know more.",
    chain=Chain(
        stages=tuple(Stage(name, (name,)) for name in ("stem", "stage1", "stage2", "stage3", "stage4")),
        pool=("pool",),
        head="head",
    ),
    source="graft",
    preprocessing=scratch(128, 144),
)

ALEXNET = Entry(
    name="alexnet",
    family="AlexNet",
    year=2014,
    paper="https://arxiv.org/abs/1404.5997",
    summary="AlexNet in its later one-tower variant: narrower convolutions (64-192-384-256-256) without local response "
    "normalisation and without groups. Nearly all weights sit in its dense layers. Its features are "
    "weak by today's measure, but it is fast for its size.",
    chain=Chain(stages=spans("features", 2, 5, 7, 9, 12, names=_FIVE), pool=_DENSE, head="classifier.6"),
)


def _alexnet_2012(name: str, summary: str) -> Entry:
    return Entry(
        name=name,
        family="AlexNet",
        year=2012,
        paper="https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks",
        summary=summary,
        chain=Chain(stages=_alexnet_stages(pool_first=False), pool=(":flatten", *_dense_steps()), head="fc8"),
        source="graft",
        fixed_size=True,
        preprocessing=scratch(227, 256),
    )


def _alexnet_stages(*, pool_first: bool) -> tuple[Stage, ...]:
    ends = ("pool", "norm") if pool_first else ("norm", "pool")
    return (
        *(Stage(f"conv{n}", (f"conv{n}", f"relu{n}", *(f"{end}{n}" for end in ends))) for n in (1, 2)),
        Stage("conv3", ("conv3", "relu3")),
        Stage("conv4", ("conv4", "relu4")),
        Stage("conv5", ("conv5", "relu5", "pool5")),
    )


def _dense_steps() -> tuple[str, ...]:
    return ("fc6", "relu6", "drop6", "fc7", "relu7", "drop7")


ALEXNET_2012 = _alexnet_2012(
    "alexnet_2012",
    "The network that won ImageNet in 2012 and began it all, as published: 227 pixels, ReLU, local response "
    "normalisation, overlapping pools, dropout, and convolutions 2, 4 and 5 in two groups, which once lay "
    "on two graphics cards. No published weights: it is trained from scratch.",
)
ALEXNET_2012_UNGROUPED = _alexnet_2012(
    "alexnet_2012_ungrouped",
    "The AlexNet of 2012 as text books draw it, on one device: every filter of convolutions 2, 4 and 5 sees all "
    "channels below it. No published weights: it is trained from scratch.",
)


def _zfnet(name: str, summary: str) -> Entry:
    return Entry(
        name=name,
        family="ZFNet",
        year=2013,
        paper="https://arxiv.org/abs/1311.2901",
        summary=summary,
        chain=Chain(stages=_alexnet_stages(pool_first=True), pool=(":flatten", *_dense_steps()), head="fc8"),
        source="graft",
        fixed_size=True,
        preprocessing=scratch(224, 256),
    )


ZFNET = _zfnet(
    "zfnet",
    "AlexNet corrected by looking at what its layers respond to: 7 x 7 filters with stride 2 in the first layer "
    "instead of 11 x 11 with stride 4, which had left dead and aliased features. No published weights: it is trained "
    "from scratch.",
)
ZFNET_WIDE = _zfnet(
    "zfnet_512",
    "ZFNet with 512, 1024 and 512 filters in convolutions 3 to 5, the larger variant of the paper's section 5.1, "
    "of which the winner of ImageNet 2013 descends. No published weights: it is trained from scratch.",
)

_VGG_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def _vgg(depth: int, *, batch_norm: bool) -> Entry:
    per_convolution = 3 if batch_norm else 2
    ends = [end - 1 for end in accumulate(per_convolution * count + 1 for count in _VGG_BLOCKS[depth])]
    plain = f"{depth} layers of nothing but 3 x 3 filters and 2 x 2 pools showed that depth is what counts: "
    plain += "two stacked 3 x 3 filters see as much as one of 5 x 5, for fewer weights. Heavy, and most weights sit in "
    plain += "the first dense layer."
    return Entry(
        name=f"vgg{depth}_bn" if batch_norm else f"vgg{depth}",
        family="VGG",
        year=2014,
        paper="https://arxiv.org/abs/1409.1556",
        summary=f"{plain} With BatchNorm after each convolution, which trains faster." if batch_norm else plain,
        chain=Chain(stages=spans("features", *ends, names=_FIVE), pool=_DENSE, head="classifier.6"),
    )


VGG = tuple(_vgg(depth, batch_norm=batch_norm) for depth in _VGG_BLOCKS for batch_norm in (False, True))


def _squeezenet(version: str, ends: tuple[int, ...]) -> Entry:
    lighter = " Version 1.1 pools earlier and needs less than half the computation." if version == "1_1" else ""
    return Entry(
        name=f"squeezenet{version}",
        family="SqueezeNet",
        year=2016,
        paper="https://arxiv.org/abs/1602.07360",
        summary="AlexNet's accuracy with a fiftieth of its weights: 1 x 1 filters squeeze the channels before 1 x 1 "
        f"and 3 x 3 filters expand them again, and nothing is dense.{lighter}",
        chain=Chain(
            stages=spans("features", *ends, names=("stem", "stage1", "stage2", "stage3")),
            # The published head is a convolution with ReLU in front of the mean; the new one is linear, behind it.
            pool=("classifier.0", "classifier.3", ":flatten"),
            head="classifier.1",
        ),
    )


SQUEEZENET = (_squeezenet("1_0", (2, 6, 11, 12)), _squeezenet("1_1", (2, 5, 8, 12)))

ENTRIES = (TINYNET, FORMNET, ALEXNET, ALEXNET_2012, ALEXNET_2012_UNGROUPED, ZFNET, ZFNET_WIDE, *VGG, *SQUEEZENET)
