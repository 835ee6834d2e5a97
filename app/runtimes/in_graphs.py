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
    images: Tensor
    features: Tensor
    logits: Tensor


class _Queue:
    """Where all graphs of this process on one GPU are replayed, one after the other, so that they can share the memory
    of a pass."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.turn = threading.Lock()
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._images: dict[tuple[int, ...], Tensor] = {}
        self._begin()

    def images(self, count: int, shape: tuple[int, ...]) -> Tensor:
        """`count` images of this `shape`, which all graphs for such images read. Whoever calls this has the `turn`."""
        held = self._images.get(shape)
        if held is None or len(held) < count:
            held = self._images[shape] = torch.zeros(count, *shape, device=self.device)
        return held[:count]

    def capture(self, images: Tensor, run: Callable[[Tensor], tuple[Tensor, Tensor]]) -> _Captured:
        """What `run` makes of `images`. Whoever calls this has the `turn`. Raises `RuntimeError`."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may ask the GPU for something of theirs meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
                features, logits = run(images)
        except RuntimeError:
            self._begin()  # in some versions of torch nothing more can be captured in that pool
            raise
        return _Captured(graph, images, features, logits)

    def _begin(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # A pool ends with the last graph in it, and models come and go.
        self._first = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._first, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            torch.zeros(1, device=self.device)


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
        self._captured: dict[int, _Captured | None] = {}
        """By the number of images; None where it cannot be had."""
        self._capturing = threading.Lock()

    @property
    def captured(self) -> list[int]:
        """For how many images at once there are graphs."""
        return sorted(count for count, found in self._captured.items() if found is not None)

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        # Pinned, as it would else be waited for before it is sent.
        given = torch.from_numpy(np.ascontiguousarray(images)).pin_memory()
        queue = _queue(self._device)
        found = self._graph_for(given, queue)
        with queue.turn, torch.inference_mode(), torch.cuda.stream(queue.stream):
            sent = given.to(self._device, non_blocking=True).float()
            if found is None:
                features, logits = self._pass(sent)
            else:
                found.images[: len(sent)].copy_(sent)
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

    def _graph_for(self, given: Tensor, queue: _Queue) -> _Captured | None:
        """That for as many images as are `given (N, H, W, 3)`, and as few more as possible; captured now, and so that
        nobody who asks has to wait for it later all smaller ones with it, if it was not before."""
        size = size_of(len(given), self._most)
        if size is None:
            return None
        if size not in self._captured:
            with self._capturing:
                for count in sizes(size):
                    if count not in self._captured:
                        self._captured[count] = self._capture(count, tuple(given.shape[1:]), queue)
        return self._captured[size]

    def _capture(self, count: int, shape: tuple[int, ...], queue: _Queue) -> _Captured | None:
        try:
            self._get_used_to(count, shape)
            with queue.turn, torch.inference_mode(), torch.cuda.stream(queue.stream):
                images = queue.images(count, shape)
                self._pass(images)  # what libraries keep for each stream is theirs, and no part of the graph
                return queue.capture(images, self._pass)
        except torch.OutOfMemoryError as error:
            # A single image that has no room is nothing to go on with, and whoever loads this is to know.
            if count == 1:
                raise
            logger.warning("passes of %d images on %s are not captured: %s", count, self._device, error)
        except RuntimeError as error:  # it waits for the GPU, for example
            logger.warning("passes of %d images on %s are not captured: %s", count, self._device, error)
        return None

    def _get_used_to(self, count: int, shape: tuple[int, ...]) -> None:
        """Pass so many images as usual, beside what others pass: to compile may take minutes."""
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(aside):
            images = torch.zeros(count, *shape, device=self._device)
            for _ in range(_BEFORE):
                self._pass(images)
        aside.synchronize()


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
