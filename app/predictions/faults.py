"""What it means that a runtime fails: there was too little memory, which passes, or what failed cannot go on."""

import torch

from app import errors

_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "can't allocate memory",
    "failed to allocate",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
)
"""What CUDA, TensorRT, torch on a CPU, ONNX Runtime, cuDNN and C++ say then; few of them have an error of its own."""


def is_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return any(phrase in said for phrase in _OF_MEMORY)


def no_memory() -> errors.Overloaded:
    """What is said of that, since others on the same machine come and go."""
    return errors.Overloaded("there is too little memory for this now; try again in a moment")


def failed(what: str) -> errors.Unavailable:
    """What is said of `what` a runtime failed in, otherwise than for want of memory."""
    return errors.Unavailable(
        f"{what} failed, and the model has to be loaded anew; try again in a moment", code="runtime_unavailable"
    )
