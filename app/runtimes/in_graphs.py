"""Classifiers executed by torch on a GPU, by CUDA graphs.

A GPU needs less time for the hundreds of small operations of a pass than a processor needs to ask for them one by one,
and other threads of this process cannot run meanwhile. Captured once, they are asked for all at once ("Getting Started
with CUDA Graphs", NVIDIA 2019).
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.runtimes import memory
from app.runtimes.form import Images, Passed

logger = logging.getLogger(__name__)

_BEFORE = 2
"""Passes of so many images before they are captured: meanwhile the libraries choose their algorithms, and what is
compiled is compiled."""

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images `(N, H, W, 3) float32`, values 0-255, to features and logits."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    features: Tensor
    logits: Tensor


class _Queue:
    """Where all graphs of this process on one GPU are replayed, one after the other, so that they can share the memory
    of a pass."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.turn = threading.Lock()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # A pool ends with the last graph in it, and models come and go.
        self._first = self.capture(lambda: (torch.zeros(1, device=device), torch.zeros(1, device=device)))

    def capture(self, run: Callable[[], tuple[Tensor, Tensor]]) -> _Captured:
        """Whoever calls this has the `turn`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may ask the GPU for something of theirs meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            features, logits = run()
        return _Captured(graph, features, logits)


_queues: dict[torch.device, _Queue] = {}
_making = threading.Lock()


class InGraphs:
    """A classifier on a GPU: captured for 1, 2, 4, 8 and so on images up to `most`, where the first of so many, or of
    more than half as many, are passed; fewer are passed among images of earlier ones. More than `most`, and what cannot
    be captured, is asked for operation by operation."""

    def __init__(self, forward: Forward, device: torch.device, dtype: torch.dtype, *, most: int) -> None:
        self._forward = forward
        self._device = device
        self._dtype = dtype
        self._most = most
        self._captured: dict[int, _Captured] = {}
        self._images: Tensor | None = None
        """What all graphs read: as many of the first as they are for."""
        self._is_possible = True

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        given = torch.from_numpy(np.ascontiguousarray(images))
        queue = _queue(self._device)
        with queue.turn, torch.inference_mode(), torch.cuda.stream(queue.stream):
            sent = given.to(self._device, non_blocking=True).float()
            size = size_of(len(sent), self._most)
            if size is not None and self._is_possible and size not in self._captured:
                self._capture(sent.shape, size, queue)
            found = self._captured.get(size or 0)
            if found is None or self._images is None:
                features, logits = self._pass(sent)
            else:
                self._images[: len(sent)].copy_(sent)
                found.graph.replay()
                features, logits = found.features[: len(sent)], found.logits[: len(sent)]
            answers = [_fetched(values) for values in (features, logits)]
            there = queue.stream.record_event()
        # Others ask for their passes while this one is computed.
        there.synchronize()
        return Passed(*(values.numpy() for values in answers))

    def widen(self) -> None:
        """Nothing: all of a GPU computes any pass."""

    def settle(self) -> None:
        memory.give_back()

    def _pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            features, logits = self._forward(images)
        return features.float(), logits.float()

    def _capture(self, shape: torch.Size, size: int, queue: _Queue) -> None:
        """For `size` images and, so that nobody who asks has to wait for it later, for all that are fewer; of the
        `shape (N, H, W, 3)`."""
        if self._images is None:
            self._images = torch.zeros(self._most, *shape[1:], device=self._device)
        try:
            for count in sizes(size):
                if count not in self._captured:
                    images = self._images[:count]
                    for _ in range(_BEFORE):
                        self._pass(images)
                    self._captured[count] = queue.capture(lambda images=images: self._pass(images))  # type: ignore[misc]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # it waits for the GPU, for example
            self._is_possible = False
            logger.warning("passes on %s are not captured: %s", self._device, error)


def sizes(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`: for so many images at once there are graphs."""
    powers = [2**power for power in range(most.bit_length())]
    return sorted({*powers, most})


def size_of(count: int, most: int) -> int | None:
    """The least of the `sizes` with room for `count` images; None where there is none."""
    return next((size for size in sizes(most) if size >= count), None)


def _queue(device: torch.device) -> _Queue:
    with _making:
        if device not in _queues:
            _queues[device] = _Queue(device)
        return _queues[device]


def _fetched(values: Tensor) -> Tensor:
    """`values` on their way from a GPU; there once all that was asked for is done."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
