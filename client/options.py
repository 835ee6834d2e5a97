"""What a recipe is made of on the command line: the same options for every command that asks for a training."""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from client.recipe import Augmentation, Budget, Recipe, Search

DEFAULT_BACKBONE = "mobilenet_v2"


@dataclass(frozen=True, kw_only=True)
class Options:
    """As they are given; what is None is left to the service."""

    backbone: Annotated[
        str | None,
        typer.Option(
            help="Network to fine-tune; `graft backbones` lists them. auto: the best that is at hand, within the "
            "limits. If left out, that of the base, or mobilenet_v2."
        ),
    ] = None
    strategy: Annotated[
        str,
        typer.Option(
            help="auto: measures and decides; head: a new classifier only; stage_probe: the same on the stage that "
            "suits best; top: the last stages, too; full: every layer; scratch: every layer from random values."
        ),
    ] = "auto"
    weights: Annotated[str | None, typer.Option(help="pretrained, the name of weights, or none for random values.")] = (
        None
    )
    base: Annotated[
        str | None,
        typer.Option(
            help="Model version to start from: name, name@version, or name:alias; labels it knows keep their rows."
        ),
    ] = None
    label_map: Annotated[
        list[str] | None, typer.Option(help="Label of the base that is called otherwise now: OLD=NEW.")
    ] = None
    replay: Annotated[
        bool | None, typer.Option("--replay", help="Train on the images that the base was made from, besides.")
    ] = None
    label_prior: Annotated[
        str | None,
        typer.Option(help="learned: labels of the base are as frequent as it learnt; training: as in the photos."),
    ] = None
    stage: Annotated[str | None, typer.Option(help="Name of a stage, best, or all (stage_probe).")] = None
    l2: Annotated[float | None, typer.Option(help="Penalty of the linear classifier (all but scratch).")] = None
    freeze: Annotated[str | None, typer.Option(help="Last stage that stays as it is (top).")] = None
    reinit: Annotated[str | None, typer.Option(help="What starts anew: none, head, or retrained (top, full).")] = None
    views: Annotated[
        int | None, typer.Option(min=1, help="Views of an image that go through the frozen stages (top).")
    ] = None
    layer_decay: Annotated[
        float | None, typer.Option(help="Learning rate of a stage by that of the next one (full).")
    ] = None
    unfreeze: Annotated[str | None, typer.Option(help="at_once or gradual (full).")] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data (top, full, scratch).")] = None
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images a batch (top, full, scratch).")] = None
    accumulate: Annotated[int | None, typer.Option(min=1, help="Batches that make a step (top, full, scratch).")] = None
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw (top, full, scratch).")] = None
    learning_rate: Annotated[float | None, typer.Option(help="At its peak (top, full, scratch).")] = None
    weight_decay: Annotated[float | None, typer.Option(help="Penalty of the weights (top, full, scratch).")] = None
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of a target that goes to all labels (top, full, scratch).")
    ] = None
    balance: Annotated[
        str | None,
        typer.Option(help="For labels with few images: none, weights, or sampler (top, full, scratch)."),
    ] = None
    augmentation: Annotated[
        str | None, typer.Option(help="How images are changed: none, crop, trivial, or rand (top, full, scratch).")
    ] = None
    ema: Annotated[
        float | None, typer.Option(help="Decay of the moving average that is kept; 0: none (top, full, scratch).")
    ] = None
    patience: Annotated[
        int | None, typer.Option(min=1, help="Epochs without a better one until the end (top, full, scratch).")
    ] = None
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16 (top, full, scratch).")] = None
    devices: Annotated[int | None, typer.Option(min=1, help="GPUs at most (top, full, scratch).")] = None
    deterministic: Annotated[bool | None, typer.Option("--deterministic", help="The same model each time on GPUs.")] = (
        None
    )
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0
    max_latency: Annotated[
        float | None, typer.Option(help="Milliseconds that an image may take (--backbone auto).", min=0.001)
    ] = None
    max_size: Annotated[
        float | None, typer.Option(help="Megabytes that a network may have (--backbone auto).", min=0.001)
    ] = None
    search: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Look so long for better settings than the plan's own."),
    ] = None

    def recipe(self) -> Recipe:
        """With the usual backbone where none is named. Raises `BadParameter`."""
        as_given = {name: getattr(self, name) for name in _AS_GIVEN}
        return Recipe(
            backbone=self.backbone or DEFAULT_BACKBONE,
            label_map=_label_map(self.label_map or []),
            augmentation=None if self.augmentation is None else Augmentation(policy=self.augmentation),
            budget=_budget(self.max_latency, self.max_size),
            search=None if self.search is None else Search(seconds=self.search),
            **as_given,
        )


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_NAMES = tuple(field.name for field in fields(Options))
_AS_GIVEN = {field.name for field in fields(Recipe)} - {"backbone", "label_map", "augmentation", "budget", "search"}
"""What a recipe has in the form in which it is given."""

_BY_OTHER_NAMES = {
    "budget": "--max-latency, --max-size",
    "budget.latency_ms": "--max-latency",
    "budget.size_bytes": "--max-size",
    "candidates": "--backbone, --model",
    "fine_tune.epochs": "--epochs",
    "forms": "--form",
    "scratch.epochs": "--scratch-epochs",
}
_WORDS = re.compile(rf"\bbody\.(?:recipe\.)?([\w.]*\w)|\b({'|'.join(name for name in _NAMES if '_' in name)})\b")
"""Fields by their paths, and those by themselves that are no words of a language."""


def named(text: str) -> str:
    """What the service says of a request, with its fields called as the options are."""
    return _WORDS.sub(lambda found: _option(found[1] or found[2]), text)


def _option(field: str) -> str:
    """Of a field by its path, such as `budget.latency_ms`."""
    first = field.partition(".")[0]
    return _BY_OTHER_NAMES.get(field) or _BY_OTHER_NAMES.get(first) or f"--{first.replace('_', '-')}"


def _label_map(given: list[str]) -> dict[str, str] | None:
    """Of `OLD=NEW` each."""
    for pair in given:
        if not all(pair.partition("=")):
            raise typer.BadParameter(f"{pair!r} is not OLD=NEW", param_hint="--label-map")
    return {old: new for old, _, new in (pair.partition("=") for pair in given)} or None


def _budget(max_latency: float | None, max_size: float | None) -> Budget | None:
    if max_latency is None and max_size is None:
        return None
    return Budget(latency_ms=max_latency, size_bytes=None if max_size is None else round(1e6 * max_size))


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with an option for each field of the `Options` that it takes as its parameter `options`: Typer reads
    what a command can be given off its signature."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        options = Options(**{name: given.pop(name) for name in _NAMES})
        command(**given, options=options)

    hints = get_type_hints(command, include_extras=True)
    found: list[inspect.Parameter] = []
    for name, each in inspect.signature(command).parameters.items():
        found += _parameters() if name == "options" else [each.replace(kind=_KEYWORD, annotation=hints[name])]
    run.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    return run


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Options, include_extras=True)
    return [
        inspect.Parameter(field.name, _KEYWORD, default=field.default, annotation=hints[field.name])
        for field in fields(Options)
    ]
