"""How a network is described: an ordered chain of stages that name its own modules. Knows no torch.

A step is the dotted name of a module of the network, or the marked name of something the network does between its
modules, such as `:flatten`. `app.backbones.walk` carries the steps out and is the only place that knows what the
marked ones do.
"""

from dataclasses import dataclass
from typing import Literal

Layout = Literal["nchw", "nhwc", "tokens"]
"""How a stage's activations lie: `(N, C, H, W)`, `(N, H, W, C)` or `(N, 1 + T, C)` with a class token in front."""


@dataclass(frozen=True)
class Stage:
    """A named depth of a network, where it may be cut or frozen."""

    name: str
    steps: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AuxiliaryHead:
    """A classifier on an inner layer, at work in training only."""

    module: str
    last_layer: str
    """Name of its `nn.Linear` for the classes, inside `module`."""
    after: str
    """The step whose result it looks at."""
    pretrained: bool
    """Whether the published weights of its other layers were trained."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What a network does, in order: its stages, the steps that make features of the last one, and its head."""

    stages: tuple[Stage, ...]
    pool: tuple[str, ...]
    """From the activations of the last stage to features `(N, feature_dim)`; dense layers may be among them."""
    head: str
    """The module that turns features into logits for the published classes."""
    layout: Layout = "nchw"
    auxiliary: tuple[AuxiliaryHead, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the stages, in order."""
        return tuple(stage.name for stage in self.stages)

    @property
    def auxiliary_stages(self) -> tuple[str, ...]:
        """For each auxiliary head, the stage that it looks at."""
        return tuple(stage.name for head in self.auxiliary for stage in self.stages if head.after in stage.steps)


def span(prefix: str, first: int, last: int) -> tuple[str, ...]:
    """The modules `prefix.first` to `prefix.last`."""
    return tuple(f"{prefix}.{number}" for number in range(first, last + 1))


def spans(prefix: str, *bounds: int, names: tuple[str, ...]) -> tuple[Stage, ...]:
    """Stages of the modules under `prefix`: the first from 0 to `bounds[0]`, each next one up to its own bound."""
    starts = (0, *(bound + 1 for bound in bounds))
    return tuple(
        Stage(name, span(prefix, start, last)) for name, start, last in zip(names, starts, bounds, strict=False)
    )
