"""The anatomy of a network: its layers one by one, computed from the network itself, and what they cost.

Nothing is allocated and nothing calculated: the network and its image are tensors without values (PyTorch's meta
device), so that the largest network takes a second or two and no memory.
"""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from app import errors
from app.backbones import footprint, operators, stacks, tracing
from app.backbones.footprint import Kept, MemoryEstimate
from app.backbones.operators import Pair
from app.backbones.stacks import Layer
from app.backbones.tracing import Step

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Stages = Sequence[tuple[str, Sequence[str]]]
"""Names of stages, each with the names of the modules that it is made of."""

# What networks raise for images that they cannot take.
_REFUSALS = (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError)

COUNTED = {
    "multiply_adds": "Convolutions, fully connected layers and the two products of attention, for one image. Biases, "
    "normalisation, activation functions and pooling are not counted.",
    "conv_fc_values": "Outputs of convolutions and fully connected layers, for one image: how papers compare networks.",
    "layer_values": "The image and the outputs of convolutions, poolings and fully connected layers, for one image: "
    "the usual table by hand, in which normalisation, activation functions, sums and concatenations take no memory.",
    "all_values": "The image and the output of every layer, each counted once, for one image. A pooling whose windows "
    "hold a single value, dropout and flattening do nothing at inference and count nothing.",
    "inference": "Parameters and buffers, and the largest sum of outputs that are needed at the same moment, each "
    "let go after its last use. Activation functions that work in place need no memory of their own.",
    "training": "Parameters, buffers, gradients and one momentum for each parameter, and what PyTorch keeps of the "
    "forward pass for the backward pass when every layer is trained. Gradients of activations, work space of "
    "convolution algorithms and what the allocator holds back come on top.",
    "layers": "Convolutions and fully connected layers on the longest way from image to output; projections beside "
    "it, parallel branches and poolings do not add.",
    "receptive_field": "Height and width of the part of the image that a value depends on, which may be larger than "
    "the image; of a sum or concatenation the largest of its parts; null (in tables `image`) for the whole image, as "
    "behind global pooling, attention and fully connected layers over all places, and so behind squeeze-and-"
    "excitation.",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer. Shapes, multiply-adds and values are for one image."""

    name: str
    """Name of the module, or of the module and the function that it calls (`layer1.0.add`); unique."""
    type: str
    kernel: Pair | None
    stride: Pair | None
    padding: Pair | None
    groups: int | None
    output: tuple[int, ...]
    parameters: int
    """Those used here first; a layer that shares another one's has none."""
    macs: int
    values: int
    """Values of the output."""
    bytes: int
    """Of the output for the whole batch."""
    in_place: bool
    """Whether the output takes the memory of the input."""
    receptive_field: Pair | None
    """Height and width in pixels of the image; None for the whole image."""
    depth: int
    """Most convolutions and fully connected layers on a way from the image up to here."""
    stage: str | None


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over a network or a part of it; multiply-adds and values are for one image."""

    parameters: int
    macs: int
    conv_fc_values: int
    layer_values: int
    all_values: int


@dataclass(frozen=True, kw_only=True)
class StageTotals:
    """What one stage contributes."""

    name: str
    parameters: int
    macs: int
    all_values: int


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The layers of a network for images of one size. `COUNTED` says in words what each figure counts."""

    input: tuple[int, int, int]
    batch: int
    dtype: str
    layers: int
    """Convolutions and fully connected layers on the longest way."""
    rows: tuple[Row, ...]
    totals: Totals
    stages: tuple[StageTotals, ...]
    memory: MemoryEstimate


def of(
    network: nn.Module,
    *,
    size: int | Pair,
    batch: int = 1,
    dtype: torch.dtype | str = torch.float32,
    stages: Stages = (),
    channels: int = 3,
) -> Anatomy:
    """The anatomy of `network` for images of `size` pixels (side, or height and width) in batches of `batch`.

    `network` may be on any device and is not touched. Raises `Invalid` for a size that the network cannot take (with
    the smallest that it can), a batch below 1 and a dtype that is none of `DTYPES`.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    name = _dtype_name(dtype)
    if batch < 1:
        raise errors.Invalid(f"a batch of {batch} images; at least 1 is needed", code="bad_batch")
    shape = (channels, height, width)
    with tracing.ShortNorm():
        tracer, kept = _passes(_hollow(network), shape, batch)
    rows = _rows(tracer.steps, batch, DTYPES[name].itemsize, stages)
    return Anatomy(
        input=shape,
        batch=batch,
        dtype=name,
        layers=tracer.depth,
        rows=rows,
        totals=_totals(rows, network, shape),
        stages=_by_stage(rows, stages),
        memory=footprint.estimate(network, tracer, kept, batch=batch, itemsize=DTYPES[name].itemsize),
    )


def of_stack(
    layers: Sequence[Layer],
    *,
    size: int | Pair,
    channels: int = 3,
    batch: int = 1,
    dtype: torch.dtype | str = torch.float32,
) -> Anatomy:
    """The anatomy of a stack of layers that somebody describes, for images of `channels` and `size`.

    Raises `Invalid` where the layers do not fit together, naming the layer, what comes in and what would be right.
    """
    pair = size if isinstance(size, tuple) else (size, size)
    if min(*pair, channels) < 1:
        raise errors.Invalid(f"images of {channels} x {pair[0]} x {pair[1]}; every number must be at least 1")
    network = stacks.build(layers, channels=channels, size=pair)
    return of(network, size=pair, batch=batch, dtype=dtype, channels=channels)


def smallest_size(network: nn.Module, *, channels: int = 3, most: int = 1024) -> int | None:
    """Side in pixels of the smallest square image that `network` can take; None if it takes none up to `most`."""
    hollow = _hollow(network).eval()
    works = next((side for side in _sides(most) if _takes(hollow, (channels, side, side))), None)
    if works is None:
        return None
    fails = 0
    while works - fails > 1:
        middle = (works + fails) // 2
        if _takes(hollow, (channels, middle, middle)):
            works = middle
        else:
            fails = middle
    return works


def _passes(hollow: nn.Module, shape: tuple[int, int, int], batch: int) -> tuple[tracing.Tracer, Kept]:
    """One pass as in use, one as in training."""
    if min(shape) < 1:
        raise _bad_size(hollow, shape, "")
    try:
        tracer = tracing.trace(hollow.eval(), _image(1, shape))
    except _REFUSALS as error:
        raise _bad_size(hollow, shape, str(error)) from error
    try:
        return tracer, footprint.kept_for_backward(hollow.train(), shape, batch=batch)
    except _REFUSALS as error:
        reason = str(error).partition("\n")[0]
        fact = f"the memory for training with {batch} images at once cannot be counted: {reason}"
        raise errors.Invalid(fact, code="not_countable") from error


def _bad_size(network: nn.Module, shape: tuple[int, int, int], reason: str) -> errors.Invalid:
    channels, height, width = shape
    smallest = smallest_size(network, channels=channels)
    fact = f"the network cannot take images of {width} x {height} pixels"
    detail: dict[str, JsonValue] = {"smallest": smallest, "reason": reason.partition("\n")[0]}
    if smallest is None:
        hint = "nor square ones of any usual size"
    elif min(height, width) < smallest:
        hint = f"the smallest it can take is {smallest} x {smallest}"
    else:
        hint = f"it takes {smallest} x {smallest}"
    return errors.Invalid(f"{fact}; {hint}", code="bad_input_size", detail=detail)


def _sides(most: int) -> list[int]:
    """Sides to try, ordered; the usual ones as well, for networks that take a single one."""
    return sorted({side for side in (*(2**power for power in range(11)), 224, 240, 299, 384) if side <= most})


def _takes(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    try:
        with tracing.ShortNorm(), torch.no_grad():
            result = network(_image(1, shape))
    except _REFUSALS:
        return False
    return not isinstance(result, Tensor) or result.numel() > 0


def _image(batch: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.empty(batch, *shape, device="meta")


def _hollow(network: nn.Module) -> nn.Module:
    """A copy of `network` without values, all of whose parameters are trained."""
    values: dict[int, Any] = {
        id(value): nn.Parameter(_empty_like(value), requires_grad=value.is_floating_point())
        for value in network.parameters()
    }
    values |= {id(value): _empty_like(value) for value in network.buffers()}
    return copy.deepcopy(network, values)


def _empty_like(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=torch.float32 if value.is_floating_point() else value.dtype, device="meta")


def _rows(steps: Sequence[Step], batch: int, itemsize: int, stages: Stages) -> tuple[Row, ...]:
    seen: Counter[str] = Counter()
    rows = []
    for step in steps:
        name = ".".join(filter(None, (step.module, step.function))) or step.effect.type
        seen[name] += 1
        window = step.effect.window
        rows.append(
            Row(
                name=name if seen[name] == 1 else f"{name}:{seen[name]}",
                type=step.effect.type,
                kernel=window.kernel if window else None,
                stride=window.stride if window else None,
                padding=window.padding if window else None,
                groups=step.effect.groups,
                output=step.output,
                parameters=step.parameters,
                macs=step.effect.macs,
                values=step.values,
                bytes=step.values * batch * itemsize,
                in_place=step.in_place,
                receptive_field=step.reach.field,
                depth=step.reach.depth,
                stage=_stage(step.module, stages),
            )
        )
    return tuple(rows)


def _stage(module: str, stages: Stages) -> str | None:
    """The stage with the longest name that `module` is, or is a part of."""
    fits = [
        (len(prefix), stage)
        for stage, prefixes in stages
        for prefix in prefixes
        if module == prefix or module.startswith(f"{prefix}.")
    ]
    return max(fits)[1] if fits else None


def _totals(rows: Sequence[Row], network: nn.Module, shape: tuple[int, int, int]) -> Totals:
    image = math.prod(shape)
    weighted = sum(row.values for row in rows if row.type in operators.WEIGHTED_LAYERS)
    return Totals(
        parameters=sum(value.numel() for value in network.parameters()),
        macs=sum(row.macs for row in rows),
        conv_fc_values=weighted,
        layer_values=image + weighted + sum(row.values for row in rows if row.type in operators.POOLS),
        all_values=image + sum(row.values for row in rows),
    )


def _by_stage(rows: Sequence[Row], stages: Stages) -> tuple[StageTotals, ...]:
    return tuple(
        StageTotals(
            name=stage,
            parameters=sum(row.parameters for row in rows if row.stage == stage),
            macs=sum(row.macs for row in rows if row.stage == stage),
            all_values=sum(row.values for row in rows if row.stage == stage),
        )
        for stage, _ in stages
    )


def _dtype_name(dtype: torch.dtype | str) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise errors.UnknownName("dtype", name, DTYPES)
    return name
