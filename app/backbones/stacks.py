"""Stacks of layers that somebody describes, such as three 3 x 3 convolutions in a row, as networks without values."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from torch import nn

from app import errors
from app.backbones.operators import Pair

Type = Literal[
    "conv",
    "depthwise_conv",
    "max_pool",
    "avg_pool",
    "linear",
    "batch_norm",
    "relu",
    "global_avg_pool",
    "flatten",
    "lrn",
    "dropout",
]
TYPES: tuple[Type, ...] = get_args(Type)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer as it is described; None where the layer's type decides."""

    type: Type
    out_channels: int | None = None
    """Channels, or for `linear` features, that come out."""
    kernel: int | Pair | None = None
    stride: int | Pair | None = None
    padding: int | Pair | Literal["same"] | None = None
    groups: int | None = None
    bias: bool | None = None


@dataclass(frozen=True)
class _Place:
    """Where a layer stands, for messages, and what comes in: `(C, H, W)`, or `(F,)` behind flatten."""

    number: int
    layer: Layer
    shape: tuple[int, ...]

    def misfit(self, fact: str) -> errors.Invalid:
        what = " x ".join(map(str, self.shape))
        kind = "a vector of" if len(self.shape) == 1 else "a map of"
        return errors.Invalid(
            f"layer {self.number} ({self.layer.type}): {fact}; {kind} {what} comes in",
            code="layers_do_not_fit",
            detail={"layer": self.number, "comes_in": list(self.shape)},
        )


@dataclass(frozen=True)
class _Kind:
    make: Callable[[_Place], nn.Module]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    takes_vectors: bool = True


def build(layers: Sequence[Layer], *, channels: int, size: Pair) -> nn.Sequential:
    """The network of `layers` for images of `channels` and `size` (height, width), on the meta device.

    Raises `Invalid` naming the layer, what came in and what would be right, where they do not fit together.
    """
    if not layers:
        raise errors.Invalid("a stack without layers; at least one is needed", code="empty_stack")
    values = torch.empty(1, channels, *size, device="meta")
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for number, layer in enumerate(layers, 1):
        place = _Place(number, layer, tuple(values.shape[1:]))
        try:
            module = _made(place).eval()
            values = module(values)
        except RuntimeError as error:
            # Everything else is checked before: numbers of values beyond 64 bits.
            raise place.misfit(f"cannot be counted: {error}") from error
        modules[f"{layer.type}{number}"] = module
    return nn.Sequential(modules)


def _made(place: _Place) -> nn.Module:
    layer = place.layer
    if layer.type not in _KINDS:
        raise errors.UnknownName("layer type", layer.type, _KINDS)
    kind = _KINDS[layer.type]
    given = {part.name for part in fields(layer) if part.name != "type" and getattr(layer, part.name) is not None}
    missing = [name for name in kind.required if name not in given]
    if missing:
        raise place.misfit(f"needs {' and '.join(missing)}")
    foreign = sorted(given - {*kind.required, *kind.optional})
    if foreign:
        raise place.misfit(f"takes no {', '.join(foreign)}")
    if not kind.takes_vectors and len(place.shape) == 1:
        raise place.misfit("needs a map of channels, height and width, so it must stand before flatten")
    with torch.device("meta"):
        return kind.make(place)


def _conv(place: _Place) -> nn.Module:
    layer, inputs = place.layer, place.shape[0]
    outputs, groups = layer.out_channels or inputs, layer.groups or 1
    if inputs % groups or outputs % groups:
        raise place.misfit(f"{groups} groups must divide the channels that come in and the {outputs} that go out")
    return _convolution(place, outputs, groups)


def _depthwise(place: _Place) -> nn.Module:
    inputs = place.shape[0]
    outputs = place.layer.out_channels or inputs
    if outputs % inputs:
        raise place.misfit(f"its out_channels must be a multiple of the channels that come in, {outputs} is none")
    return _convolution(place, outputs, inputs)


def _convolution(place: _Place, outputs: int, groups: int) -> nn.Module:
    kernel, stride, padding = _window(place, default_stride=(1, 1))
    bias = place.layer.bias is not False
    return nn.Conv2d(place.shape[0], outputs, kernel, stride, padding, groups=groups, bias=bias)


def _pool(make: Callable[..., nn.Module]) -> Callable[[_Place], nn.Module]:
    def pool(place: _Place) -> nn.Module:
        kernel, stride, padding = _window(place, default_stride=None)
        if any(2 * edge > size for edge, size in zip(padding, kernel, strict=True)):
            raise place.misfit(f"padding must be at most half of the kernel {_text(kernel)}, not {_text(padding)}")
        return make(kernel, stride, padding)

    return pool


def _window(place: _Place, *, default_stride: Pair | None) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and padding, which must fit what comes in."""
    layer = place.layer
    kernel = _pair(layer.kernel or 1)
    stride = _pair(layer.stride) if layer.stride else default_stride or kernel
    padding = _same(place, kernel) if layer.padding == "same" else _pair(layer.padding or 0)
    room = [size + 2 * edge for size, edge in zip(place.shape[1:], padding, strict=True)]
    if any(size > space for size, space in zip(kernel, room, strict=True)):
        raise place.misfit(f"the kernel {_text(kernel)} must fit into height and width with padding, {_text(room)}")
    return kernel, stride, padding


def _same(place: _Place, kernel: Pair) -> Pair:
    if any(size % 2 == 0 for size in kernel):
        raise place.misfit(f"padding 'same' needs odd kernels, not {_text(kernel)}; give the padding as a number")
    return kernel[0] // 2, kernel[1] // 2


def _linear(place: _Place) -> nn.Module:
    if len(place.shape) != 1:
        raise place.misfit("needs a vector, so put flatten or global_avg_pool with flatten in front of it")
    outputs = place.layer.out_channels
    assert outputs is not None
    return nn.Linear(place.shape[0], outputs, bias=place.layer.bias is not False)


def _batch_norm(place: _Place) -> nn.Module:
    return (nn.BatchNorm2d if len(place.shape) == 3 else nn.BatchNorm1d)(place.shape[0])


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _text(pair: Sequence[int]) -> str:
    return f"{pair[0]} x {pair[1]}"


_WINDOW = ("stride", "padding")
_KINDS: dict[str, _Kind] = {
    "conv": _Kind(_conv, ("out_channels", "kernel"), (*_WINDOW, "groups", "bias"), takes_vectors=False),
    "depthwise_conv": _Kind(_depthwise, ("kernel",), (*_WINDOW, "out_channels", "bias"), takes_vectors=False),
    "max_pool": _Kind(_pool(nn.MaxPool2d), ("kernel",), _WINDOW, takes_vectors=False),
    "avg_pool": _Kind(_pool(nn.AvgPool2d), ("kernel",), _WINDOW, takes_vectors=False),
    "linear": _Kind(_linear, ("out_channels",), ("bias",)),
    "batch_norm": _Kind(_batch_norm),
    "relu": _Kind(lambda _place: nn.ReLU(inplace=True)),
    "global_avg_pool": _Kind(lambda _place: nn.AdaptiveAvgPool2d(1), takes_vectors=False),
    "flatten": _Kind(lambda _place: nn.Flatten()),
    # Size and constants of "ImageNet Classification with Deep Convolutional Neural Networks", section 3.3.
    "lrn": _Kind(lambda _place: nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0), takes_vectors=False),
    "dropout": _Kind(lambda _place: nn.Dropout()),
}
