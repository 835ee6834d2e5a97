"""Inception: filters of several sizes side by side, from GoogLeNet to Inception-ResNet."""

from app.backbones.chain import AuxiliaryHead, Chain, Stage, span
from app.backbones.entry import Entry, scratch

_POOL = ("avgpool", ":flatten", "dropout")

_GOOGLENET_STAGES = (
    Stage("stem", (":transform_input", "conv1", "maxpool1", "conv2", "conv3", "maxpool2")),
    Stage("inception3a", ("inception3a",)),
    Stage("inception3b", ("inception3b", "maxpool3")),
    *(Stage(f"inception4{letter}", (f"inception4{letter}",)) for letter in "abcd"),
    Stage("inception4e", ("inception4e", "maxpool4")),
    Stage("inception5a", ("inception5a",)),
    Stage("inception5b", ("inception5b",)),
)

GOOGLENET = Entry(
    name="googlenet",
    family="Inception",
    year=2014,
    paper="https://arxiv.org/abs/1409.4842",
    summary="Inception v1 as torchvision has it: filters of 1 x 1, 3 x 3 and a pool side by side, 1 x 1 filters that "
    "cut the cost of the larger ones, and global average pooling instead of large dense layers. Differs from the "
    "paper in BatchNorm instead of local response normalisation and in a 3 x 3 filter where 5 x 5 is written.",
    chain=Chain(
        stages=_GOOGLENET_STAGES,
        pool=_POOL,
        head="fc",
        auxiliary=(
            AuxiliaryHead(module="aux1", last_layer="fc2", after="inception4a", pretrained=False),
            AuxiliaryHead(module="aux2", last_layer="fc2", after="inception4d", pretrained=False),
        ),
    ),
)

INCEPTION_V1 = Entry(
    name="inception_v1",
    family="Inception",
    year=2014,
    paper="https://arxiv.org/abs/1409.4842",
    summary="GoogLeNet as published: true 5 x 5 filters, local response normalisation, and two auxiliary heads that "
    "feed gradients into the middle of the network. No published weights: it is trained from scratch.",
    chain=Chain(
        stages=(
            Stage("stem", ("conv1", "maxpool1", "norm1", "conv2", "conv3", "norm2", "maxpool2")),
            *_GOOGLENET_STAGES[1:],
        ),
        pool=_POOL,
        head="fc",
        auxiliary=(
            AuxiliaryHead(module="aux1", last_layer="fc2", after="inception4a", pretrained=False),
            AuxiliaryHead(module="aux2", last_layer="fc2", after="inception4d", pretrained=False),
        ),
    ),
    source="graft",
    # The auxiliary heads end in dense layers over maps of one size.
    fixed_size=True,
    preprocessing=scratch(224, 256),
)

INCEPTION_V2 = Entry(
    name="inception_v2",
    family="Inception",
    year=2015,
    paper="https://arxiv.org/abs/1502.03167",
    summary="The network that introduced batch normalisation (BN-Inception): Inception v1 with each 5 x 5 filter as "
    "two of 3 x 3, and grids halved inside of Inception blocks. Trains with far higher learning rates than v1. No "
    "published weights: it is trained from scratch.",
    chain=Chain(
        stages=(
            Stage("stem", ("conv1", "maxpool1", "conv2", "conv3", "maxpool2")),
            *(Stage(f"inception3{letter}", (f"inception3{letter}",)) for letter in "abc"),
            *(Stage(f"inception4{letter}", (f"inception4{letter}",)) for letter in "abcde"),
            *(Stage(f"inception5{letter}", (f"inception5{letter}",)) for letter in "ab"),
        ),
        pool=("avgpool", ":flatten"),
        head="fc",
    ),
    source="graft",
    preprocessing=scratch(224, 256),
)

_V3_STEM = (
    ":transform_input",
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "maxpool1",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    "maxpool2",
)

INCEPTION_V3 = Entry(
    name="inception_v3",
    family="Inception",
    year=2015,
    paper="https://arxiv.org/abs/1512.00567",
    summary="Inception rebuilt from rules: large filters factorised into 3 x 3 or into 1 x 7 and 7 x 1, grids halved "
    "by convolution and pooling side by side, one auxiliary head with BatchNorm. Sees 299 x 299 pixels.",
    chain=Chain(
        stages=(
            Stage("stem", _V3_STEM),
            *(
                Stage(name.lower(), (name,))
                for name in (*(f"Mixed_5{x}" for x in "bcd"), *(f"Mixed_6{x}" for x in "abcde"))
            ),
            *(Stage(f"mixed_7{x}", (f"Mixed_7{x}",)) for x in "abc"),
        ),
        pool=("avgpool", "dropout", ":flatten"),
        head="fc",
        auxiliary=(AuxiliaryHead(module="AuxLogits", last_layer="fc", after="Mixed_6e", pretrained=True),),
    ),
)

INCEPTION_V4 = Entry(
    name="inception_v4",
    family="Inception",
    year=2016,
    paper="https://arxiv.org/abs/1602.07261",
    summary="A uniform Inception: a stem that branches already, then 4 blocks A, 7 blocks B and 3 blocks C with "
    "reductions between them, without residual connections. Heavy and accurate.",
    chain=Chain(
        stages=(
            Stage("stem", span("features", 0, 5)),
            Stage("inception_a", span("features", 6, 9)),
            Stage("reduction_a", ("features.10",)),
            Stage("inception_b", span("features", 11, 17)),
            Stage("reduction_b", ("features.18",)),
            Stage("inception_c", span("features", 19, 21)),
        ),
        pool=("global_pool", "head_drop"),
        head="last_linear",
    ),
    source="timm",
    accuracy={"tf_in1k": (80.14, None)},
)

INCEPTION_RESNET_V2 = Entry(
    name="inception_resnet_v2",
    family="Inception",
    year=2016,
    paper="https://arxiv.org/abs/1602.07261",
    summary="Inception blocks inside of residual connections, their results scaled down before they are added: as "
    "accurate as Inception v4 and much faster to train. 10, 20 and 10 blocks on grids of 35, 17 and 8.",
    chain=Chain(
        stages=(
            Stage(
                "stem", ("conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a", "maxpool_5a")
            ),
            Stage("block35", ("mixed_5b", "repeat")),
            Stage("block17", ("mixed_6a", "repeat_1")),
            Stage("block8", ("mixed_7a", "repeat_2", "block8")),
            Stage("conv2d_7b", ("conv2d_7b",)),
        ),
        pool=("global_pool", "head_drop"),
        head="classif",
    ),
    source="timm",
    accuracy={"tf_in1k": (80.43, None)},
)

ENTRIES = (GOOGLENET, INCEPTION_V1, INCEPTION_V2, INCEPTION_V3, INCEPTION_V4, INCEPTION_RESNET_V2)
