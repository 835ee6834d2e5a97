"""A network in int8: weights and activations as integers, the ranges of activations seen on training images.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
2018; post-training, with a scale for each channel of the weights (Krishnamoorthi, "Quantizing deep convolutional
networks for efficient inference", 2018, section 3). The file says where to round (QDQ), so that every runtime that
reads ONNX makes of it what suits the machine.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from app.runtimes.in_onnx import INPUT
from worker.optimising import rounding
from worker.optimising.rounding import Integers
from worker.training import data
from worker.training.events import Emit, Progress

_BATCH = 8
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Way:
    """How much of a network stays in float."""

    name: str
    from_start: bool
    """Whether what comes before the first operation with weights does, which is the normalisation."""
    ends: bool
    """Whether the first and the last operation with weights do."""
    is_fitted: bool = True
    """Whether weights are rounded for what layers give, which takes longer to make, and not each by itself."""


WAYS = (
    Way("all", from_start=False, ends=False, is_fitted=False),
    Way("all, fitted", from_start=False, ends=False),
    Way("all but the normalisation, fitted", from_start=True, ends=False),
    Way("all but the normalisation, the first and the last layer, fitted", from_start=True, ends=True),
)
"""In the order that they are tried in: the fastest first, and of those that are as fast the one that is made sooner. To
quantise only the operations with weights was slower and further off: what a ReLU6 cuts off then counts for the
range."""


class Quantiser:
    """Makes a network in float one in int8, the ranges of activations those of the images `seen (N, H, W, 3)`.
    `small_range` leaves a bit of the weights unused, for CPUs on which sums of products of 8 bits saturate."""

    def __init__(self, network: Path, seen: NDArray[np.uint8], *, small_range: bool, emit: Emit) -> None:
        self._network, self._seen = network, seen
        self._small_range = small_range
        self._emit = emit
        self._fitted: dict[str, Integers] | None = None
        """The same in all ways, which differ in what of it they have."""

    def write(self, target: Path, way: Way) -> None:
        """The network in that way as the ONNX file `target`."""
        with tempfile.TemporaryDirectory(prefix="graft-") as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(self._network), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                _Seen(self._seen, self._emit),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=self._small_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_in_float(prepared, way),
            )
            if way.is_fitted:
                if self._fitted is None:
                    self._fitted = rounding.rounded(prepared, target, self._seen, self._emit)
                rounding.put(target, self._fitted)


class _Seen(CalibrationDataReader):  # type: ignore[misc]
    """Gives the images to the calibration, and tells how far it is."""

    def __init__(self, images: NDArray[np.uint8], emit: Emit) -> None:
        self._images = images
        self._emit = emit
        self._parts: Iterator[range] = iter(data.parts_of(len(images), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        part = next(self._parts, None)
        if part is None:
            return None
        self._emit(Progress("calibrate int8", part.stop, len(self._images)))
        return {INPUT: self._images[part.start : part.stop].astype(np.float32)}


def _in_float(network: Path, way: Way) -> list[str]:
    """Names of the nodes that stay as they are."""
    nodes = onnx.load(network).graph.node
    weighty = [place for place, node in enumerate(nodes) if node.op_type in _WITH_WEIGHTS]
    places = [*(range(weighty[0]) if way.from_start else ()), *((weighty[0], weighty[-1]) if way.ends else ())]
    return [nodes[place].name for place in places]
