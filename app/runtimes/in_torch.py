"""Classifiers executed by torch."""

import itertools
import threading
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from app import errors
from app.backbones import classifier as classifiers
from app.backbones.classifier import InferenceForm
from app.models import artifact as artifacts
from app.runtimes import activations, convolutions
from app.runtimes.convolve import Library
from app.runtimes.form import Files, Form, Images, Machine, Network, Passed
from app.runtimes.in_graphs import Forward, InGraphs

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_numbers = itertools.count(1)
Backend = str | Callable[[torch.fx.GraphModule, Sequence[Tensor]], Callable[..., Any]]
"""What torch compiles a graph by."""


class Whole(nn.Module):
    """A classifier as runtimes take it: images `(N, H, W, 3)`, values 0-255, to features and logits."""

    def __init__(self, network: InferenceForm) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(images.permute(0, 3, 1, 2))
        return features, self.network.head(features)


class Compiled:
    """A network that torch compiles for one image and, where that came first, at the next number of images for any;
    and anew for each number of threads that it computes in. Any number of threads may call it. Raises where torch
    cannot compile all of it, or would have to do so too often."""

    def __init__(self, network: Whole, backend: Backend = "inductor") -> None:
        # Otherwise torch would run what it does not compile as it is, and say so in its log alone.
        self._forward: Forward = torch.compile(_own_forward(network), fullgraph=True, backend=backend)
        self._met: set[tuple[int, int]] = set()
        self._first = threading.Lock()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        given = (len(images), torch.get_num_threads())
        if given in self._met:
            return self._forward(images)
        # One after the other, or each thread that meets this for the first time would compile it for itself.
        with self._first:
            found = self._forward(images)
            self._met.add(given)
            return found


class InTorch:
    """A classifier as torch runs it on a CPU, where each thread has its own number of threads to compute in."""

    def __init__(self, network: Forward, machine: Machine, dtype: torch.dtype) -> None:
        self._network = network
        self._machine = machine
        self._dtype = dtype
        self._widest = 1

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        _take_threads(self._widest if alone else 1)
        # Of one type whatever the client gave, or a compiled network would be compiled again in a request.
        given = torch.from_numpy(np.ascontiguousarray(images)).float()
        half = self._dtype != torch.float32
        with torch.inference_mode(), torch.autocast("cpu", dtype=self._dtype, enabled=half):
            features, logits = self._network(given)
        return Passed(features.float().numpy(), logits.float().numpy())

    def widen(self) -> None:
        self._widest = self._machine.threads

    def settle(self) -> None:
        """Nothing: torch keeps no memory of a pass that malloc does not have again."""


class InOwn(InTorch):
    """The same for a network whose convolutions are computed by our own code, which has threads of its own."""

    def __init__(self, network: Forward, machine: Machine, library: Library) -> None:
        super().__init__(network, machine, torch.float32)
        self._library = library

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        with self._library.helped(self._widest if alone else 1):
            return super().run(images)

    def settle(self) -> None:
        """Of all networks whose threads keep memory for large activations: they have it in common."""
        activations.forget()


def open_plain(files: Files, form: Form, machine: Machine) -> Network:
    """The classifier as it was trained. Raises `Unavailable`."""
    return _opened(_restored(files).to(machine.device), form, machine)


def open_compiled(files: Files, form: Form, machine: Machine) -> Network:
    """The same, compiled for this machine, which takes a C++ compiler and its time. Raises `Unavailable`."""
    return _opened(Compiled(_restored(files).to(machine.device)), form, machine)


def open_winograd(files: Files, _form: Form, machine: Machine) -> Network:
    """The same, with convolutions by our own code, which takes a C++ compiler. Raises `Unavailable`."""
    if machine.device != "cpu":
        raise errors.Unavailable("its convolutions are for CPUs", code="runtime_unavailable")
    network = _restored(files)
    return InOwn(network, machine, convolutions.compute_own(network))


def whole(files: Files) -> Whole:
    """The classifier of an artifact, on the CPU. Raises `Unavailable`."""
    return _restored(files)


def _opened(network: Forward, form: Form, machine: Machine) -> Network:
    device, dtype = torch.device(machine.device), _TYPES[form.precision]
    if device.type == "cpu":
        return InTorch(network, machine, dtype)
    return InGraphs(network, device, dtype, most=machine.batch)


def _take_threads(count: int) -> None:
    """Let torch compute in so many threads what this one asks for; others have numbers of their own."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _own_forward(network: Whole) -> Forward:
    """That of `network` as code of its own. Torch keeps what it compiled by the code, a few entries for each, and what
    it knows of sizes that change by the code's name: networks that have both in common would use up each other's."""
    shared = Whole.forward
    code = shared.__code__.replace(co_name=f"{shared.__name__}_{next(_numbers)}")
    own: Forward = MethodType(FunctionType(code, shared.__globals__, code.co_name), network)
    return own


def _restored(files: Files) -> Whole:
    artifact = artifacts.read(files.artifact)
    restored = classifiers.restore(
        artifact.backbone, len(artifact.labels), artifact.preprocessing, artifact.state, outlet=artifact.outlet
    )
    return Whole(classifiers.turned(restored)).eval()
