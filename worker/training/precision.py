"""In which precision a training computes, and whether each of its operations is to give the same result every time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from app import errors
from app.recipe import Precision
from worker.training.events import Emit, FullPrecision

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def is_half(precision: Precision, device: torch.device, emit: Emit) -> bool:
    """Whether to compute in bf16 on `device` where that does no harm; that it cannot is told."""
    if precision == "fp32" or (precision == "auto" and not is_half_quicker(device)):
        return False
    has_it = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not has_it:
        emit(FullPrecision(f"this {device.type} does not compute in bf16"))
    return bool(has_it)


def is_half_quicker(device: torch.device) -> bool:
    """Whether `device` multiplies more values of bf16 than of fp32 at a time. It is told by what the device is, and not
    by the clock, for the same training is to give the same values each time."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    if found.get("amx_bf16", False):
        return True
    # Intel's cores have AVX-512 BF16 on one of the two units that multiply fp32: without AMX, as in many virtual
    # machines, a step of ResNet-18 took 1.2 to 1.5 times as long in bf16.
    return bool(found.get("avx512_bf16", False)) and "AMD" in str(found.get("cpu_name", ""))


@contextmanager
def deterministic(*, wanted: bool) -> Iterator[None]:
    """Inside, the same computation gives the same result each time on GPUs, too, for the whole process.

    Raises `Invalid` for an operation that cannot.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, os.environ.get(_CUBLAS)
    # Read when a GPU is used for the first time; matrix products need it to be repeatable.
    os.environ[_CUBLAS] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        message = f"the network cannot be trained deterministically on this device: {error}"
        raise errors.Invalid(message, code="not_deterministic") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic = before[1]
        if before[2] is None:
            del os.environ[_CUBLAS]
        else:
            os.environ[_CUBLAS] = before[2]
