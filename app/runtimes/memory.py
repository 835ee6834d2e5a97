"""How much memory this process takes, on a GPU or without one, and how to let go of what it does not need any more."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


def used_bytes(device: str) -> int | None:
    """What the process holds on a GPU, or what of it is in main memory; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    if not _STATM.exists():
        return None
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Memory that is free to the system: glibc would keep it in the arenas of threads that have gone on."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
