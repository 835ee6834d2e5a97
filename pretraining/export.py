"""The trained values as the file that comes with the package."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

NAME = "formnet"
"""Of the network in the catalogue."""


def write(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Write `state` in half precision to `folder/formnet-<first 8 hex digits of its sha256>.safetensors`.

    Counters stay what they are. Other files of that kind in the folder are removed.
    """
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if not all(bool(torch.isfinite(value).all()) for value in halved.values()):
        raise ValueError("the values do not fit into half precision")
    content = safetensors.torch.save({name: value.contiguous() for name, value in halved.items()})
    path = folder / f"{NAME}-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{NAME}-*.safetensors"):
        old.unlink()
    path.write_bytes(content)
    return path
