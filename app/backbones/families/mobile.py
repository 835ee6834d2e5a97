"""Networks for phones: MobileNet, ShuffleNet, MNASNet, GhostNet."""

from app.backbones.chain import Chain, Stage, span, spans
from app.backbones.entry import Entry

MOBILENET_V1 = Entry(
    name="mobilenetv1_100",
    family="MobileNet",
    year=2017,
    paper="https://arxiv.org/abs/1704.04861",
    summary="Each convolution split into one that filters every channel by itself and a 1 x 1 one that mixes channels, "
    "for an eighth of the cost: the idea that all networks for phones rest on.",
    chain=Chain(
        stages=(
            Stage("stem", ("conv_stem", "bn1")),
            *(Stage(f"stage{n + 1}", (f"blocks.{n}",)) for n in range(5)),
        ),
        pool=("global_pool",),
        head="classifier",
    ),
    source="timm",
    accuracy={"ra4_e3600_r224_in1k": (75.4, None)},
)

MOBILENET_V2 = Entry(
    name="mobilenet_v2",
    family="MobileNet",
    year=2018,
    paper="https://arxiv.org/abs/1801.04381",
    summary="Inverted residuals: narrow layers are connected by short cuts, wide depthwise ones lie between them, and "
    "the narrow ones stay linear. Good features for little computation, and a good start for fine-tuning on CPUs.",
    chain=Chain(
        stages=spans(
            "features", 1, 3, 6, 13, 17, 18, names=("stage1", "stage2", "stage3", "stage4", "stage5", "conv_head")
        ),
        pool=(":mean_nchw", "classifier.0"),
        head="classifier.1",
    ),
)


def _mobilenet_v3(size: str, ends: tuple[int, ...], summary: str) -> Entry:
    return Entry(
        name=f"mobilenet_v3_{size}",
        family="MobileNet",
        year=2019,
        paper="https://arxiv.org/abs/1905.02244",
        summary=summary,
        chain=Chain(
            stages=spans("features", *ends, names=("stem", "stage1", "stage2", "stage3", "stage4", "conv_head")),
            pool=("avgpool", ":flatten", *span("classifier", 0, 2)),
            head="classifier.3",
        ),
    )


MOBILENET_V3 = (
    _mobilenet_v3(
        "small",
        (0, 1, 3, 8, 11, 12),
        "The least computation of the pre-trained networks here, found by architecture search for phones and finished "
        "by hand: gates on channels, a cheap non-linearity (hard swish), a cheap end.",
    ),
    _mobilenet_v3(
        "large",
        (1, 3, 6, 12, 15, 16),
        "The larger of the two networks that architecture search and handwork made for phones: more accurate than "
        "MobileNet v2 for less computation.",
    ),
)


def _mobilenet_v4(size: str, accuracy: dict[str, tuple[float, float | None]]) -> Entry:
    return Entry(
        name=f"mobilenetv4_conv_{size}",
        family="MobileNet",
        year=2024,
        paper="https://arxiv.org/abs/2404.10518",
        summary="Inverted residuals with an optional depthwise filter before and after the expansion, arranged by "
        f"search so that phones, CPUs and accelerators all run it fast; the {size} network of convolutions alone.",
        chain=Chain(
            stages=(
                Stage("stem", ("conv_stem", "bn1")),
                *(Stage(f"stage{n + 1}", (f"blocks.{n}",)) for n in range(5)),
            ),
            pool=("global_pool", "conv_head", "norm_head", "act2", "flatten"),
            head="classifier",
        ),
        source="timm",
        accuracy=accuracy,
    )


MOBILENET_V4 = (
    _mobilenet_v4("small", {"e2400_r224_in1k": (73.8, None)}),
    _mobilenet_v4("medium", {}),
)


def _shufflenet(width: str) -> Entry:
    return Entry(
        name=f"shufflenet_v2_x{width.replace('.', '_')}",
        family="ShuffleNet",
        year=2018,
        paper="https://arxiv.org/abs/1807.11164",
        summary="Built from what phones really do quickly rather than from counts of operations: half of the channels "
        f"pass each block untouched, then all are shuffled. With {width} times the basic number of channels.",
        chain=Chain(
            stages=(
                Stage("stem", ("conv1", "maxpool")),
                *(Stage(f"stage{number}", (f"stage{number}",)) for number in (2, 3, 4)),
                Stage("conv_head", ("conv5",)),
            ),
            pool=(":mean_nchw",),
            head="fc",
        ),
    )


def _mnasnet(width: str) -> Entry:
    return Entry(
        name=f"mnasnet{width.replace('.', '_')}",
        family="MNASNet",
        year=2018,
        paper="https://arxiv.org/abs/1807.11626",
        summary="Inverted residuals arranged by a search that measured latency on a real phone, each stage with its "
        f"own kernel size and depth. With {width} times the basic number of channels.",
        chain=Chain(
            stages=(
                Stage("stem", span("layers", 0, 7)),
                *(Stage(f"stage{n}", (f"layers.{n + 7}",)) for n in range(1, 7)),
                Stage("conv_head", span("layers", 14, 16)),
            ),
            pool=(":mean_nchw", "classifier.0"),
            head="classifier.1",
        ),
    )


GHOSTNET = Entry(
    name="ghostnet_100",
    family="GhostNet",
    year=2019,
    paper="https://arxiv.org/abs/1911.11907",
    summary="Half of the channels come from ordinary convolutions, the others (ghosts) from a cheap filter on those, "
    "since many feature maps resemble each other anyway: the least computation for its accuracy.",
    chain=Chain(
        stages=(
            Stage("stem", ("conv_stem", "bn1", "act1")),
            Stage("stage1", ("blocks.0",)),
            *(Stage(f"stage{n + 1}", span("blocks", 2 * n - 1, 2 * n)) for n in (1, 2, 3)),
            Stage("stage5", span("blocks", 7, 8)),
            Stage("conv", ("blocks.9",)),
        ),
        pool=("global_pool", "conv_head", "act2", "flatten"),
        head="classifier",
    ),
    source="timm",
    accuracy={"in1k": (74.0, None)},
)

ENTRIES = (
    MOBILENET_V1,
    MOBILENET_V2,
    *MOBILENET_V3,
    *MOBILENET_V4,
    *(_shufflenet(width) for width in ("0.5", "1.0", "1.5", "2.0")),
    *(_mnasnet(width) for width in ("0.5", "0.75", "1.0", "1.3")),
    GHOSTNET,
)
