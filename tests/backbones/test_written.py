"""The networks that are written from their papers learn."""

import pytest
import torch
from torch.nn import functional

from app.backbones import catalogue, classifier


def coloured(size: int, *, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images `(count, 3, size, size) uint8`, more red or more blue, and which of the two."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.arange(count) % 2
    images = torch.randint(0, 120, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), 2 * targets] += 120
    return images, targets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rate", "batches", "epochs"),
    [
        ("alexnet_2012", 3e-4, 3, 3),  # its dropout is too much for a single batch
        ("inception_v1", 1e-4, 1, 5),
    ],
)
def test_a_written_network_learns(name: str, rate: float, batches: int, epochs: int) -> None:
    backbone = catalogue.find(name)
    network = classifier.build(backbone, 2, state=None, seed=1).train()
    images, targets = coloured(backbone.input_size, count=8 * batches)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _epoch in range(epochs):
            total = 0.0
            for part in torch.arange(8 * batches).reshape(batches, 8):
                outputs = network(images[part])
                loss = functional.cross_entropy(outputs.logits, targets[part])
                total += loss.item() / batches
                loss = loss + sum(0.3 * functional.cross_entropy(logits, targets[part]) for logits in outputs.auxiliary)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            losses.append(total)
    assert losses[-1] < 0.75 * losses[0]
