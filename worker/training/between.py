"""The networks on the straight way between where a training began and where it ended."""

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from app.backbones import networks
from app.backbones.classifier import Classifier
from worker.training.learner import Diverged

SHARES = (0.25, 0.5, 0.75)
"""How far from the start those lie that are tried besides the start and the end."""


def best(
    network: Classifier,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    *,
    known: tuple[float, float],
    loss: Callable[[Classifier], float],
) -> tuple[float, dict[float, float]]:
    """How far from `start` to `end` the values of least `loss` lie, and the loss of all that were looked at; of the two
    themselves it is `known`. `network` is what those between are made of, and stays as it is."""
    losses = {0.0: known[0], 1.0: known[1], **judged(network, start, end, loss)}
    return min(sorted(losses), key=lambda share: losses[share]), losses


def judged(
    network: Classifier, start: Mapping[str, Tensor], end: Mapping[str, Tensor], loss: Callable[[Classifier], float]
) -> dict[float, float]:
    """The `loss` of networks with the values at each of `SHARES` of the way, without those for which it is no number;
    `network` is what they are made of, and stays as it is.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", 2022.
    """
    tried = copy.deepcopy(network)
    losses = {}
    for share in SHARES:
        tried.load_state_dict(networks.versioned(tried, mixed(start, end, share)))
        with suppress(Diverged):
            losses[share] = loss(tried)
    return losses


def mixed(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The values so far from `start` to `end`; counts are those of the end, but at the start itself."""
    if share == 0:
        return dict(start)
    return {
        name: torch.lerp(start[name].to(value), value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }
