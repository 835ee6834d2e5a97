"""Forward and backward of a batch as CUDA graphs.

A GPU needs less time for the hundreds of small operations of a step than the processor needs to ask for them one by
one. Captured once, they are asked for all at once ("Getting Started with CUDA Graphs", NVIDIA 2019).
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

BEFORE = 3
"""Times that a batch of some shape is computed as usual: meanwhile the libraries choose their algorithms, which they
cannot while they are captured."""

Compute = Callable[[Tensor, Tensor], Tensor]
"""Gives the loss for inputs and targets of a batch, detached, and adds its gradients to the parameters'."""


def are_wanted(device: torch.device) -> bool:
    """Whether they are of use on `device`. Where each operation is to give the same result every time, they are not:
    the first batches are computed without them, and after an interruption those are others."""
    return device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()


class Capture(Protocol):
    """A way to have computations repeated, of which only one at a time is at work."""

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """What repeats all that `run` does on the device, in the same memory. `run` itself need not take effect.
        Raises `RuntimeError` where it cannot be captured."""

    def forget(self) -> None:
        """What was captured until now is not repeated any more."""


class Graphs(Capture):
    """Captures by CUDA graphs, which share their memory."""

    def __init__(self) -> None:
        self.forget()

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Other threads make the next batches meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        return graph.replay

    def forget(self) -> None:
        # A pool ends with the last graph in it.
        self._pool = torch.cuda.graph_pool_handle()


@dataclass(frozen=True)
class _Captured:
    inputs: Tensor
    targets: Tensor
    loss: Tensor
    gradients: tuple[Tensor | None, ...]
    replay: Callable[[], None]


class Replayed:
    """Computes batches as `compute` does, by replaying what was captured for an earlier batch of the same shape. Which
    of `parameters` are trained must not change but for a `forget`."""

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter], capture: Capture) -> None:
        self._compute = compute
        self._parameters = parameters
        self._capture = capture
        self._seen: Counter[object] = Counter()
        self._captured: dict[object, _Captured] = {}
        self._is_possible = True

    @property
    def captured(self) -> int:
        """How many shapes of batches are repeated."""
        return len(self._captured)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of the batch; the parameters, which have no gradients yet, get them. It is overwritten by the next
        call."""
        key = (inputs.shape, inputs.dtype, targets.shape, targets.dtype)
        if key not in self._captured and self._is_due(key):
            self._capture_batch(key, inputs, targets)
        if key not in self._captured:
            return self._compute(inputs, targets)
        found = self._captured[key]
        found.inputs.copy_(inputs)
        found.targets.copy_(targets)
        found.replay()
        for parameter, gradient in zip(self._parameters, found.gradients, strict=True):
            parameter.grad = gradient
        return found.loss

    def forget(self) -> None:
        """Give all captures and their memory away; they are made anew."""
        self._captured.clear()
        self._seen.clear()
        self._capture.forget()
        self._release()

    def stop(self) -> bool:
        """Capture nothing any more, and say whether there was anything to give away."""
        self._is_possible, had = False, bool(self._captured)
        self.forget()
        return had

    def _is_due(self, key: object) -> bool:
        self._seen[key] += 1
        return self._is_possible and self._seen[key] > BEFORE

    def _capture_batch(self, key: object, inputs: Tensor, targets: Tensor) -> None:
        held, labels = inputs.clone(), targets.clone()
        losses: list[Tensor] = []
        try:
            replay = self._capture(lambda: losses.append(self._compute(held, labels)))
        except RuntimeError as error:  # it waits for the device, for example, or there is no room for what is captured
            logger.warning("steps are not captured: %s", error)
            self.stop()
            return
        gradients = tuple(parameter.grad for parameter in self._parameters)
        self._release()
        self._captured[key] = _Captured(held, labels, losses[0], gradients, replay)

    def _release(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
