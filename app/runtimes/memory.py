"""How much memory this process takes, on a GPU or without one, how to let go of what it does not need any more, and
what it means that there is too little."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from app import errors
from app.optimisation import Runtime
from app.runtimes import activations

_STATM = Path("/proc/self/statm")
# Of mallopt(3): what is free at the end of the heap stays there, and all but the largest pieces are parts of the heap.
_TRIM_THRESHOLD, _NEVER = -1, -1
_MMAP_THRESHOLD, _MOST = -3, 2**25
_OF_TORCH: tuple[Runtime, ...] = ("torch", "torch-winograd", "torch-compiled")
_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
)
"""What CUDA, TensorRT, torch on a CPU, ONNX Runtime, cuDNN, C++ and Linux say when there is too little; few of them
have an error of its own."""


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


def keep_freed() -> None:
    """Let this process keep what it frees for what it asks for next, up to 32 MB a piece, which is the most that glibc
    knows; for trainings, which ask for the same activations at every step.

    By default glibc gives back to the system what is free beyond 64 MB, and that has to be cleared before it is given
    out again: a third of the time of a training step that does little with much, such as MobileNetV2's.
    """
    with suppress(OSError, AttributeError):
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_TRIM_THRESHOLD, _NEVER)
        c_library.mallopt(_MMAP_THRESHOLD, _MOST)


def give_back() -> None:
    """Memory that is free to the system: glibc would keep it in the arenas of threads that have gone on, and torch that
    of a GPU for whatever comes next, where others want it too."""
    torch.cuda.empty_cache()  # nothing where no GPU has been used
    activations.forget()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def is_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory for what raised this."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return any(phrase in said for phrase in _OF_MEMORY)


@contextmanager
def told_alike() -> Iterator[None]:
    """Inside, too little memory is a `torch.OutOfMemoryError`, whatever says so: torch itself raises that for GPUs
    alone."""
    try:
        yield
    except (torch.OutOfMemoryError, errors.GraftError):
        raise
    except Exception as error:
        if not is_of_memory(error):
            raise
        raise torch.OutOfMemoryError(str(error) or "there is too little memory") from error
