"""What a training has learnt by when, out of its job's history: losses and accuracy after each epoch, and the trials of
a search."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

_PLAIN = 0
"""Number of what is no trial of a search."""


class Line(Protocol):
    """One event of a job."""

    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Epoch:
    """After so many epochs, 0 for before the first step; losses in nats, accuracy on the validation images 0-1."""

    number: int
    train_loss: float | None
    """None before the first step, and where it was no number."""
    validation_loss: float | None
    accuracy: float


@dataclass(frozen=True)
class Trial:
    """One training of a search."""

    number: int
    settings: Mapping[str, Any]
    outcome: str | None = None
    """As in the event `trial_finished`; None while it goes on."""
    accuracy: float | None = None
    loss: float | None = None
    seconds: float | None = None
    epochs: int | None = None
    is_kept: bool = False


@dataclass(frozen=True)
class Learning:
    """How a training went; of a search how its kept trial went, or while it goes on the last one."""

    epochs: tuple[Epoch, ...]
    final_accuracy: float | None
    """On the validation images, 0-1, of what is kept; None where there is none yet."""
    final_loss: float | None
    """In nats."""
    trials: tuple[Trial, ...]


@dataclass
class _Record:
    curves: dict[int, dict[int, Epoch]] = field(default_factory=dict)
    """By number of the trial and of the epoch."""
    trials: dict[int, Trial] = field(default_factory=dict)
    shown: int = _PLAIN
    """Number of the trial that is at work, or is kept in the end."""
    final: Mapping[str, Any] | None = None


TYPES = (
    "retried", "start_evaluated", "epoch_finished", "evaluated", "trial_started", "trial_finished", "search_ended",
)  # fmt: skip
"""Of the events that tell of it."""


def of(history: Iterable[Line]) -> Learning:
    """What `history` tells, in which epochs that were done again count as they were done last."""
    record = _Record()
    for line in history:
        if line.type == "retried":  # it begins anew
            record = _Record()
        elif line.type == "evaluated":
            record.final = line.data
        elif line.type in ("start_evaluated", "epoch_finished"):
            _add_epoch(record.curves.setdefault(record.shown, {}), line.data)
        elif line.type in TYPES:
            _follow_search(record, line)
    final = record.final or {}
    return Learning(
        epochs=tuple(record.curves.get(record.shown, {}).values()),
        final_accuracy=final.get("accuracy"),
        final_loss=_finite(final.get("log_loss")),
        trials=tuple(record.trials.values()),
    )


def _add_epoch(curve: dict[int, Epoch], told: Mapping[str, Any]) -> None:
    number = told.get("epoch", 0)
    while curve and next(reversed(curve)) >= number:  # of an attempt that came further than it could keep
        curve.popitem()
    losses = _finite(told.get("train_loss")), _finite(told["validation_loss"])
    curve[number] = Epoch(number, *losses, told["validation_accuracy"])


def _follow_search(record: _Record, line: Line) -> None:
    told = line.data
    if line.type == "trial_started":
        record.shown = told["number"]
        record.trials[record.shown] = Trial(record.shown, told["settings"])
    elif line.type == "trial_finished":
        ended = {name: told[name] for name in ("outcome", "accuracy", "loss", "seconds", "epochs")}
        record.trials[told["number"]] = Trial(told["number"], told["settings"], **ended)
    else:
        record.shown = told["kept"]
        record.trials[record.shown] = replace(record.trials[record.shown], is_kept=True)


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None
