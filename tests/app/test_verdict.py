"""What control runs say, as a table of curves and scores."""

import pytest

from app.experiments import verdict
from app.experiments.verdict import Arm, Finding, Point, Run
from app.intervals import Score


def run(*accuracies: float, images: int = 400, seconds: float = 10) -> Run:
    """An arm with these accuracies after its epochs, each so many seconds long; the last is its score."""
    curve = tuple(Point(epoch, seconds * epoch, accuracy, 1.0) for epoch, accuracy in enumerate(accuracies))
    return Run(curve, Score(round(accuracies[-1] * images), images))


@pytest.mark.parametrize(
    ("fine_tuned", "scratch", "finding"),
    [
        (run(0.7, 0.9, 0.95), run(0.1, 0.5, 0.7), "higher"),
        (run(0.5, 0.5, 0.5), run(0.3, 0.6, 0.7), "lower"),
        # As good in the end, to what 400 images can tell, but there at once.
        (run(0.9, 0.9, 0.9), run(0.1, 0.5, 0.89), "faster"),
        (run(0.1, 0.2, 0.88), run(0.88, 0.89, 0.88), "no_difference"),
        # A difference of eight points of 40 images is no more than chance, though the bare numbers differ.
        (run(0.8, 0.85, 0.85, images=40), run(0.8, 0.8, 0.775, images=40), "no_difference"),
    ],
)
def test_the_verdict_follows_from_intervals(fine_tuned: Run, scratch: Run, finding: Finding) -> None:
    found = verdict.judge({"fine_tune": fine_tuned, "scratch": scratch})
    assert found.finding == finding
    (difference,) = found.differences
    assert difference.is_shown is (finding in ("higher", "lower"))


def test_the_speed_up_is_the_time_to_the_score_that_scratch_ended_with() -> None:
    found = verdict.judge(
        {"fine_tune": run(0.5, 0.9, 0.95, seconds=20), "scratch": run(0.1, 0.2, 0.6, 0.8, seconds=15)}
    )
    assert found.speed_up == pytest.approx(45 / 20)
    assert any("after 20.0 s (1 epochs), scratch after 45.0 s (3 epochs)" in reason for reason in found.reasons)


def test_a_goal_that_was_never_reached_has_no_speed_up() -> None:
    found = verdict.judge({"fine_tune": run(0.1, 0.2, 0.3), "scratch": run(0.4, 0.5)})
    assert found.speed_up is None
    assert "Fine-tuning never had the 50.0 % that scratch ended with." in found.reasons


def test_the_probe_is_compared_too() -> None:
    runs: dict[Arm, Run] = {"probe": run(0.8), "fine_tune": run(0.8, 0.95), "scratch": run(0.3, 0.5)}
    found = verdict.judge(runs)
    assert [(one.first, one.second) for one in found.differences] == [
        ("fine_tune", "scratch"),
        ("probe", "scratch"),
        ("fine_tune", "probe"),
    ]
    assert found.reasons[-1].startswith("Fine-tuning is better than the linear classifier")


def test_a_run_that_failed_leaves_the_verdict_open() -> None:
    found = verdict.judge({"probe": run(0.8), "fine_tune": run(0.9), "scratch": Run((), None)})
    assert found.finding == "open"
    assert "training from scratch" in found.reasons[0]
    assert [(one.first, one.second) for one in found.differences] == [("fine_tune", "probe")]
