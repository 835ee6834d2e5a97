"""What one operator of PyTorch does to a tensor on its way through a network: the kind of layer, its window, its
multiply-adds. Knows the operators' argument lists and nothing of networks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Pair = tuple[int, int]
Arguments = Sequence[Any]


@dataclass(frozen=True)
class Window:
    """The window that an operator slides over height and width, in pixels of its input."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)


@dataclass(frozen=True)
class Effect:
    """What an operator does."""

    type: str
    macs: int = 0
    """Multiply-adds of convolutions, fully connected layers and products of attention; 0 for the rest."""
    window: Window | None = None
    groups: int | None = None
    whole_image: bool = False
    """Whether each value comes to depend on every place of the input."""
    rows: int | None = None
    """Of a fully connected layer: how many vectors it maps, one for each place or one for all of them."""

    @property
    def is_weighted_layer(self) -> bool:
        """Whether case studies count it among the layers of a network."""
        return self.type in WEIGHTED_LAYERS


WEIGHTED_LAYERS = frozenset(("conv", "depthwise_conv", "transposed_conv", "linear"))
POOLS = frozenset(("max_pool", "avg_pool", "global_avg_pool", "global_max_pool"))

_TYPES = {
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "cudnn_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "cat": "concat",
    "mul": "multiply",
    "div": "divide",
    "sub": "subtract",
    "clone": "copy",
    "_to_copy": "copy",
    "_unsafe_view": "copy",
    "constant_pad_nd": "pad",
}


def effect(operator: str, arguments: Arguments, output: Tensor) -> Effect:
    """What `operator` (its name without overload, such as `convolution`) did to make `output` of `arguments`.

    Operators that are not known by name work on each place by itself.
    """
    special = _SPECIAL.get(operator)
    if special is not None:
        return special(arguments, output)
    plain = operator.rstrip("_")
    return Effect(_TYPES.get(plain, plain.lstrip("_")))


def _convolution(arguments: Arguments, output: Tensor) -> Effect:
    source, weight, _, stride, padding, dilation, transposed, _, groups = arguments[:9]
    kernel = tuple(weight.shape[2:])
    per_value = math.prod(weight.shape[1:])
    if transposed:
        return Effect("transposed_conv", source.numel() * per_value, groups=groups)
    depthwise = groups > 1 and groups == source.shape[1]
    window = Window(_pair(kernel), _pair(stride), _pair(padding), _pair(dilation))
    return Effect("depthwise_conv" if depthwise else "conv", output.numel() * per_value, window, groups)


def _max_pool(arguments: Arguments, _output: Tensor) -> Effect:
    kernel, stride, padding, dilation = _with_defaults(arguments[1:5], [], 0, 1)
    window = Window(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation))
    return Effect("max_pool", window=window)


def _avg_pool(arguments: Arguments, _output: Tensor) -> Effect:
    kernel, stride, padding = _with_defaults(arguments[1:4], [], 0)
    return Effect("avg_pool", window=Window(_pair(kernel), _pair(stride or kernel), _pair(padding)))


def _adaptive(kind: str) -> Callable[[Arguments, Tensor], Effect]:
    def pool(arguments: Arguments, output: Tensor) -> Effect:
        before, after = _pair(arguments[0].shape[-2:]), _pair(output.shape[-2:])
        if after == (1, 1):
            return Effect(f"global_{kind}", whole_image=before != (1, 1))
        # Windows differ by a pixel where the sizes do not divide; the largest counts.
        sides = list(zip(before, after, strict=True))
        kernel = _pair([_largest_window(size, parts) for size, parts in sides])
        stride = _pair([size // parts for size, parts in sides])
        return Effect(kind, window=Window(kernel, stride, (0, 0)))

    return pool


def _largest_window(size: int, parts: int) -> int:
    return max(-(-(place + 1) * size // parts) - place * size // parts for place in range(parts))


def _reduction(arguments: Arguments, output: Tensor) -> Effect:
    source: Tensor = arguments[0]
    dims = arguments[1] if len(arguments) > 1 and arguments[1] is not None else range(source.dim())
    places = [dim % source.dim() for dim in ([dims] if isinstance(dims, int) else dims)]
    over_channels = places == [1] and source.dim() == 4
    values = math.prod(source.shape[place] for place in places)
    return Effect("channel_mean" if over_channels else "global_avg_pool", whole_image=not over_channels and values > 1)


def _linear(first: int) -> Callable[[Arguments, Tensor], Effect]:
    def product(arguments: Arguments, output: Tensor) -> Effect:
        features = arguments[first].shape[-1]
        return Effect("linear", output.numel() * features, rows=output.numel() // output.shape[-1])

    return product


def _attention_product(first: int) -> Callable[[Arguments, Tensor], Effect]:
    def product(arguments: Arguments, output: Tensor) -> Effect:
        return Effect("attention_product", output.numel() * arguments[first].shape[-1], whole_image=True)

    return product


def _fused_attention(arguments: Arguments, output: Tensor) -> Effect:
    query, key, value = arguments[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return Effect("attention", pairs * (query.shape[-1] + value.shape[-1]), whole_image=True)


def _pair(values: int | Sequence[int]) -> Pair:
    if isinstance(values, int):
        return values, values
    return (values[0], values[-1]) if values else (1, 1)


def _with_defaults(given: Arguments, *defaults: Any) -> list[Any]:
    return [*given, *defaults[len(given) - 1 :]]


_SPECIAL: dict[str, Callable[[Arguments, Tensor], Effect]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive("avg_pool"),
    "adaptive_max_pool2d": _adaptive("max_pool"),
    "mean": _reduction,
    "sum": _reduction,
    "amax": _reduction,
    "mm": _linear(0),
    "addmm": _linear(1),
    "linear": _linear(0),
    "bmm": _attention_product(0),
    "baddbmm": _attention_product(1),
    "_scaled_dot_product_flash_attention": _fused_attention,
    "_scaled_dot_product_flash_attention_for_cpu": _fused_attention,
    "_scaled_dot_product_efficient_attention": _fused_attention,
    "_scaled_dot_product_attention_math": _fused_attention,
}
