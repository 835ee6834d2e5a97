"""Runtimes that have passed a network before the one that is to be measured: the code of a runtime itself, which comes
into memory with the first network, would be taken for that network's."""

import logging
import tempfile
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from app.backbones.export import to_onnx
from app.optimisation import Runtime
from app.runtimes import in_onnx, opening
from app.runtimes.form import Files, Form, Machine

logger = logging.getLogger(__name__)

_BLANK = torch.zeros(1, 8, 8, 3)
"""An image."""
_OF_ONNX: tuple[Runtime, ...] = ("onnxruntime", "openvino")


class _Small(nn.Module):
    """Images `(N, H, W, 3)` to features and logits, by what networks consist of."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.convolution(images.permute(0, 3, 1, 2))).mean((2, 3))
        return features, self.head(features)


def start(runtimes: Collection[Runtime], machine: Machine) -> None:
    """Pass a small network by each of those `runtimes` that have much code of their own; what does not work says
    nothing here, and for itself when it is needed."""
    if machine.device != "cpu":
        return  # where the memory that is measured is the GPU's
    for runtime in runtimes:
        try:
            if runtime in _OF_ONNX:
                _pass_by(runtime, machine)
            elif runtime == "torch-compiled":
                torch.compile(torch.neg)(torch.zeros(1))
            elif runtime == "torch":
                with torch.inference_mode():
                    _Small().eval()(_BLANK)
        except Exception as error:  # runtimes raise what they like
            logger.info("%s does not pass a small network: %s", runtime, error)


def _pass_by(runtime: Runtime, machine: Machine) -> None:
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        network = to_onnx(
            _Small().eval(),
            _BLANK,
            inputs=[in_onnx.INPUT],
            outputs=list(in_onnx.OUTPUTS),
            dynamic={name: {0: "n"} for name in (in_onnx.INPUT, *in_onnx.OUTPUTS)},
        )
        (Path(folder) / in_onnx.NAMES["fp32"]).write_bytes(network)
        opened = opening.open_form(Files(Path(folder), Path(folder)), Form(runtime, "fp32"), machine)
        opened.widen()
        for is_alone in (False, True):
            opened.run(_BLANK.byte().numpy(), alone=is_alone)
