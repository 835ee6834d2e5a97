"""Classifiers executed by torch."""

import threading

import numpy as np
import torch
from torch import Tensor, nn

from app.backbones import classifier as classifiers
from app.backbones.classifier import InferenceForm
from app.models import artifact as artifacts
from app.runtimes.form import Files, Form, Images, Machine, Passed

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Whole(nn.Module):
    """A classifier as runtimes take it: images `(N, H, W, 3)`, values 0-255, to features and logits."""

    def __init__(self, network: InferenceForm) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(images.permute(0, 3, 1, 2))
        return features, self.network.head(features)


class InTorch:
    """A classifier as torch runs it. On a CPU each thread has its own number of threads to compute in."""

    def __init__(self, network: nn.Module, machine: Machine, dtype: torch.dtype) -> None:
        self._network = network
        self._machine = machine
        self._device = torch.device(machine.device)
        self._dtype = dtype
        self._widest = 1
        self._own = threading.local()

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self._take_threads(self._widest if alone else 1)
        # Of one type whatever the client gave, or a compiled network would be compiled again in a request.
        given = torch.from_numpy(np.ascontiguousarray(images)).to(self._device, non_blocking=True).float()
        half = self._dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._device.type, dtype=self._dtype, enabled=half):
            features, logits = self._network(given)
        return Passed(features.float().cpu().numpy(), logits.float().cpu().numpy())

    def widen(self) -> None:
        self._widest = self._machine.threads

    def settle(self) -> None:
        """Nothing: torch keeps no memory of a pass that malloc does not have again."""

    def _take_threads(self, count: int) -> None:
        if self._device.type == "cpu" and getattr(self._own, "threads", None) != count:
            torch.set_num_threads(count)
            self._own.threads = count


def open_plain(files: Files, form: Form, machine: Machine) -> InTorch:
    """The classifier as it was trained. Raises `Unavailable`."""
    return InTorch(_restored(files).to(machine.device), machine, _TYPES[form.precision])


def open_compiled(files: Files, form: Form, machine: Machine) -> InTorch:
    """The same, compiled for this machine, which takes a C++ compiler and its time. Raises `Unavailable`."""
    network = _restored(files).to(machine.device)
    network.compile()
    return InTorch(network, machine, _TYPES[form.precision])


def whole(files: Files) -> Whole:
    """The classifier of an artifact, on the CPU. Raises `Unavailable`."""
    return _restored(files)


def _restored(files: Files) -> Whole:
    artifact = artifacts.read(files.artifact)
    restored = classifiers.restore(
        artifact.backbone, len(artifact.labels), artifact.preprocessing, artifact.state, outlet=artifact.outlet
    )
    return Whole(classifiers.turned(restored)).eval()
