"""Features taken from several depths of a network at once, and where the features of a classifier come from at all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from app import errors
from app.backbones.chain import AuxiliaryHead
from app.backbones.walk import Part, Passed, Survey, Walk
from app.profile import HEAD

COLUMNS = "selected_columns"
"""The buffer of the network that says which features are taken."""


@dataclass(frozen=True)
class Outlet:
    """Where the features come from: what the network's own classifier would get, if nothing is given."""

    stage: str | None = None
    """The network is cut behind it."""
    taps: tuple[str, ...] = ()
    """Depths, stages in order and `HEAD` last, whose pooled features are put side by side; the network's values say
    which columns of them are taken. It is cut behind the last one."""


WHOLE = Outlet()
"""What the network's own classifier would get."""


@dataclass(frozen=True)
class TapsWalk:
    """The walk `inner`, whose features are selected ones of all `taps`."""

    inner: Walk
    taps: tuple[str, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        return self.inner.stages

    @property
    def auxiliary(self) -> tuple[AuxiliaryHead, ...]:
        return self.inner.auxiliary

    @property
    def can_enter(self) -> bool:
        return False

    def features(self, network: nn.Module, images: Tensor, *, auxiliary: bool) -> Passed:
        return Passed(self._selected(network, self.inner.survey(network, images)))

    def activations(self, network: nn.Module, images: Tensor, stage: str) -> Tensor:
        return self.inner.activations(network, images, stage)

    def onward(self, network: nn.Module, activations: Tensor, stage: str, *, auxiliary: bool) -> Passed:
        raise errors.Invalid("what comes before a stage is needed for the features of all stages", code="no_tail")

    def survey(self, network: nn.Module, images: Tensor) -> Survey:
        found = self.inner.survey(network, images)
        return Survey(found.stages, self._selected(network, found))

    def part(self, network: nn.Module, stage: str) -> Part:
        return self.inner.part(network, stage)

    def cut(self, network: nn.Module, stage: str) -> Walk:
        return self.inner.cut(network, stage)

    def without_auxiliary(self, network: nn.Module, heads: tuple[AuxiliaryHead, ...]) -> "TapsWalk":
        return replace(self, inner=self.inner.without_auxiliary(network, heads))

    def _selected(self, network: nn.Module, survey: Survey) -> Tensor:
        depths = {**dict(zip(self.inner.stages, survey.stages, strict=True)), HEAD: survey.features}
        return torch.cat([depths[tap] for tap in self.taps], dim=1).index_select(1, network.get_buffer(COLUMNS))


def tap(network: nn.Module, walk: Walk, taps: Sequence[str], columns: Tensor) -> TapsWalk:
    """The walk to these `columns (F,) int64` of the features of `taps` side by side.

    What lies behind the last of them is removed from `network`. Raises `UnknownName`.
    """
    inner = walk if taps[-1] == HEAD else walk.cut(network, taps[-1])
    known = (*inner.stages, HEAD)
    for name in taps:
        if name not in known:
            raise errors.UnknownName("stage", name, known)
    network.register_buffer(COLUMNS, columns)
    return TapsWalk(inner, tuple(taps))
