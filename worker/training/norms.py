"""BatchNorm layers that have seen no image yet: how fast their running statistics become those of the images.

Some networks were published with momenta for hundreds of thousands of steps (MobileNetV3 0.01, MNASNet 0.0003). After
the few of a fine-tune, statistics that begin at 0 and 1 would still be mostly that, and evaluation goes by them.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_LEAST_MOMENTUM = 0.1
"""What torch has where nothing else is said: after 50 steps, half a per cent of what a layer began with is left."""


def hasten(network: nn.Module) -> None:
    """Let those of the layers of `network` that have still the statistics that they were made with follow the images of
    each step no slower than torch's own do. Where others come from, their statistics fit their values."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.momentum is not None and _is_new(module):
            module.momentum = max(module.momentum, _LEAST_MOMENTUM)


def _is_new(norm: _BatchNorm) -> bool:
    # Not by how many batches they have seen, which older files do not tell.
    if norm.running_mean is None or norm.running_var is None:
        return False
    return bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())
