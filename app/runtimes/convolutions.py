"""Networks whose convolutions are computed by our own code, in float32 on the CPU."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn

from app import errors
from app.backbones import formnet, tinynet
from app.backbones.written import inception_v2
from app.libraries import torchvision_models
from app.runtimes import convolve
from app.runtimes.convolve import Finish, Library, Window

_HEAVY = 2**17
"""Pairs of channels and outputs from which on weights are in no cache when they are needed."""
_FEW = 8
"""Tiles of which so few make up for no weights that are read: Winograd's way has four times as many of those."""
_NONE = "it has no convolution of 3 x 3 and stride 1 whose channels fill the vectors of this CPU"


@dataclass(frozen=True)
class _Way:
    """How a convolution is computed, with its weights as that takes them."""

    compute: Callable[[Tensor, Tensor, Window, int, Finish, Tensor | None], Tensor]
    weights: Tensor


class Convolution(nn.Module):
    """Maps `(N, C, H, W) float32` to `(N, K, H', W')`, with what is `added` to that, limited to a range, at once."""

    def __init__(self, library: Library, layer: nn.Conv2d) -> None:
        super().__init__()
        self._window = _window(layer)
        self._outputs = layer.out_channels
        is_winograd = _suits(library, layer)
        ways = [_Way(library.winograd, library.transformed(layer.weight))] if is_winograd else []
        if not is_winograd or layer.in_channels * layer.out_channels >= _HEAVY:
            ways.append(_Way(library.direct, library.packed(layer.weight)))
        self._for_many, self._for_few = ways[0], ways[-1]
        self._finish = Finish(torch.zeros(self._outputs) if layer.bias is None else layer.bias.detach().clone())

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        way = self._for_few if self._window.tiles(*maps.shape) < _FEW else self._for_many
        return way.compute(maps, way.weights, self._window, self._outputs, self._finish, added)

    def limit(self, *, is_capped: bool = False) -> None:
        """Apply a ReLU, too, or where that `is_capped` a ReLU6."""
        self._finish = replace(self._finish, low=0.0, high=6.0 if is_capped else float("inf"))


class Residual(nn.Module):
    """Convolutions beside a short cut, each with a ReLU behind it."""

    def __init__(self, convolutions: Sequence[nn.Module], last: Convolution, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.inner = nn.Sequential(*convolutions)
        self.last = last
        self.shortcut = shortcut

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.last(self.inner(maps), maps if self.shortcut is None else self.shortcut(maps))
        return found


@dataclass(frozen=True)
class _Block:
    """Names of the modules in a block of a residual network."""

    convolutions: tuple[str, ...]
    norms: tuple[str, ...]
    shortcut: str

    def of(self, module: nn.Module) -> nn.Module | None:
        """`module` with the activations inside of its convolutions; None where it is not as it should be."""
        *before, last = (module.get_submodule(name) for name in self.convolutions)
        if not (isinstance(last, Convolution) and _are_gone(module, self.norms)):
            return None
        for one in (*before, last):
            if isinstance(one, Convolution):
                one.limit()
        steps = [one if isinstance(one, Convolution) else nn.Sequential(one, nn.ReLU(inplace=True)) for one in before]
        return Residual(steps, last, getattr(module, self.shortcut))


@dataclass(frozen=True)
class _WithActivation:
    """Names of the modules in a convolution that a ReLU follows."""

    convolution: str
    norm: str

    def of(self, module: nn.Module) -> nn.Module | None:
        """The same as of a block."""
        convolution = module.get_submodule(self.convolution)
        if not (isinstance(convolution, Convolution) and _are_gone(module, (self.norm,))):
            return None
        convolution.limit()
        return convolution


@cache
def _kinds() -> Mapping[type[nn.Module], _Block | _WithActivation]:
    """What is known of the modules of these classes."""
    resnet, inception = torchvision_models.resnet, torchvision_models.inception
    # As a name of the package it is the function that makes one.
    googlenet = importlib.import_module("torchvision.models.googlenet")
    return {
        resnet.BasicBlock: _Block(("conv1", "conv2"), ("bn1", "bn2"), "downsample"),
        resnet.Bottleneck: _Block(("conv1", "conv2", "conv3"), ("bn1", "bn2", "bn3"), "downsample"),
        tinynet.Block: _Block(("conv1", "conv2"), ("norm1", "norm2"), "shortcut"),
        formnet.Block: _Block(("conv1", "conv2"), ("norm1", "norm2"), "shortcut"),
        inception_v2.ConvNorm: _WithActivation("conv", "norm"),
        googlenet.BasicConv2d: _WithActivation("conv", "bn"),
        inception.BasicConv2d: _WithActivation("conv", "bn"),
    }


@torch.no_grad()
def compute_own(network: nn.Module) -> Library:
    """Let `network`, which is only run, compute its convolutions by our own code, which is returned; its values are
    copied. Raises `Unavailable` where it has none that are faster so, or there is no such code for this machine."""
    windows = [_window(layer) for layer in network.modules() if _is_plain(layer)]
    # The code is compiled when it is first asked for, which takes a second.
    if not any(window.is_small for window in windows):
        raise errors.Unavailable(_NONE, code="runtime_unavailable")
    library = convolve.library()
    if not any(_suits(library, layer) for layer in network.modules() if _is_plain(layer)):
        raise errors.Unavailable(_NONE, code="runtime_unavailable")
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if _is_plain(child):
                setattr(module, name, Convolution(library, child))
    for module in list(network.modules()):
        _limit_in(module)
        for name, child in list(module.named_children()):
            kind = _kinds().get(type(child))
            found = None if kind is None else kind.of(child)
            if found is not None:
                setattr(module, name, found)
    return library


def _suits(library: Library, layer: nn.Conv2d) -> bool:
    return library.suits_winograd(_window(layer), layer.in_channels, layer.out_channels)


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    if type(module) is not nn.Conv2d or isinstance(module.padding, str):
        return False
    return module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"


def _limit_in(module: nn.Module) -> None:
    """Activations right behind a convolution in what is passed in order."""
    if type(module).forward is not nn.Sequential.forward:
        return
    # All, and not the named ones, among which one that is passed twice is once.
    steps = [(name, child) for name, child in module._modules.items() if type(child) is not nn.Identity]
    for (_, before), (name, behind) in pairwise(steps):
        if isinstance(before, Convolution) and type(behind) in (nn.ReLU, nn.ReLU6):
            before.limit(is_capped=type(behind) is nn.ReLU6)
            setattr(module, name, nn.Identity())


def _are_gone(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether these have been folded into others."""
    return all(isinstance(module.get_submodule(name), nn.Identity) for name in names)


def _window(layer: nn.Conv2d) -> Window:
    pairs = (layer.kernel_size, layer.stride, layer.padding)
    size, stride, padding = ((int(pair[0]), int(pair[1])) for pair in pairs)
    return Window(size, stride, padding)
