"""A network written down as ONNX, for runtimes other than torch."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn


def to_onnx(
    network: nn.Module,
    example: Tensor,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> bytes:
    """`network` as it is run on `example`, in evaluation mode; `dynamic` names the axes whose length may change.

    Raises `RuntimeError` for what has no ONNX form. While it works, torch computes in one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="graft-") as folder,
            warnings.catch_warnings(),
            _slow_attention(),
        ):
            path = Path(folder) / "network.onnx"
            # The exporter by tracing is out of favour with torch, but a hundred times as fast as its successor.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(),
                (example,),
                path,
                dynamo=False,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=dynamic,
            )
            return path.read_bytes()
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _slow_attention() -> Iterator[None]:
    """The fused attention of torch, which runs without gradients, has no ONNX form: the plain one has."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
