"""The way of batches to a GPU, beside what it computes meanwhile; on a CPU there is no way to go."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.runtimes import memory
from worker.training import data

Batch = tuple[Tensor, Tensor]
Source = TypeVar("Source")
Result = TypeVar("Result")

_FIRST = -1
"""Priority of a stream: its short operations are not to wait behind the long ones of a training step."""
_AHEAD = 2
"""Sources of which batches are made while another one's are computed."""


def ahead(
    sources: Iterable[Source], prepare: Callable[[Source], Sequence[Batch]], device: torch.device
) -> Iterator[Batch]:
    """The batches that `prepare` makes of each of `sources`, on `device`. For a GPU another thread does it, and the GPU
    itself does its part while it is still busy with what was queued before; what comes out may be used at once."""
    if device.type != "cuda":
        for source in sources:
            yield from prepare(source)
        return
    side = torch.cuda.Stream(device, priority=_FIRST)  # type: ignore[no-untyped-call]

    def made(source: Source) -> tuple[Sequence[Batch], torch.cuda.Event]:
        with torch.cuda.stream(side):
            return prepare(source), side.record_event()

    for prepared, event in data.prefetched(sources, made, threads=1, window=_AHEAD):
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        for batch in prepared:
            for tensor in batch:
                # Its memory belongs to the other stream, which would else give it away while this one still reads.
                tensor.record_stream(current)
            yield batch


def in_pieces(work: Callable[[Tensor], Result], batch: Tensor) -> list[Result]:
    """What `work` makes of `batch`, or of its halves and so on where the memory is too small for the whole. A single
    image that does not fit raises `OutOfMemoryError`."""
    try:
        with memory.told_alike():
            return [work(batch)]
    except torch.OutOfMemoryError:
        if len(batch) < 2:
            raise
    # Not above, where the error still holds what was computed.
    torch.cuda.empty_cache()
    return [made for half in batch.tensor_split(2) for made in in_pieces(work, half)]


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`. Where that is a GPU, it is not waited for, and `values` may be changed only if they are not
    pinned."""
    if device.type != "cuda":
        return values.to(device)
    return (values if values.is_pinned() else values.pin_memory()).to(device, non_blocking=True)


def send_array(values: NDArray[Any], device: torch.device) -> Tensor:
    """The same for an array."""
    # Copied only where torch would refuse them, as what is mapped from a file that is only read.
    return send(torch.from_numpy(np.require(values, requirements=["C", "W"])), device)


def room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of this machine to fill with what is sent to `device` later."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
