"""How much memory this process takes, on a GPU or without one, and how to let go of what it does not need any more."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

from app.optimisation import Runtime

_STATM = Path("/proc/self/statm")
_OF_TORCH: tuple[Runtime, ...] = ("torch", "torch-compiled")


def used_bytes(device: str) -> int | None:
    """What torch holds on a GPU for this process, without what it keeps for later, or what of the process is in main
    memory; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if not _STATM.exists():
        return None
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_seen(runtime: Runtime, device: str) -> bool:
    """Whether `used_bytes` tells what a network takes that `runtime` executes. What is not torch's of a GPU's memory
    cannot be told from that of other processes, which come and go."""
    return torch.device(device).type != "cuda" or runtime in _OF_TORCH


def give_back() -> None:
    """Memory that is free to the system: glibc would keep it in the arenas of threads that have gone on, and torch that
    of a GPU for whatever comes next, where others want it too."""
    torch.cuda.empty_cache()  # nothing where no GPU has been used
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
