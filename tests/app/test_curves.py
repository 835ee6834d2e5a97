"""How a training went, out of its history."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.experiments import curves
from app.experiments.verdict import Point
from tests.app.conftest import NOW


@dataclass(frozen=True)
class Line:
    seconds: float
    type: str
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)


def epoch(seconds: float, number: int, accuracy: float) -> Line:
    return Line(
        seconds, "epoch_finished", {"epoch": number, "validation_accuracy": accuracy, "validation_loss": 1 - accuracy}
    )


def test_time_that_a_job_waits_or_is_paused_does_not_count() -> None:
    curve, worked = curves.of(
        [
            Line(0, "queued"),
            Line(100, "attempt_started"),
            epoch(110, 1, 0.5),
            Line(115, "paused"),
            Line(500, "resume_requested"),
            Line(600, "attempt_started"),
            epoch(610, 2, 0.75),
            Line(612, "succeeded"),
        ]
    )
    assert curve == (Point(1, 10, 0.5, 0.5), Point(2, 25, 0.75, 0.25))
    assert worked == 27


def test_an_epoch_that_was_done_again_counts_once_and_a_lost_worker_up_to_its_last_word() -> None:
    curve, _ = curves.of(
        [
            Line(0, "attempt_started"),
            epoch(10, 1, 0.5),
            epoch(20, 2, 0.5),
            Line(90, "attempt_started"),
            epoch(95, 2, 0.6),
        ]
    )
    assert [(point.epoch, point.seconds, point.accuracy) for point in curve] == [(1, 10, 0.5), (2, 25, 0.6)]


def test_a_training_that_is_retried_begins_anew() -> None:
    curve, worked = curves.of(
        [
            Line(0, "attempt_started"),
            epoch(10, 1, 0.5),
            epoch(20, 2, 0.5),
            Line(25, "failed"),
            Line(80, "retried"),
            Line(90, "attempt_started"),
            epoch(97, 1, 0.6),
            Line(99, "succeeded"),
        ]
    )
    assert curve == (Point(1, 7, 0.6, 0.4),)
    assert worked == 9


def test_a_training_without_epochs_has_the_point_of_its_end() -> None:
    evaluated = Line(4, "evaluated", {"accuracy": 0.9, "log_loss": 0.2})
    curve, _ = curves.of([Line(1, "attempt_started"), evaluated, Line(5, "succeeded")])
    assert curve == (Point(0, 3, 0.9, 0.2),)
    with_epochs, _ = curves.of([Line(1, "attempt_started"), epoch(2, 1, 0.5), evaluated])
    assert [point.epoch for point in with_epochs] == [1]


def features(seconds: float, *, cached: bool, took: float) -> Line:
    return Line(
        seconds,
        "features_ready",
        {"images": 9, "seconds": 1 if cached else took, "cached": cached, "pass_seconds": took},
    )


def test_a_pass_that_another_run_has_done_counts_with_what_it_took_there() -> None:
    own = [Line(0, "attempt_started"), features(30, cached=False, took=30), epoch(40, 1, 0.5), Line(42, "succeeded")]
    found = [Line(0, "attempt_started"), features(1, cached=True, took=30), epoch(11, 1, 0.5), Line(13, "succeeded")]
    assert curves.of(found) == curves.of(own) == ((Point(1, 40, 0.5, 0.5),), 42)


def test_a_pass_of_an_attempt_of_its_own_counts_once() -> None:
    for first in (features(30, cached=False, took=30), features(1, cached=True, took=30)):
        history = [Line(0, "attempt_started"), first, Line(first.seconds + 4, "paused"), Line(100, "attempt_started")]
        curve, _ = curves.of([*history, features(101, cached=True, took=30), epoch(111, 1, 0.5)])
        assert [point.seconds for point in curve] == [45]


def test_a_training_that_is_retried_counts_the_pass_of_the_run_before() -> None:
    before = [Line(0, "attempt_started"), features(30, cached=False, took=30), Line(31, "failed"), Line(60, "retried")]
    curve, worked = curves.of(
        [*before, Line(70, "attempt_started"), features(71, cached=True, took=30), epoch(81, 1, 0.5)]
    )
    assert ([point.seconds for point in curve], worked) == ([40], 40)


def test_events_of_old_do_not_tell_what_the_pass_took() -> None:
    old = Line(1, "features_ready", {"images": 9, "seconds": 1, "cached": True})
    _, worked = curves.of([Line(0, "attempt_started"), old, Line(13, "succeeded")])
    assert worked == 13


def test_of_a_pass_that_was_done_in_part_the_other_part_counts_too() -> None:
    part = {"images": 9, "seconds": 5, "cached": False, "reused": 8, "pass_seconds": 30}
    curve, _ = curves.of([Line(0, "attempt_started"), Line(5, "features_ready", part), epoch(15, 1, 0.5)])
    assert [point.seconds for point in curve] == [40]
