"""Dropout drawn quickly: the same distribution, the same numbers for the same seed."""

import pytest
import torch
from torch import Tensor, nn

from app.backbones import catalogue, networks
from worker.training import dropout
from worker.training.dropout import QuickDropout

ONES = torch.ones(64, 32, 13, 13)


def drop(images: Tensor, share: float, *, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    dropped: Tensor = QuickDropout(share)(images)
    return dropped


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_each_value_is_dropped_with_this_probability_and_the_mean_stays(share: float) -> None:
    dropped = drop(ONES, share)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=5e-3)
    assert dropped[dropped > 0].numpy() == pytest.approx(1 / (1 - share), rel=1e-4)
    assert float((dropped == 0).float().mean(dim=(0, 2, 3)).std()) == pytest.approx(
        (share * (1 - share) / (ONES.numel() / 32)) ** 0.5, rel=0.5
    )


def test_neighbours_are_dropped_independently() -> None:
    kept = (drop(torch.ones(1, 200_001), 0.5) > 0).double().flatten()
    for distance in (1, 2, 3, 4):
        assert float((kept[distance:] * kept[:-distance]).mean()) == pytest.approx(0.25, abs=5e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_seed_gives_the_same_whatever_the_layout_keeps(layout: torch.memory_format) -> None:
    images = ONES.contiguous(memory_format=layout)
    one, again, other = drop(images, 0.5), drop(images, 0.5), drop(images, 0.5, seed=1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all_are_exact(share: float) -> None:
    assert torch.equal(drop(ONES, share), ONES * (1 - share))


def test_gradients_pass_where_values_do() -> None:
    images = ONES.clone().requires_grad_()
    dropped = drop(images, 0.5)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert torch.equal(images.grad, dropped.detach())


def test_a_network_keeps_its_names_and_what_it_gives_when_it_does_not_learn() -> None:
    network = networks.make(catalogue.find("alexnet_2012"), auxiliary=False).eval()
    names, images = list(network.state_dict()), torch.rand(1, 3, 227, 227)
    before = network(images)
    dropout.quicken(network)
    kinds = {type(module) for module in network.modules()}
    assert QuickDropout in kinds
    assert nn.Dropout not in kinds
    assert list(network.state_dict()) == names
    assert torch.equal(network(images), before)
