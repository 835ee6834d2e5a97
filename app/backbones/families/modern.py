"""Scaled and token-based networks: EfficientNet, ConvNeXt, Vision Transformer, Swin."""

from app.backbones.chain import Chain, Stage, span, spans
from app.backbones.entry import Entry

_BLOCKS = tuple(f"stage{number}" for number in range(1, 8))


def _efficientnet(scale: int) -> Entry:
    grown = (
        "This is the base network that search found."
        if scale == 0
        else f"This is the base network grown {scale} step{'s' if scale > 1 else ''}."
    )
    return Entry(
        name=f"efficientnet_b{scale}",
        family="EfficientNet",
        year=2019,
        paper="https://arxiv.org/abs/1905.11946",
        summary="Depth, width and image size grow together by one rule, from a small network of gated inverted "
        f"residuals: high accuracy for few multiply-adds, though not always for little time. {grown}",
        chain=Chain(
            stages=spans("features", *range(9), names=("stem", *_BLOCKS, "conv_head")),
            pool=("avgpool", ":flatten", "classifier.0"),
            head="classifier.1",
        ),
    )


def _efficientnet_v2(size: str, stages: int) -> Entry:
    return Entry(
        name=f"efficientnet_v2_{size}",
        family="EfficientNet",
        year=2021,
        paper="https://arxiv.org/abs/2104.00298",
        summary="EfficientNet searched again with the time of training in mind: ordinary convolutions instead of "
        f"depthwise ones in the early stages, smaller images at first. Size {size.upper()}.",
        chain=Chain(
            stages=spans("features", *range(stages + 2), names=("stem", *_BLOCKS[:stages], "conv_head")),
            pool=("avgpool", ":flatten", "classifier.0"),
            head="classifier.1",
        ),
    )


def _convnext(size: str) -> Entry:
    return Entry(
        name=f"convnext_{size}",
        family="ConvNeXt",
        year=2022,
        paper="https://arxiv.org/abs/2201.03545",
        summary="A ResNet brought step by step to what made transformers strong (patches, 7 x 7 depthwise filters, "
        f"wide inner layers, LayerNorm, modern training): a convolutional network on par with Swin. Size {size}.",
        chain=Chain(
            stages=spans("features", 1, 3, 5, 7, names=("stage1", "stage2", "stage3", "stage4")),
            pool=("avgpool", "classifier.0", ":flatten"),
            head="classifier.2",
        ),
    )


def _vit(size: str, patch: int, layers: int) -> Entry:
    third = layers // 4
    groups = [(n * third, (n + 1) * third - 1) for n in range(4)]
    stages = [
        Stage(
            f"layers{last + 1}",
            tuple(f"encoder.layers.encoder_layer_{n}" for n in range(first, last + 1)),
        )
        for first, last in groups
    ]
    return Entry(
        name=f"vit_{size}_{patch}",
        family="Vision Transformer",
        year=2020,
        paper="https://arxiv.org/abs/2010.11929",
        summary=f"An image as {patch} x {patch} pixel patches, read by a plain transformer of {layers} layers like the "
        "words of a sentence: no convolution, no pyramid. Needs much pre-training, gains much from it.",
        chain=Chain(
            stages=(
                Stage("patches", ("conv_proj", ":tokens", ":class_token", ":position", "encoder.dropout")),
                *stages[:-1],
                Stage(stages[-1].name, (*stages[-1].steps, "encoder.ln")),
            ),
            pool=(":first_token",),
            head="heads.head",
            layout="tokens",
        ),
        fixed_size=True,
    )


def _swin(name: str, year: int, paper: str, summary: str) -> Entry:
    return Entry(
        name=name,
        family="Swin Transformer",
        year=year,
        paper=paper,
        summary=summary,
        chain=Chain(
            stages=(
                Stage("stage1", span("features", 0, 1)),
                Stage("stage2", span("features", 2, 3)),
                Stage("stage3", span("features", 4, 5)),
                Stage("stage4", (*span("features", 6, 7), "norm")),
            ),
            pool=("permute", "avgpool", "flatten"),
            head="head",
            layout="nhwc",
        ),
    )


_SWIN_SIZES = {"t": "tiny", "s": "small", "b": "base"}

ENTRIES = (
    *(_efficientnet(scale) for scale in range(8)),
    _efficientnet_v2("s", 6),
    _efficientnet_v2("m", 7),
    _efficientnet_v2("l", 7),
    *(_convnext(size) for size in ("tiny", "small", "base", "large")),
    _vit("b", 16, 12),
    _vit("b", 32, 12),
    _vit("l", 16, 24),
    *(
        _swin(
            f"swin_{letter}",
            2021,
            "https://arxiv.org/abs/2103.14030",
            "A transformer with a pyramid: attention within small windows that shift from layer to layer, and patches "
            f"merged between stages, so that cost grows with the image's area and not with its square. Size {size}.",
        )
        for letter, size in _SWIN_SIZES.items()
    ),
    *(
        _swin(
            f"swin_v2_{letter}",
            2021,
            "https://arxiv.org/abs/2111.09883",
            "Swin made stable at scale and across sizes: normalisation behind each sublayer, attention by cosine, and "
            f"positions as a function of log-distance. Size {size}.",
        )
        for letter, size in _SWIN_SIZES.items()
    ),
)
