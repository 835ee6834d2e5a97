"""How each backbone is built: by torchvision, by timm, or here. What it is made of is in the catalogue."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from app.backbones.catalogue import Backbone, Weights
from app.backbones.formnet import FormNet
from app.backbones.intermediates import IntermediatesWalk
from app.backbones.tinynet import TinyNet
from app.backbones.walk import ChainWalk, Walk
from app.backbones.written.alexnet import ZFNET_512_WIDTHS, AlexNet2012, ZFNet
from app.backbones.written.inception_v1 import InceptionV1
from app.backbones.written.inception_v2 import InceptionV2
from app.libraries import timm, torchvision_models

PUBLISHED_CLASSES = 1000

_WRITTEN: dict[str, Callable[[bool], nn.Module]] = {
    "formnet": lambda _auxiliary: FormNet(PUBLISHED_CLASSES),
    "tinynet": lambda _auxiliary: TinyNet(PUBLISHED_CLASSES),
    "alexnet_2012": lambda _auxiliary: AlexNet2012(PUBLISHED_CLASSES),
    "alexnet_2012_ungrouped": lambda _auxiliary: AlexNet2012(PUBLISHED_CLASSES, groups=1),
    "zfnet": lambda _auxiliary: ZFNet(PUBLISHED_CLASSES),
    "zfnet_512": lambda _auxiliary: ZFNet(PUBLISHED_CLASSES, widths=ZFNET_512_WIDTHS),
    "inception_v1": lambda auxiliary: InceptionV1(PUBLISHED_CLASSES, auxiliary=auxiliary),
    "inception_v2": lambda _auxiliary: InceptionV2(PUBLISHED_CLASSES),
}
_INCEPTIONS = ("googlenet", "inception_v3")
_OLD_DENSENET_NAME = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.")


def make(backbone: Backbone, *, auxiliary: bool, size: int | None = None) -> nn.Module:
    """The network for the published classes, with random values.

    With its auxiliary heads or without; for images of `size` pixels, where the network works on one size only.
    """
    return _MAKERS[backbone.source](backbone, auxiliary, size or backbone.input_size)


class Undrawn(TorchFunctionMode):
    """Inside, tensors are zero where random values would be drawn for them: to draw those can take longer than to run
    the network. Zeros, since what is out of bounds would be drawn again and again."""

    _DRAWING = (
        Tensor.normal_,
        Tensor.uniform_,
        init.normal_,
        init.uniform_,
        init.kaiming_uniform_,
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in self._DRAWING:
            drawn: Tensor = args[0] if args else given["tensor"]
            with torch.no_grad():
                return drawn.zero_()
        return func(*args, **given)


def hollow(backbone: Backbone, *, auxiliary: bool, size: int | None = None) -> nn.Module:
    """`make` for values that are assigned afterwards: where possible without memory and time for random ones."""
    # RegNet computes its widths with tensors, and networks of timm keep some buffers out of their state.
    somewhere = backbone.family == "RegNet" or backbone.chain is None
    with torch.device("cpu" if somewhere else "meta"), Undrawn():
        return make(backbone, auxiliary=auxiliary, size=size)


def pretrained(backbone: Backbone, weights: Weights, state: Mapping[str, Tensor]) -> nn.Module:
    """The network with the published values `state`, which are copied. Raises `RuntimeError` where they do not fit."""
    if backbone.source == "timm":
        return _timm_pretrained(backbone, weights, state)
    network = hollow(backbone, auxiliary=True, size=weights.preprocessing.crop)
    head = None
    if not weights.classes:
        head = backbone.head
        remove_head(backbone, network)
    copies = {_present_name(name): value.clone() for name, value in state.items() if not _is_of(head, name)}
    return load(network, copies, versions=getattr(state, "_metadata", None))


def load(network: nn.Module, state: Mapping[str, Tensor], *, versions: Mapping[str, object] | None) -> nn.Module:
    """`network` with the values of `state` themselves. Raises `RuntimeError` where they do not fit.

    `versions` is what torch notes beside a state dict, None where it is lost.
    """
    network.load_state_dict(versioned(network, state, versions=versions), strict=True, assign=True)
    return network


def versioned(
    network: nn.Module, state: Mapping[str, Tensor], *, versions: Mapping[str, object] | None = None
) -> Mapping[str, Tensor]:
    """`state` as `load_state_dict` of `network` takes it, with what torch notes beside it where that is lost."""
    if versions is None:
        # MNASNet alone refuses values whose version nobody tells.
        versions = {
            name: {"version": module._version}
            for name, module in network.named_modules()
            if isinstance(module, torchvision_models.MNASNet)
        }
    noted = _Versioned(state)
    noted._metadata = versions
    return noted


def walk(backbone: Backbone, *, size: int | None = None) -> Walk:
    """The way through the network of `backbone`."""
    if backbone.chain is not None:
        return ChainWalk(backbone.chain)
    return IntermediatesWalk(stages=tuple(stage.name for stage in backbone.stages), size=size or backbone.input_size)


def remove_head(backbone: Backbone, network: nn.Module) -> None:
    """Remove the layer of `network` that is tied to the old classes."""
    if backbone.head is None:
        network.reset_classifier(0)  # type: ignore[operator]
    else:
        parent, _, name = backbone.head.rpartition(".")
        network.get_submodule(parent).register_module(name, None)


class _Versioned(dict[str, Tensor]):
    """A state dict with what torch notes beside it."""

    _metadata: Mapping[str, object]


def _from_torchvision(backbone: Backbone, auxiliary: bool, size: int) -> nn.Module:
    if backbone.name in _INCEPTIONS:
        # The published weights expect inputs scaled to -1..1, which `:transform_input` does.
        network = torchvision_models.get_model(
            backbone.name, weights=None, aux_logits=auxiliary, transform_input=True, init_weights=True
        )
    elif backbone.fixed_size:
        network = torchvision_models.get_model(backbone.name, weights=None, image_size=size)
    else:
        network = torchvision_models.get_model(backbone.name, weights=None)
    return cast("nn.Module", network)


def _from_timm(backbone: Backbone, _auxiliary: bool, size: int) -> nn.Module:
    # Only networks of one size can be told which.
    given = {"img_size": size} if backbone.fixed_size and size != backbone.input_size else {}
    return cast("nn.Module", timm.create_model(backbone.architecture, pretrained=False, **given))


def _written(backbone: Backbone, auxiliary: bool, _size: int) -> nn.Module:
    return _WRITTEN[backbone.name](auxiliary)


_MAKERS = {"torchvision": _from_torchvision, "timm": _from_timm, "graft": _written}


def _timm_pretrained(backbone: Backbone, weights: Weights, state: Mapping[str, Tensor]) -> nn.Module:
    # By timm, which knows how the names in older files are to be read.
    network = timm.create_model(
        f"{backbone.architecture}.{weights.name}", pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}
    )
    network.pretrained_cfg.pop("state_dict", None)
    return cast("nn.Module", network)


def _is_of(module: str | None, name: str) -> bool:
    """Whether a value belongs to the module."""
    return module is not None and name.startswith(f"{module}.")


def _present_name(name: str) -> str:
    """Published DenseNets still have the names of an older torchvision."""
    return _OLD_DENSENET_NAME.sub(r"\1\2.", name)
