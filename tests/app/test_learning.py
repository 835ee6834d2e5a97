"""How a training went, as its history tells it."""

import math
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import pytest

from app.jobs import charts, learning
from app.jobs.learning import Epoch, Learning

SVG = "{http://www.w3.org/2000/svg}"
PLANNED = {"strategy": "top", "learning_rate": 0.01}


@dataclass(frozen=True)
class Line:
    type: str
    data: dict[str, Any] = field(default_factory=dict)


def start(accuracy: float) -> Line:
    return Line("start_evaluated", {"validation_loss": 1.0, "validation_accuracy": accuracy})


def epoch(number: int, accuracy: float, loss: float = 0.5) -> Line:
    losses = {"train_loss": loss, "validation_loss": loss + 0.1}
    return Line("epoch_finished", {"epoch": number, "validation_accuracy": accuracy, **losses})


def begun(number: int, **changes: object) -> Line:
    return Line("trial_started", {"number": number, "settings": {**PLANNED, **changes}, "expected_seconds": None})


def ended(number: int, outcome: str, **changes: object) -> Line:
    figures = {"outcome": outcome, "accuracy": 0.9, "loss": 0.3, "seconds": 2.0, "epochs": 1}
    return Line("trial_finished", {"number": number, "settings": {**PLANNED, **changes}, **figures})


def accuracies(found: Learning) -> list[tuple[int, float]]:
    return [(each.number, each.accuracy) for each in found.epochs]


def test_each_epoch_has_its_losses_and_what_is_kept_its_score() -> None:
    found = learning.of([start(0.4), epoch(1, 0.6), Line("evaluated", {"accuracy": 0.7, "log_loss": 0.4})])
    assert found == Learning((Epoch(0, None, 1.0, 0.4), Epoch(1, 0.5, 0.6, 0.6)), 0.7, 0.4, ())


def test_epochs_that_are_done_again_count_as_they_were_done_last() -> None:
    lost = [start(0.4), epoch(1, 0.5), epoch(2, 0.6), epoch(3, 0.7)]
    assert accuracies(learning.of([*lost, epoch(2, 0.65)])) == [(0, 0.4), (1, 0.5), (2, 0.65)]
    assert accuracies(learning.of([*lost, start(0.4)])) == [(0, 0.4)]
    assert accuracies(learning.of([*lost, Line("retried"), epoch(1, 0.3)])) == [(1, 0.3)]


def test_of_a_search_the_trial_that_is_kept_is_shown_or_else_the_last_one() -> None:
    going_on = [
        begun(1),
        epoch(1, 0.5),
        ended(1, "finished"),
        begun(2, learning_rate=0.1),
        epoch(1, 0.2),
    ]
    found = learning.of(going_on)
    assert accuracies(found) == [(1, 0.2)]
    assert [(one.number, one.outcome, one.is_kept) for one in found.trials] == [
        (1, "finished", False),
        (2, None, False),
    ]

    found = learning.of([*going_on, ended(2, "pruned", learning_rate=0.1), Line("search_ended", {"kept": 1})])
    assert accuracies(found) == [(1, 0.5)]
    assert [(one.number, one.outcome, one.is_kept) for one in found.trials] == [
        (1, "finished", True),
        (2, "pruned", False),
    ]


@pytest.mark.parametrize("history", [[], [Line("evaluated", {"accuracy": 0.7, "log_loss": 0.4})]])
def test_without_epochs_the_picture_says_so(history: list[Line]) -> None:
    assert "nothing to draw" in charts.draw("Training of insects", learning.of(history))


def test_the_picture_has_accuracy_and_both_losses_and_leaves_out_what_is_no_number() -> None:
    found = learning.of([start(0.4), epoch(1, 0.6), epoch(2, 0.3, loss=math.inf), epoch(3, 0.2)])
    picture = ElementTree.fromstring(charts.draw("Training of <insects>", found))
    drawn = [len(line.attrib["points"].split()) for line in picture.findall(f"{SVG}polyline")]
    assert drawn == [4, 2, 3]  # accuracy, then the loss of the training images, which begins with the first epoch
    assert picture.findall(f"{SVG}circle") == []
    kept = learning.of([start(0.4), epoch(1, 0.6), Line("evaluated", {"accuracy": 0.7, "log_loss": 0.4})])
    ends = ElementTree.fromstring(charts.draw("x", kept)).findall(f"{SVG}circle[@class='end']")
    assert len(ends) == 3  # in the legend, and in each panel
