"""The memory that a network takes, in use and in training, estimated without running it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.backbones import tracing
from app.backbones.tracing import Memory


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes for a batch."""

    weights: int
    """Parameters and buffers."""
    inference_activations: int
    inference: int
    training_activations: int
    gradients: int
    momentum: int
    training: int


@dataclass(frozen=True)
class Kept:
    """Activations that PyTorch holds for the backward pass of some images."""

    images: int
    values: tuple[Tensor, ...]

    def bytes(self, batch: int, itemsize: int) -> int:
        """For a batch of another size, with `itemsize` bytes for each floating-point value."""
        total = sum(
            value.untyped_storage().nbytes() // value.element_size() * _size_of(value, itemsize)
            for value in self.values
        )
        return total * batch // self.images


def estimate(network: nn.Module, tracer: tracing.Tracer, kept: Kept, *, batch: int, itemsize: int) -> MemoryEstimate:
    """Bytes for a batch, with `itemsize` bytes for each floating-point value."""
    parameters = sum(value.numel() for value in network.parameters()) * itemsize
    weights = parameters + sum(_bytes(value, itemsize) for value in network.buffers())
    running = _peak(list(tracer.memory.values()), itemsize) * batch
    training = kept.bytes(batch, itemsize)
    return MemoryEstimate(
        weights=weights,
        inference_activations=running,
        inference=weights + running,
        training_activations=training,
        gradients=parameters,
        momentum=parameters,
        training=weights + 2 * parameters + training,
    )


def kept_for_backward(network: nn.Module, shape: tuple[int, int, int], *, batch: int) -> Kept:
    """What PyTorch holds after a forward pass of images `(C, H, W)` in training, beside parameters and buffers.

    `network` is on the meta device, in training mode.
    """
    # BatchNorm refuses to train on a single value for each channel.
    return kept_of(network, torch.empty(max(batch, 2), *shape, device="meta"))


def kept_of(network: nn.Module, images: Tensor) -> Kept:
    """The same of `images (N, C, H, W)` on whatever device `network` is on."""
    known = {tracing.storage_of(value) for value in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept.setdefault(tracing.storage_of(value), value)
        return value

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        network(images)
    return Kept(len(images), tuple(value for place, value in kept.items() if place not in known))


def _peak(pieces: Sequence[Memory], itemsize: int) -> int:
    """Most bytes needed at the same moment."""
    changes: Counter[int] = Counter()
    for piece in pieces:
        size = piece.values * (piece.bytes_each or itemsize)
        changes[piece.first] += size
        changes[piece.last + 1] -= size
    held = most = 0
    for moment in sorted(changes):
        held += changes[moment]
        most = max(most, held)
    return most


def _bytes(value: Tensor, itemsize: int) -> int:
    return value.numel() * _size_of(value, itemsize)


def _size_of(value: Tensor, itemsize: int) -> int:
    return itemsize if value.is_floating_point() else value.element_size()
