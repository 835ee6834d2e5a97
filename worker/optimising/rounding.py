"""Weights of a quantised network, rounded so that what a layer gives changes least, and not each of them by itself:
what rounding one weight takes away, those that are rounded after it make good as far as their inputs go together.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
section 3; here also for convolutions, by the patches that they see, of the network in float.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor
from torch.nn import functional

from app.libraries import onnxruntime
from app.runtimes import in_onnx
from worker.training.events import Emit, Progress

Integers = NDArray[np.int8]

_IMAGES = 64
_PLACES = 32
"""Of each image that a layer is seen at: with more, nothing came nearer to the network in float."""
_MOST_INPUTS = 5000
"""Of one output: the time goes by the third power of them. Wider layers keep each weight rounded by itself."""
_AT_ONCE_BYTES = 2**28
"""Of moments and inputs that are in memory together; for those of more layers the images are passed again."""
_DAMPING = 0.01
"""Of the mean moment, which inputs that hardly ever differ need."""
_BLOCK = 128
_DIMENSIONS = {"Conv": 4, "Gemm": 2, "MatMul": 2}
"""Of weights that a layer of each kind has."""


@dataclass(frozen=True)
class _Layer:
    """A layer of the network in float, whose weights are integers in the quantised one."""

    node: NodeProto
    integers: str
    """What the quantised network calls them."""
    weights: Tensor
    """As they are in float `(G, O, D)`: G groups of O outputs, each of D inputs."""
    scales: Tensor
    """`(G, O, 1)`."""
    shape: tuple[int, ...]
    """Of the integers as they are written."""
    is_transposed: bool
    """Whether they are written inputs first."""
    kernel: tuple[int, ...]
    """Height and width of a convolution's; nothing for another layer."""
    input_bytes: int
    """Of what one image gives it, as far as that is known."""

    @property
    def bytes_at_once(self) -> int:
        groups, _, inputs = self.weights.shape
        return 4 * groups * inputs**2 + self.input_bytes

    def written(self, integers: Tensor) -> Integers:
        """Integers `(G, O, D)` as the network has them."""
        flat = integers.to(torch.int8)
        if self.is_transposed:
            flat = flat[0].T
        return np.ascontiguousarray(flat.reshape(self.shape).numpy())


def rounded(network: Path, quantised: Path, seen: NDArray[np.uint8], emit: Emit) -> dict[str, Integers]:
    """The weights of the ONNX file `quantised` by name, rounded anew for what the layers of `network`, of which it was
    made, are given of the images `seen (N, H, W, 3)`; without those that cannot be."""
    model = onnx.load(network)
    layers = [*_layers(model, onnx.load(quantised))]
    # They come in the order of the archive, which often has one label after the other.
    images = seen[np.unique(np.linspace(0, len(seen) - 1, _IMAGES).round().astype(int))]
    found: dict[str, Integers] = {}
    done = 0
    for part in _parts(layers):
        moments = _moments(model, part, images, emit)
        for layer, moment in zip(part, moments, strict=True):
            if moment.isfinite().all():
                found[layer.integers] = layer.written(fitted(layer.weights, layer.scales, moment))
            done += 1
            emit(Progress("round int8", done, len(layers)))
    return found


def put(quantised: Path, weights: Mapping[str, Integers]) -> None:
    """Write those of `weights` that the ONNX file `quantised` has into it."""
    model = onnx.load(quantised)
    for initial in model.graph.initializer:
        if initial.name in weights:
            initial.CopyFrom(numpy_helper.from_array(weights[initial.name], initial.name))
    onnx.save(model, quantised)


def fitted(weights: Tensor, scales: Tensor, moments: Tensor) -> Tensor:
    """The integers `(G, O, D)` by which, times `scales (G, O, 1)`, the products of `weights (G, O, D)` with inputs of
    these second `moments (G, D, D)` are met best."""
    left, most = weights.clone(), (weights / scales).round().abs().max()
    upper = _inverse_root(moments)
    integers = torch.empty_like(left)
    inputs = left.shape[2]
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = torch.empty_like(left[:, :, start:end])
        for at in range(start, end):
            integers[:, :, at] = (left[:, :, at] / scales[:, :, 0]).round().clamp(-most, most)
            error = (left[:, :, at] - integers[:, :, at] * scales[:, :, 0]) / upper[:, at, at, None]
            left[:, :, at:end] -= error[:, :, None] * upper[:, None, at, at:end]
            errors[:, :, at - start] = error
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    return integers


def _inverse_root(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of their inverse."""
    mean = moments.diagonal(dim1=1, dim2=2).mean(dim=1)
    damping = torch.eye(moments.shape[1]) * (_DAMPING * mean + torch.finfo().tiny ** 0.5)[:, None, None]
    lower = torch.linalg.cholesky(moments + damping)
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper


def _layers(model: ModelProto, quantised: ModelProto) -> Iterator[_Layer]:
    """Those that both have, with integer weights around zero in the latter."""
    sizes = _sizes(model)
    kept = {initial.name: initial for initial in model.graph.initializer}
    integers = {initial.name: initial for initial in quantised.graph.initializer}
    scaled = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    rounds = {node.name: scaled[node.input[1]] for node in quantised.graph.node if _of_weights(node, scaled)}
    for node in model.graph.node:
        made = rounds.get(node.name)
        if made is None or node.input[1] not in kept or made.input[0] not in integers:
            continue
        zero = numpy_helper.to_array(integers[made.input[2]])
        weights = torch.from_numpy(numpy_helper.to_array(kept[node.input[1]]).copy())
        scales = torch.from_numpy(numpy_helper.to_array(integers[made.input[1]]).copy())
        if zero.dtype == np.int8 and not zero.any() and weights.ndim == _DIMENSIONS[node.op_type]:
            layer = _layer(node, made.input[0], weights, scales, input_bytes=sizes.get(node.input[0], 0))
            if layer.weights.shape[2] <= _MOST_INPUTS:
                yield layer


def _of_weights(node: NodeProto, scaled: Mapping[str, NodeProto]) -> bool:
    return node.op_type in _DIMENSIONS and node.input[1] in scaled


def _sizes(model: ModelProto) -> dict[str, int]:
    """The bytes of what is between layers, for one image, by its name."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    return {name: 4 * math.prod(size.dim_value for size in shape[1:]) for name, shape in shapes.items()}


def _layer(node: NodeProto, name: str, weights: Tensor, scales: Tensor, *, input_bytes: int) -> _Layer:
    told = _attributes(node)
    is_transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not told.get("transB", 0))
    groups = told.get("group", 1) if node.op_type == "Conv" else 1
    outputs_first = weights.T if is_transposed else weights.flatten(1)
    flat = outputs_first.reshape(groups, -1, outputs_first.shape[1])
    each = scales.reshape(-1).expand(len(outputs_first)).reshape(groups, -1, 1)
    return _Layer(node, name, flat, each, tuple(weights.shape), is_transposed, tuple(weights.shape[2:]), input_bytes)


def _parts(layers: Iterable[_Layer]) -> Iterator[list[_Layer]]:
    """Of `layers`, as many as may be looked at together."""
    part: list[_Layer] = []
    for layer in layers:
        if part and sum(one.bytes_at_once for one in part) + layer.bytes_at_once > _AT_ONCE_BYTES:
            yield part
            part = []
        part.append(layer)
    if part:
        yield part


def _moments(model: ModelProto, layers: Sequence[_Layer], images: NDArray[np.uint8], emit: Emit) -> list[Tensor]:
    """The second moments `(G, D, D)` of what each of `layers` is given."""
    found = [torch.zeros(len(layer.weights), *[layer.weights.shape[2]] * 2) for layer in layers]
    names = [*dict.fromkeys(layer.node.input[0] for layer in layers)]
    session = _telling(model, names)
    draw = torch.Generator().manual_seed(0)
    for done, image in enumerate(images, start=1):
        values = session.run(names, {in_onnx.INPUT: image[None].astype(np.float32)})
        inputs = dict(zip(names, map(torch.from_numpy, values), strict=True))
        for layer, moment in zip(layers, found, strict=True):
            given = _drawn(layer, inputs[layer.node.input[0]], draw)
            moment += given @ given.mT
        del values, inputs  # or the next image's would be beside them
        emit(Progress("look at layers", done, len(images)))
    return found


def _telling(model: ModelProto, names: Sequence[str]) -> "onnxruntime.InferenceSession":
    """The network, with what is called so for its outputs."""
    told = ModelProto()
    told.CopyFrom(model)
    del told.graph.output[:]
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        path = Path(folder) / "told.onnx"
        onnx.save(told, path)
        return in_onnx.session(path, torch.get_num_threads(), ["CPUExecutionProvider"])


def _drawn(layer: _Layer, inputs: Tensor, draw: torch.Generator) -> Tensor:
    """What is seen of `inputs` at some places `(G, D, P)`."""
    groups = len(layer.weights)
    if not layer.kernel:
        rows = inputs.reshape(-1, inputs.shape[-1])
        return rows[torch.randint(len(rows), (min(_PLACES, len(rows)),), generator=draw)].T[None]
    patches = _patches(layer, inputs)[0]
    high, wide = patches.shape[1:3]
    count = min(_PLACES, high * wide)
    rows, columns = (torch.randint(size, (count,), generator=draw) for size in (high, wide))
    return patches[:, rows, columns].permute(0, 2, 3, 1).reshape(groups, -1, count)


def _patches(layer: _Layer, inputs: Tensor) -> Tensor:
    """The patches that a convolution sees, as a view of its padded inputs `(1, C, H, W, kernel height, width)`."""
    told = _attributes(layer.node)
    top, left, bottom, right = told.get("pads", (0, 0, 0, 0))
    seen = functional.pad(inputs, (left, right, top, bottom))
    for side, (size, step, apart) in enumerate(
        zip(layer.kernel, told.get("strides", (1, 1)), told.get("dilations", (1, 1)), strict=True)
    ):
        seen = seen.unfold(2 + side, apart * (size - 1) + 1, step)[..., ::apart]
    return seen


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
