"""How a training went, as a picture that suits light and dark screens."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from app.backbones import charts
from app.backbones.charts import Axis, Tick
from app.backbones.pages import environment
from app.jobs.learning import Epoch, Learning

_TOP, _BOTTOM = 108.0, 408.0
_LEFT, _RIGHT = (76.0, 500.0), (596.0, 1020.0)
_SMALLEST_LOSS_STEP = 1e-3


@dataclass(frozen=True)
class Curve:
    """One figure after each epoch, as the template draws it."""

    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Figures of one kind by epochs."""

    title: str
    left: float
    right: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[Curve]
    end: tuple[float, float] | None
    """Where what is kept lies, at the last epoch; None where there is none yet."""


def draw(title: str, found: Learning) -> str:
    """Accuracy and losses by epochs, with those of what was kept."""
    template = environment("app.jobs").get_template("learning.svg")
    panels = [_accuracies(found), _losses(found)] if found.epochs else []
    return template.render(title=title, panels=panels, top=_TOP, bottom=_BOTTOM)


def _accuracies(found: Learning) -> Panel:
    final = None if found.final_accuracy is None else 100 * found.final_accuracy
    values = [100 * epoch.accuracy for epoch in found.epochs]
    upward = charts.percents([*values, *_there([final])])
    return _panel("accuracy in %", found, _LEFT, upward, {"first": lambda epoch: 100 * epoch.accuracy}, final)


def _losses(found: Learning) -> Panel:
    drawn: dict[str, Callable[[Epoch], float | None]] = {
        "second": lambda epoch: epoch.train_loss,
        "first": lambda epoch: epoch.validation_loss,
    }
    values = _there([found.final_loss, *(of(epoch) for of in drawn.values() for epoch in found.epochs)])
    upward = charts.even(max(values, default=1.0), least=_SMALLEST_LOSS_STEP)
    return _panel("loss in nats", found, _RIGHT, upward, drawn, found.final_loss)


def _panel(
    title: str,
    found: Learning,
    across: tuple[float, float],
    ticks: Sequence[float],
    drawn: dict[str, Callable[[Epoch], float | None]],
    final: float | None,
) -> Panel:
    epochs = Axis(charts.even(found.epochs[-1].number, least=1), *across, float)
    upward = Axis(ticks, _BOTTOM, _TOP, float)

    def place(epoch: Epoch, value: float) -> tuple[float, float]:
        return round(epochs.at(epoch.number), 1), round(upward.at(value), 1)

    curves = [
        Curve(style, [place(epoch, value) for epoch in found.epochs if (value := of(epoch)) is not None])
        for style, of in drawn.items()
    ]
    end = None if final is None else place(found.epochs[-1], final)
    return Panel(title, *across, epochs.grid(), upward.grid(), curves, end)


def _there(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
