"""Networks with values as after training, without any download, and small images for them."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from app.backbones import catalogue, networks
from app.backbones.anatomy import Anatomy
from app.backbones.catalogue import Backbone

REPRESENTATIVES = (
    "tinynet",
    "alexnet",
    "formnet",
    "alexnet_2012",
    "zfnet",
    "vgg11_bn",
    "squeezenet1_1",
    "googlenet",
    "inception_v1",
    "inception_v2",
    "inception_v3",
    "inception_v4",
    "resnet18",
    "regnet_y_400mf",
    "densenet121",
    "mobilenetv1_100",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenetv4_conv_small",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "ghostnet_100",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_32",
    "swin_t",
    "swin_v2_t",
)
"""At least one of each way that a network is described, and of each family but ResNeXt and Wide ResNet, which are
ResNets of other widths."""

_HEAVY = 30_000_000
_TABLE = 1_048_573
"""A prime, so that no two filters have the same values."""


@cache
def heavy(backbone: Backbone) -> bool:
    """Whether it takes a laptop more than a moment to draw the values of the network and run it."""
    return backbone.name not in REPRESENTATIVES and (
        backbone.parameters > _HEAVY or (backbone.fixed_size and backbone.input_size > 227)
    )


def images(backbone: Backbone, count: int = 2, size: int | None = None) -> Tensor:
    """Images `(count, 3, H, W) uint8` of `size`: as small as the network and its auxiliary head allow, if not given."""
    if size is not None:
        pass
    elif backbone.fixed_size or backbone.auxiliary:
        size = backbone.input_size
    elif backbone.family == "Swin Transformer":
        size = 64
    else:
        size = max(backbone.min_size, 64)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def live_in(network: nn.Module) -> None:
    """Give BatchNorm layers values as after training."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)


def library_network(name: str, size: int | None = None) -> nn.Module:
    """The network as its library makes it, with auxiliary heads, in evaluation mode, with made-up values.

    For images of `size` pixels, where it works on one size only.
    """
    with networks.Undrawn():
        network = networks.make(catalogue.find(name), auxiliary=True, size=size)
    _fill(network)
    live_in(network)
    return network.eval()


def _fill(network: nn.Module) -> None:
    """Give the parameters values of the usual size, all from one table of normal ones."""
    table = torch.randn(_TABLE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for place, parameter in enumerate(network.parameters()):
            own = table[1009 * place % (_TABLE // 2) :]
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            for part in torch.split(parameter.view(-1), len(own)):
                torch.mul(own[: len(part)], scale, out=part)
        for layer in network.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.weight.add_(1.0)


def published_state(backbone: Backbone) -> dict[str, Tensor]:
    """A state dict as it is published for `backbone`, with made-up values."""
    return library_network(backbone.name).state_dict()


def close(one: Tensor, other: Tensor) -> bool:
    """Equal within the rounding of float32, relative to the largest value.

    Not to the bit, not even for the same values: the kernels depend on where in memory they lie.
    """
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-4 * other.abs().max().clamp(min=1))


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """The same names with the same values, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


ALEXNET_LAYERS = [
    ((96, 55, 55), 34_944),
    ((256, 27, 27), 614_656),
    ((384, 13, 13), 885_120),
    ((384, 13, 13), 1_327_488),
    ((256, 13, 13), 884_992),
    ((4096,), 37_752_832),
    ((4096,), 16_781_312),
    ((1000,), 4_097_000),
]
"""Output and parameters of each layer of AlexNet 2012 without groups, for 227 pixels; what `weighted` should give."""
ALEXNET_POOLS = [(96, 27, 27), (256, 13, 13), (256, 6, 6)]


def weighted(found: Anatomy) -> list[tuple[tuple[int, ...], int]]:
    """Output and parameters of each layer that has any."""
    return [(row.output, row.parameters) for row in found.rows if row.parameters]
