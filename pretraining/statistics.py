"""The statistics of BatchNorm layers, measured anew on given images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def measure(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every BatchNorm layer of `network` the mean of its statistics over `batches`; leave it in evaluation mode.

    Needed after the averaging of weights (Izmailov et al. 2018, section 3.2), and where images of another size come.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for batch in batches:
        network(batch)
    network.eval()
