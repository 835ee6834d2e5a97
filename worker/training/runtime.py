"""A frozen network compiled for this CPU: the features that torch gives, in less time where there are many images.

OpenVINO compiles it, where that is installed. Each image goes through by itself, so that its features do not depend on
those beside it, and as many at once as there are threads.
"""

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.backbones import export
from app.backbones.classifier import InferenceForm
from app.backbones.walk import Survey
from app.libraries import openvino
from worker.training import data, precision, threads, transfer

LEAST_IMAGES = 128
"""Fewer are through before the compilation would have paid off. A fixed number, and not what the first images take:
the same images are to have the same features whatever else the machine is doing."""

_MOST_BYTES = 2**29
"""Of values in a network; while it is compiled, they are in memory three times."""
# How far rounding may take the features, by their root mean square. A network that was compiled wrongly is much further
# off. bf16 took those of MobileNetV2 seven hundredths away, and classifiers of ants and bees were as good with them.
_CLOSE = {True: 1e-4, False: 0.15}


class Compiled:
    """A network that gives what `InferenceForm.survey` does; may be called from several threads."""

    def __init__(self, model: "openvino.CompiledModel") -> None:
        self._model = model
        self._own = threading.local()

    def survey(self, images: Tensor) -> Survey:
        """Images `(N, 3, H, W) uint8` to features `float32`, and those of each stage on the way."""
        passed = [self._pass(image) for image in images.permute(0, 2, 3, 1)]
        *stages, features = (torch.from_numpy(np.concatenate(values)) for values in zip(*passed, strict=True))
        return Survey(tuple(stages), features)

    def _pass(self, image: Tensor) -> list[NDArray[np.float32]]:
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        found = self._own.request.infer([np.ascontiguousarray(image.numpy())[None]])
        return [np.array(found[output]) for output in self._model.outputs]


class Surveyor:
    """Passes so many `images` of `size` pixels through `network` on `device`."""

    def __init__(self, network: InferenceForm, size: int, *, images: int, device: torch.device) -> None:
        self._network = network
        self._size = size
        self._images = images
        self._device = device
        self._exported: bytes | None = None

    def surveys(self, batches: Iterator[Tensor], *, exact: bool) -> Iterator[Survey]:
        """What the network gives for each of `batches (N, 3, H, W) uint8`; in bf16 where that is quicker, unless it is
        to be `exact`."""
        first = next(batches, None)
        if first is None:
            return
        compiled = self.prepare(exact=exact)
        if compiled is not None and not self._is_right(compiled, first[:1], exact=exact):
            compiled = None
        batches = itertools.chain([first], batches)
        if compiled is None:
            for batch in batches:
                yield from transfer.in_pieces(self._in_torch, batch)
        else:
            count = torch.get_num_threads()
            yield from data.prefetched(batches, compiled.survey, threads=count, window=count + 1)

    def prepare(self, *, exact: bool) -> Compiled | None:
        """The network compiled; None where that would not pay off or cannot be done."""
        if not pays_off(self._network, self._images, self._device):
            return None
        half = not exact and precision.is_half_quicker(self._device)
        try:
            return Compiled(self._compile(half=half))
        except RuntimeError:  # what torch cannot write down, or OpenVINO cannot read
            return None

    def _is_right(self, compiled: Compiled, images: Tensor, *, exact: bool) -> bool:
        with threads.one(wanted=True):
            expected = self._in_torch(images)
        return _agree(compiled.survey(images), expected, exact=exact)

    def _in_torch(self, images: Tensor) -> Survey:
        with torch.inference_mode():
            return self._network.survey(images.to(self._device))

    def _compile(self, *, half: bool) -> "openvino.CompiledModel":
        self._exported = self._exported or _exported(self._network, self._size)
        core, count = openvino.Core(), torch.get_num_threads()
        # By way of ONNX: what OpenVINO has for networks of torch takes longer, and tells its maker of each use.
        steps = openvino.preprocess.PrePostProcessor(core.read_model(self._exported, b""))
        steps.input().tensor().set_layout(openvino.Layout("NHWC"))
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "INFERENCE_NUM_THREADS": count,
            "NUM_STREAMS": count,
            # Pinned to cores, they would wait for whoever else is at work there.
            "ENABLE_CPU_PINNING": False,
        }
        return core.compile_model(steps.build(), "CPU", settings)


def pays_off(network: InferenceForm, images: int, device: torch.device) -> bool:
    """Whether to compile `network` for so many images."""
    size = sum(value.nbytes for value in network.parameters())
    return openvino is not None and device.type == "cpu" and images >= LEAST_IMAGES and size <= _MOST_BYTES


def is_rounded(network: InferenceForm, images: int, device: torch.device) -> bool:
    """Whether features that need not be exact are computed in bf16, for so many images in all."""
    return pays_off(network, images, device) and precision.is_half_quicker(device)


class _Surveyed(nn.Module):
    def __init__(self, network: InferenceForm) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.network.survey(images)
        return (*found.stages, found.features)


def _exported(network: InferenceForm, size: int) -> bytes:
    return export.to_onnx(_Surveyed(network), torch.zeros(1, 3, size, size, dtype=torch.uint8))


def _agree(found: Survey, expected: Survey, *, exact: bool) -> bool:
    pairs = zip((*found.stages, found.features), (*expected.stages, expected.features), strict=True)
    return all(_distance(ours, theirs) <= _CLOSE[exact] for ours, theirs in pairs)


def _distance(found: Tensor, expected: Tensor) -> float:
    """The root mean square of the differences by that of the values; infinite where a value is not finite."""
    if not found.isfinite().all():
        return float("inf")
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-12))
