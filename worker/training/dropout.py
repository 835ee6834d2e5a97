"""Dropout that draws its random numbers quickly on CPUs.

Torch draws a number of its own for each value, which takes a third of a step of SqueezeNet's last stage. Here 16 bits
decide on a value, so one draw is enough for four.
"""

import torch
from torch import Tensor, nn

_LEVELS = 2**16
_VALUES_A_DRAW = 4


class QuickDropout(nn.Dropout):
    """Drops values with a probability that is `p` to 16 bits, and scales the others so that their mean stays."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        dropped = round(self.p * _LEVELS)
        if not self.training or not 0 < dropped < _LEVELS or input.device.type != "cpu":
            return super().forward(input)
        return input * _kept(input, dropped).mul_(_LEVELS / (_LEVELS - dropped))


def quicken(network: nn.Module) -> None:
    """Let `network` draw quickly in its dropouts; its names and values stay as they are."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, QuickDropout(child.p).train(child.training))


def _kept(like: Tensor, dropped: int) -> Tensor:
    """1 for what is kept, 0 for `dropped` out of `_LEVELS`, as `like` in shape, type and order of memory."""
    draws = torch.empty(-(-like.numel() // _VALUES_A_DRAW), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: like.numel()] >= dropped - _LEVELS // 2
    # Each number is as good as any other, so they may lie in the order in which `like` lies in memory.
    return torch.empty_like(like).copy_(_in_order_of(like, kept))


def _in_order_of(like: Tensor, flat: Tensor) -> Tensor:
    shape = like.shape
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return flat.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
    return flat.view(shape)
