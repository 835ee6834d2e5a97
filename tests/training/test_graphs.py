"""Batches that are computed by repeating what was captured; without a GPU, which alone can capture, by a stand-in."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from worker.training import graphs
from worker.training.graphs import Replayed


@dataclass
class Again:
    """Repeats by computing anew into the gradients that there were at first."""

    parameters: list[nn.Parameter]
    captured: int = 0
    forgotten: int = 0
    fails_with: type[Exception] | None = None

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        if self.fails_with is not None:
            raise self.fails_with("operation not permitted when stream is capturing")
        run()
        first = [parameter.grad for parameter in self.parameters]

        def replay() -> None:
            run()
            for parameter, gradient in zip(self.parameters, first, strict=True):
                if gradient is not None and parameter.grad is not None:
                    gradient.copy_(parameter.grad)
                parameter.grad = None

        return replay

    def forget(self) -> None:
        self.forgotten += 1


@dataclass
class Line:
    """A layer, and one that has no part in the loss."""

    layers: nn.ModuleList = field(default_factory=lambda: nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)]))
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    """In the same place each time, as what is captured leaves it."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.layers.parameters())

    def compute(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(self.layers[0](inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return self.loss.copy_(loss.detach())

    def clear(self) -> None:
        self.layers.zero_grad()


def batch(size: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, generator=draw), torch.randint(2, (size,), generator=draw)


def test_what_is_repeated_gives_the_loss_and_the_gradients_of_its_own_batch() -> None:
    line = Line()
    capture = Again(line.parameters)
    replayed = Replayed(line.compute, line.parameters, capture)

    for seed in range(12):
        images = batch(4 if seed % 3 else 5, seed)
        line.clear()
        found = replayed(*images).clone()
        gradients = [None if one.grad is None else one.grad.clone() for one in line.parameters]
        line.clear()
        assert found == line.compute(*images)
        for gradient, parameter in zip(gradients, line.parameters, strict=True):
            assert (gradient is None) == (parameter.grad is None)
            assert gradient is None or parameter.grad is None or torch.equal(gradient, parameter.grad)
    assert capture.captured == replayed.captured == 2  # batches of four and of five


def test_the_first_batches_of_a_shape_are_computed_as_usual_and_so_are_those_after_it_was_forgotten() -> None:
    line = Line()
    capture = Again(line.parameters)
    replayed = Replayed(line.compute, line.parameters, capture)

    def captured_after(batches: int) -> int:
        for seed in range(batches):
            line.clear()
            replayed(*batch(4, seed))
        return capture.captured

    assert captured_after(graphs.BEFORE) == 0
    assert captured_after(1) == 1
    replayed.forget()
    assert capture.forgotten == 1
    assert captured_after(graphs.BEFORE) == 1
    assert captured_after(5) == 2


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_captured_is_computed_as_usual_from_then_on(error: type[Exception]) -> None:
    line = Line()
    capture = Again(line.parameters, fails_with=error)
    replayed = Replayed(line.compute, line.parameters, capture)

    for seed in range(8):
        line.clear()
        found = replayed(*batch(4, seed)).clone()
        assert line.parameters[0].grad is not None
        line.clear()
        assert found == line.compute(*batch(4, seed))
    assert capture.captured == 1


def test_what_was_captured_is_given_away_where_memory_is_short_and_nothing_is_captured_any_more() -> None:
    line = Line()
    capture = Again(line.parameters)
    replayed = Replayed(line.compute, line.parameters, capture)
    assert not replayed.stop()  # there is nothing to give away

    replayed = Replayed(line.compute, line.parameters, capture)
    for seed in range(graphs.BEFORE + 1):
        line.clear()
        replayed(*batch(4, seed))
    assert replayed.captured == 1
    assert replayed.stop()
    assert (replayed.captured, replayed.stop()) == (0, False)
    for seed in range(2 * graphs.BEFORE):
        line.clear()
        replayed(*batch(4, seed))
    assert capture.captured == 1
