"""Single steps of a network on its way."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier, Outputs
from app.descent import Descent
from tests.training.fitted import DESCENT, build
from worker.training.learner import Criterion, Learner


def learner(network: Classifier, descent: Descent = DESCENT) -> Learner:
    return Learner(network, descent, Criterion(0.0, None), lambda network, inputs: network(inputs))


def images(count: int, side: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    shown, targets = images(18, 32), torch.arange(18) % 2
    states = []
    for size in (18, 6):
        # In evaluation mode, since BatchNorm's statistics are those of a batch.
        network = build().eval()
        learner(network).step(
            [(shown[place : place + size], targets[place : place + size]) for place in range(0, 18, size)],
            rate=0.1,
            number=0,
        )
        states.append(network.state_dict())
    assert not torch.equal(states[0]["head.weight"], build().state_dict()["head.weight"])
    for name, value in states[0].items():
        assert torch.allclose(states[1][name], value, rtol=1e-4, atol=1e-6), name


WEIGHTS = torch.tensor([0.525, 10.5])
"""Of twenty images of the first label to one of the second."""


def loss(criterion: Criterion, logits: Tensor, targets: Tensor) -> float:
    return float(criterion(Outputs(logits, ()), targets))


def best_share(criterion: Criterion, targets: Tensor) -> float:
    """The probability of the second of two labels that has the least loss."""
    shares = [place / 1000 for place in range(1, 1000)]
    return min(shares, key=lambda share: loss(criterion, torch.tensor([[1 - share, share]]).log(), targets))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_smoothed_labels_are_as_smooth_for_every_class_whatever_it_counts(weights: Tensor | None) -> None:
    for label, share in ((0, 0.05), (1, 0.95)):
        for targets in (torch.tensor([label]), functional.one_hot(torch.tensor([label]), 2).float()):
            assert best_share(Criterion(0.1, weights), targets) == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_counts_with_its_weight_also_in_a_mixed_image(smoothing: float) -> None:
    logits = torch.randn(1, 2, generator=torch.Generator().manual_seed(0))
    plain, counted = Criterion(smoothing, None), Criterion(smoothing, WEIGHTS)
    first, second = (float(WEIGHTS[label]) * loss(plain, logits, torch.tensor([label])) for label in (0, 1))
    assert loss(counted, logits, torch.tensor([0])) == pytest.approx(first)
    assert loss(counted, logits, torch.tensor([1])) == pytest.approx(second)
    assert loss(counted, logits, torch.tensor([[0.3, 0.7]])) == pytest.approx(0.3 * first + 0.7 * second)
    assert loss(counted, logits.expand(2, -1), torch.arange(2)) == pytest.approx((first + second) / 2)


def test_a_batch_that_is_all_wrong_does_not_throw_a_network_without_normalisation_away() -> None:
    network = classifiers.build(catalogue.find("squeezenet1_1"), 2, state=None, seed=0).eval()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    with torch.no_grad():
        network.head.weight.mul_(1e6)
    sure = network(images(4, 64)).logits.argmax(dim=1)
    learner(network).step([(images(4, 64), 1 - sure)], rate=0.01, number=0)
    moved = [
        (value.detach() - old).norm()
        for (name, value), old in zip(network.named_parameters(), before, strict=True)
        if not name.startswith("head.")
    ]
    # At most 10 along all gradients together, nearly twice that with Nesterov's momentum, and the weights' decay.
    assert 0 < float(torch.stack(moved).norm()) < 0.01 * 20


def test_weights_that_are_pulled_to_their_start_stay_closer_to_it_and_vectors_are_free() -> None:
    shown, targets = images(12, 32), torch.arange(12) % 2
    distances = []
    for pull in (0.0, 5.0):
        network = build().eval()
        start = {name: value.detach().clone() for name, value in network.named_parameters()}
        one = learner(network, replace(DESCENT, weight_decay=pull, decay_to="start"))
        for number in range(4):
            one.step([(shown, targets)], rate=0.05, number=number)
        moved = {name: float((value.detach() - start[name]).norm()) for name, value in network.named_parameters()}
        distances.append((moved["head.weight"], moved["head.bias"]))
    assert 0 < distances[1][0] < 0.8 * distances[0][0]
    assert distances[1][1] > 0


def test_what_has_not_moved_is_not_pulled_anywhere() -> None:
    network = build().eval()
    begun = network.head.weight.detach().clone()
    shown, targets = images(4, 32), torch.arange(4) % 2
    learner(network, replace(DESCENT, weight_decay=1.0, decay_to="start")).step(
        [(shown, targets)], rate=1e-12, number=0
    )
    assert torch.equal(network.head.weight, begun)
