"""The walk through networks of timm whose modules' order is not written down, by what timm itself offers for it.

Where a network gives no intermediates, it has one stage, the whole of it.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from app import errors
from app.backbones.chain import AuxiliaryHead
from app.backbones.walk import Part, Passed, Survey, check_stage

WHOLE = "whole"


@dataclass(frozen=True)
class IntermediatesWalk:
    """A walk over `stages`; `at` is the stage where the network is cut, None for all of it."""

    stages: tuple[str, ...]
    size: int
    """Side in pixels of an image that the network takes."""
    at: str | None = None
    auxiliary: tuple[AuxiliaryHead, ...] = ()

    @property
    def can_enter(self) -> bool:
        return False

    def features(self, network: nn.Module, images: Tensor, *, auxiliary: bool) -> Passed:
        if self.at is not None:
            return Passed(_mean(self.activations(network, images, self.at)))
        whole: Any = network
        before_logits = whole.forward_head(whole.forward_features(images), pre_logits=True)
        return Passed(torch.flatten(before_logits, 1))

    def activations(self, network: nn.Module, images: Tensor, stage: str) -> Tensor:
        (found,) = self._intermediates(network, images, [self._place(stage)])
        return found

    def onward(self, network: nn.Module, activations: Tensor, stage: str, *, auxiliary: bool) -> Passed:
        raise errors.Invalid(
            "networks of timm outside of the catalogue cannot be entered between their stages", code="no_tail"
        )

    def survey(self, network: nn.Module, images: Tensor) -> Survey:
        whole: Any = network
        if self.at is not None or self.stages == (WHOLE,):
            places = [*range(len(self.stages))]
            found = tuple(_mean(maps) for maps in self._intermediates(network, images, places))
            return Survey(found, found[-1] if self.at else self.features(network, images, auxiliary=False).features)
        last, found = whole.forward_intermediates(images, output_fmt="NCHW")
        features = torch.flatten(whole.forward_head(last, pre_logits=True), 1)
        return Survey(tuple(_mean(activations) for activations in found), features)

    def part(self, network: nn.Module, stage: str) -> Part:
        """What the activations of `stage` depend on, found by asking for their gradient."""
        used = self._used(network, stage)
        modules: list[str] = []
        for name, module in network.named_modules():
            own = [f"{name}.{inner}" for inner, _ in module.named_parameters()]
            if own and name and used.issuperset(own) and not name.startswith(tuple(f"{other}." for other in modules)):
                modules.append(name)
        inside = tuple(f"{name}." for name in modules)
        return Part(modules=tuple(modules), parameters=tuple(sorted(n for n in used if not n.startswith(inside))))

    def cut(self, network: nn.Module, stage: str) -> "IntermediatesWalk":
        place = self._place(stage)
        if self.stages != (WHOLE,):
            prunable: Any = network
            prunable.prune_intermediate_layers([place], prune_norm=True, prune_head=True)
        return replace(self, stages=self.stages[: place + 1], at=stage)

    def without_auxiliary(self, network: nn.Module, heads: tuple[AuxiliaryHead, ...]) -> "IntermediatesWalk":
        return self

    def _place(self, stage: str) -> int:
        check_stage(stage, self.stages)
        return self.stages.index(stage)

    def _used(self, network: nn.Module, stage: str) -> set[str]:
        # A copy, as neither the network's gradients nor its modes are to change.
        probe = copy.deepcopy(network).eval().requires_grad_(requires_grad=True)
        names, parameters = zip(*probe.named_parameters(), strict=True)
        with torch.enable_grad():
            found = self.activations(probe, parameters[0].new_zeros(1, 3, self.size, self.size), stage)
            gradients = torch.autograd.grad(found.sum(), parameters, allow_unused=True)
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}

    def _intermediates(self, network: Any, images: Tensor, places: list[int]) -> tuple[Tensor, ...]:
        if self.stages == (WHOLE,):
            return (network.forward_features(images),)
        found = network.forward_intermediates(
            images, indices=places, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )
        return tuple(found)


def _mean(activations: Tensor) -> Tensor:
    """Of maps `(N, C, H, W)` or tokens `(N, T, C)` over all places."""
    places = {4: [2, 3], 3: [1], 2: []}[activations.ndim]
    return activations.mean(places) if places else activations
