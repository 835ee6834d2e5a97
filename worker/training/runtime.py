"""A frozen network compiled for this CPU: what torch gives, in less time where there are many images.

OpenVINO compiles it, where that is installed. Each image goes through by itself, so that what comes out does not depend
on those beside it, and as many at once as there are threads.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from functools import partial

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


def noise(size: int) -> Tensor:
    """An image `(1, 3, size, size) uint8` to try a network with: always the same."""
    return torch.randint(256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Compiled:
    """A frozen network; may be called from several threads."""

    def __init__(self, model: "openvino.CompiledModel") -> None:
        self._model = model
        self._own = threading.local()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the network makes of `images (N, 3, H, W) uint8`, `(N, …) float32` each."""
        passed = [self._pass(image) for image in images.permute(0, 2, 3, 1)]
        return tuple(torch.from_numpy(np.concatenate(values)) for values in zip(*passed, strict=True))

    def _pass(self, image: Tensor) -> list[NDArray[np.float32]]:
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        found = self._own.request.infer([np.ascontiguousarray(image.numpy())[None]])
        return [np.array(found[output]) for output in self._model.outputs]


class Frozen:
    """Passes so many `images` of `size` pixels on `device` through `network`, which makes several tensors `(N, …)` of
    images `(N, 3, H, W) uint8`. Where it `rounds`, torch computes in bf16 as well where that is asked for."""

    def __init__(
        self, network: nn.Module, size: int, *, images: int, device: torch.device, rounds: bool = False
    ) -> None:
        self._network = network
        self._size = size
        self._images = images
        self._device = device
        self._rounds = rounds
        self._exported: bytes | None = None
        self._ready: dict[bool, Compiled | None] = {}
        """Compiled, with and without bf16, and found right; None where torch computes."""

    def outputs(self, batches: Iterator[Tensor], *, half: bool) -> Iterator[tuple[Tensor, ...]]:
        """What the network makes of each of `batches`, in bf16 where `half`; a batch may come back in pieces."""
        first = next(batches, None)
        if first is None:
            return
        if half not in self._ready:
            made = self.prepare(half=half)
            self._ready[half] = made if made is not None and self._is_right(made, half=half) else None
        compiled = self._ready[half]
        batches = itertools.chain([first], batches)
        if compiled is None:
            # As where it is compiled, or what comes out would depend on the images beside each.
            is_apart = pays_off(self._network, self._images, self._device)
            for batch in batches:
                for part in batch.tensor_split(len(batch)) if is_apart else (batch,):
                    yield from transfer.in_pieces(partial(self._in_torch, half=half and self._rounds), part)
        else:
            count = torch.get_num_threads()
            yield from data.prefetched(batches, compiled, threads=count, window=count + 1)

    def prepare(self, *, half: bool) -> Compiled | None:
        """The network compiled; None where that would not pay off or cannot be done."""
        if not pays_off(self._network, self._images, self._device):
            return None
        try:
            return Compiled(self._compile(half=half))
        except RuntimeError:  # what torch cannot write down, or OpenVINO cannot read
            return None

    def _is_right(self, compiled: Compiled, *, half: bool) -> bool:
        images = noise(self._size)
        with threads.one(wanted=True):
            expected = self._in_torch(images, half=False)
        return _agree(compiled(images), expected, exact=not half)

    def _in_torch(self, images: Tensor, *, half: bool) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            found: tuple[Tensor, ...] = self._network(images.to(self._device))
            return found

    def _compile(self, *, half: bool) -> "openvino.CompiledModel":
        example = torch.zeros(1, 3, self._size, self._size, dtype=torch.uint8)
        self._exported = self._exported or export.to_onnx(self._network, example)
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


class Surveyor:
    """Passes so many `images` of `size` pixels through `network` on `device` for the features of all its stages."""

    def __init__(self, network: InferenceForm, size: int, *, images: int, device: torch.device) -> None:
        self._frozen = Frozen(_Surveyed(network), size, images=images, device=device)
        self._device = device

    def surveys(self, batches: Iterator[Tensor], *, exact: bool) -> Iterator[Survey]:
        """What the network gives for each of `batches (N, 3, H, W) uint8`; in bf16 where that is quicker, unless it is
        to be `exact`."""
        for *stages, features in self._frozen.outputs(batches, half=self._half(exact=exact)):
            yield Survey(tuple(stages), features)

    def prepare(self, *, exact: bool) -> Compiled | None:
        """As that of `Frozen`."""
        return self._frozen.prepare(half=self._half(exact=exact))

    def _half(self, *, exact: bool) -> bool:
        return not exact and precision.is_half_quicker(self._device)


def pays_off(network: nn.Module, images: int, device: torch.device) -> bool:
    """Whether to compile `network` for so many images."""
    size = sum(value.nbytes for value in network.parameters())
    return openvino is not None and device.type == "cpu" and images >= LEAST_IMAGES and size <= _MOST_BYTES


def is_apart(network: InferenceForm, images: int, device: torch.device) -> bool:
    """Whether each of so many images goes through by itself, so that its features are bit for bit the same whatever
    others there are; GPUs, whose features differ from run to run, count as such unless they are to be the same."""
    if device.type == "cuda":
        return not torch.are_deterministic_algorithms_enabled()
    return pays_off(network, images, device)


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


def _agree(found: Sequence[Tensor], expected: Sequence[Tensor], *, exact: bool) -> bool:
    return all(_distance(ours, theirs) <= _CLOSE[exact] for ours, theirs in zip(found, expected, strict=True))


def _distance(found: Tensor, expected: Tensor) -> float:
    """The root mean square of the differences by that of the values; infinite where a value is not finite."""
    if not found.isfinite().all():
        return float("inf")
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-12))
