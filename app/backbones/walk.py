"""How a network is gone through: as a whole, up to a stage, on from a stage, with all stages on the way.

A walk is data and holds no network: the network stays the library's own, with the names its published values have.
`ChainWalk` follows a chain of the catalogue. Nothing here changes how a library's modules work.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from app import errors
from app.backbones.chain import AuxiliaryHead, Chain, Layout, Stage


@dataclass(frozen=True)
class Passed:
    """Features `(N, feature_dim)`, and the logits `(N, classes)` of each auxiliary head that was asked."""

    features: Tensor
    auxiliary: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What the images are at every depth of a network."""

    stages: tuple[Tensor, ...]
    """Of each stage the mean over all places, `(N, channels)`."""
    features: Tensor
    """What the classifier gets, `(N, feature_dim)`."""


@dataclass(frozen=True)
class Part:
    """Names inside a network: modules that count as a whole, and parameters that lie outside of them."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...]

    def holds(self, parameter: str) -> bool:
        """Whether the network's parameter of this name belongs to it."""
        return parameter in self.parameters or parameter.startswith(tuple(f"{name}." for name in self.modules))


class Walk(Protocol):
    """What can be done with a network, stage by stage; images are `(N, 3, H, W) float32`.

    Raises `UnknownName` for a stage that is none of `stages`.
    """

    @property
    def stages(self) -> tuple[str, ...]:
        """Names, in order."""

    @property
    def auxiliary(self) -> tuple[AuxiliaryHead, ...]: ...

    @property
    def can_enter(self) -> bool:
        """Whether `onward` works."""

    def features(self, network: nn.Module, images: Tensor, *, auxiliary: bool) -> Passed:
        """Through the whole network."""

    def activations(self, network: nn.Module, images: Tensor, stage: str) -> Tensor:
        """What comes out of `stage`, in the network's own layout."""

    def onward(self, network: nn.Module, activations: Tensor, stage: str, *, auxiliary: bool) -> Passed:
        """From what came out of `stage` to the end. Raises `Invalid` where the network cannot be entered there."""

    def survey(self, network: nn.Module, images: Tensor) -> "Survey":
        """The features, and those of each stage on the way, in one pass."""

    def part(self, network: nn.Module, stage: str) -> Part:
        """What belongs to `stage` and those before it."""

    def cut(self, network: nn.Module, stage: str) -> "Walk":
        """The walk that ends with `stage` and the mean over all places; the rest is removed from `network`."""

    def without_auxiliary(self, network: nn.Module, heads: tuple[AuxiliaryHead, ...]) -> "Walk":
        """The walk without these heads, which are removed from `network`."""


def outside(network: nn.Module, part: Part, *, but: Sequence[str]) -> Part:
    """What of `network` has values that are neither in `part` nor in the modules `but`."""
    modules: list[str] = []
    parameters: list[str] = []
    apart = tuple(f"{name}." for name in but)
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        learnt = [f"{prefix}{inner}" for inner, _ in module.named_parameters(recurse=False)]
        own = [*learnt, *(f"{prefix}{inner}" for inner, _ in module.named_buffers(recurse=False))]
        found = [each for each in own if not part.holds(each) and not each.startswith(apart)]
        if name and own and found == own:
            modules.append(name)
        else:
            parameters += [each for each in learnt if each in found]
    return Part(tuple(modules), tuple(parameters))


@dataclass(frozen=True)
class _Glue:
    """What a marked step does, and the parameters of the network that it uses."""

    run: Callable[[nn.Module, Tensor], Tensor]
    parameters: tuple[str, ...] = ()


def _to_minus_one_and_one(_network: nn.Module, x: Tensor) -> Tensor:
    # The published weights of torchvision's Inceptions expect images scaled to -1..1. Channel by channel as there,
    # or the results would differ in the last bit.
    red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
    green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
    blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
    return torch.cat((red, green, blue), 1)


def _class_token(network: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([network.get_parameter("class_token").expand(x.shape[0], -1, -1), x], dim=1)


_GLUE = {
    ":flatten": _Glue(lambda _network, x: torch.flatten(x, 1)),
    ":relu": _Glue(lambda _network, x: functional.relu(x)),
    ":transform_input": _Glue(_to_minus_one_and_one),
    # A Vision Transformer: maps to tokens, the class token in front, positions added; at the end the class token.
    ":tokens": _Glue(lambda _network, x: torch.flatten(x, 2).transpose(1, 2)),
    ":class_token": _Glue(_class_token, ("class_token",)),
    ":position": _Glue(
        lambda network, x: x + network.get_parameter("encoder.pos_embedding"), ("encoder.pos_embedding",)
    ),
    ":first_token": _Glue(lambda _network, x: x[:, 0]),
    ":mean_nchw": _Glue(lambda _network, x: x.mean([2, 3])),
    ":mean_nhwc": _Glue(lambda _network, x: x.mean([1, 2])),
    ":mean_tokens": _Glue(lambda _network, x: x[:, 1:].mean(1)),
}


@dataclass(frozen=True)
class ChainWalk:
    """A walk along a chain of the catalogue."""

    chain: Chain

    @property
    def stages(self) -> tuple[str, ...]:
        return self.chain.names

    @property
    def auxiliary(self) -> tuple[AuxiliaryHead, ...]:
        return self.chain.auxiliary

    @property
    def can_enter(self) -> bool:
        return True

    def features(self, network: nn.Module, images: Tensor, *, auxiliary: bool) -> Passed:
        return self._finish(network, images, self.chain.stages, auxiliary=auxiliary)

    def activations(self, network: nn.Module, images: Tensor, stage: str) -> Tensor:
        x = images
        for step in self._steps_to(stage):
            x = _run(network, step, x)
        return x

    def onward(self, network: nn.Module, activations: Tensor, stage: str, *, auxiliary: bool) -> Passed:
        return self._finish(network, activations, self.chain.stages[self._place(stage) + 1 :], auxiliary=auxiliary)

    def each(self, network: nn.Module, images: Tensor) -> Iterator[Tensor]:
        """What comes out of each stage; to be used at once, since the next step may write over its input."""
        x = images
        for stage in self.chain.stages:
            for step in stage.steps:
                x = _run(network, step, x)
            yield x

    def survey(self, network: nn.Module, images: Tensor) -> Survey:
        found, x = [], images
        for x in self.each(network, images):
            found.append(_run(network, _mean(self.chain.layout), x))
        for step in self.chain.pool:
            x = _run(network, step, x)
        return Survey(tuple(found), x)

    def part(self, network: nn.Module, stage: str) -> Part:
        steps = list(self._steps_to(stage))
        return Part(
            modules=tuple(step for step in steps if step not in _GLUE),
            parameters=tuple(name for step in steps if step in _GLUE for name in _GLUE[step].parameters),
        )

    def cut(self, network: nn.Module, stage: str) -> "ChainWalk":
        kept = self.part(network, stage)
        _keep_only(network, "", kept)
        stages = self.chain.stages[: self._place(stage) + 1]
        return ChainWalk(replace(self.chain, stages=stages, pool=(_mean(self.chain.layout),), auxiliary=()))

    def without_auxiliary(self, network: nn.Module, heads: tuple[AuxiliaryHead, ...]) -> "ChainWalk":
        for head in heads:
            setattr(network, head.module, None)
        return ChainWalk(
            replace(self.chain, auxiliary=tuple(head for head in self.chain.auxiliary if head not in heads))
        )

    def _place(self, stage: str) -> int:
        check_stage(stage, self.stages)
        return self.stages.index(stage)

    def _steps_to(self, stage: str) -> Iterator[str]:
        for part in self.chain.stages[: self._place(stage) + 1]:
            yield from part.steps

    def _finish(self, network: nn.Module, x: Tensor, stages: tuple[Stage, ...], *, auxiliary: bool) -> Passed:
        heads = {head.after: head.module for head in self.chain.auxiliary} if auxiliary else {}
        logits = []
        for step in (*(step for stage in stages for step in stage.steps), *self.chain.pool):
            x = _run(network, step, x)
            if step in heads:
                logits.append(network.get_submodule(heads[step])(x))
        return Passed(x, tuple(logits))


def check_stage(stage: str, stages: tuple[str, ...]) -> None:
    """Raises `UnknownName` for a stage that is not among `stages`."""
    if stage not in stages:
        raise errors.UnknownName("stage", stage, stages)


def _run(network: nn.Module, step: str, x: Tensor) -> Tensor:
    glue = _GLUE.get(step)
    result: Tensor = network.get_submodule(step)(x) if glue is None else glue.run(network, x)
    return result


def _mean(layout: Layout) -> str:
    return f":mean_{layout}"


def _keep_only(module: nn.Module, prefix: str, kept: Part) -> None:
    """Remove what is neither among `kept`, nor inside of it, nor around it."""
    for name, _ in list(module.named_parameters(recurse=False)):
        if f"{prefix}{name}" not in kept.parameters:
            module.register_parameter(name, None)
    for name, child in list(module.named_children()):
        full = f"{prefix}{name}"
        if full in kept.modules:
            continue
        if any(other.startswith(f"{full}.") for other in (*kept.modules, *kept.parameters)):
            _keep_only(child, f"{full}.", kept)
        else:
            delattr(module, name)
