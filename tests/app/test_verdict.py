"""What control runs say, as a table of curves and scores."""

from dataclasses import replace

import numpy as np
import pytest

from app.experiments import verdict
from app.experiments.verdict import Arm, Cut, Finding, Point, Run
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
        # There after 10 s, but scratch, which took 30 s, was nearly there by then.
        (run(0.5, 0.9, 0.9), run(0.1, 0.88, 0.88, 0.9), "no_difference"),
        # There before scratch, which had it too in less than half as much time again.
        (run(0.1, 0.9, 0.9, seconds=12.4), run(0.1, 0.9, 0.9, seconds=13.0), "no_difference"),
        # Of four images there is nothing to tell of speed either.
        (run(0.25, 0.75, images=4), run(0.25, 0.5, 0.75, images=4), "no_difference"),
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
    assert any("after 20.0 s (1 epoch), scratch after 45.0 s (3 epochs)" in reason for reason in found.reasons)


def test_how_far_behind_scratch_was_then_is_said_with_what_chance_leaves_open() -> None:
    found = verdict.judge({"fine_tune": run(0.5, 0.9, 0.9, seconds=20), "scratch": run(0.1, 0.3, 0.2, 0.9)})
    assert found.reasons[2] == (
        "With 1.5 times the time that fine-tuning took to it, scratch was at 90.0 %, which is not shown to be less "
        "(95 %: -4.2 to +4.2 points short of it)."
    )
    found = verdict.judge({"fine_tune": run(0.5, 0.9, 0.9, seconds=20), "scratch": run(0.1, 0.3, 0.2, 0.2, 0.9)})
    assert found.finding == "faster"
    assert found.reasons[2] == (
        "With 1.5 times the time that fine-tuning took to it, scratch was at 30.0 %, which is less by more than chance "
        "(95 %: +54.3 to +65.0 points short of it)."
    )


def test_where_scratch_was_not_judged_by_then_it_is_said_when_it_was() -> None:
    early = Run((Point(0, 20, 0.9, 1.0),), Score(360, 400))
    late = Run((Point(1, 60, 0.3, 1.0), Point(2, 120, 0.9, 1.0)), Score(360, 400))
    found = verdict.judge({"fine_tune": early, "scratch": late})
    assert found.reasons[1:3] == (
        "The 90.0 % that scratch ended with fine-tuning had after 20.0 s (0 epochs), scratch after 120.0 s (2 epochs).",
        "When scratch was first judged, after 60.0 s and so more than 1.5 times the time that fine-tuning took to it, "
        "it was at 30.0 %, which is less by more than chance (95 %: +54.3 to +65.0 points short of it).",
    )


def test_a_final_score_above_the_curve_is_reached_at_its_end() -> None:
    kept = replace(run(0.1, 0.3, 0.4, 0.5), score=Score(360, 400))
    found = verdict.judge({"fine_tune": run(0.5, 0.95, 0.95), "scratch": kept})
    assert found.speed_up == pytest.approx(3)
    found = verdict.judge({"fine_tune": kept, "scratch": run(0.5, 0.9, 0.9)})
    assert found.speed_up == pytest.approx(1 / 3)


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


def test_a_run_that_was_chosen_by_the_images_it_is_judged_by_is_said_to_be() -> None:
    runs: dict[Arm, Run] = {"probe": run(0.8), "fine_tune": run(0.8, 0.95), "scratch": run(0.3, 0.5)}
    plain = verdict.judge(runs)
    chosen = verdict.judge({**runs, "fine_tune": replace(runs["fine_tune"], is_chosen=True)})
    assert chosen.reasons[:-1] == plain.reasons
    assert chosen.reasons[-1].startswith(
        "Of fine-tuning several networks were at hand, and the images that it is judged"
    )
    without: dict[Arm, Run] = {"probe": runs["probe"], "fine_tune": replace(runs["fine_tune"], is_chosen=True)}
    assert verdict.judge(without).reasons[-1] == chosen.reasons[-1]


def test_a_verdict_on_runs_that_were_stopped_early_says_so_first() -> None:
    runs: dict[Arm, Run] = {"fine_tune": run(0.8, 0.95), "scratch": run(0.3, 0.5)}
    plain = verdict.judge(runs)
    assert plain.caveat is None
    cut = verdict.judge({**runs, "scratch": replace(runs["scratch"], cut=Cut(1, 120))})
    assert cut.caveat == (
        "Runs that are stopped early say little about pre-training: training from scratch was given 1 epoch in place "
        "of 120."
    )
    assert cut.reasons == (cut.caveat, *plain.reasons)
    both = verdict.judge({arm: replace(each, cut=Cut(2, 14)) for arm, each in runs.items()})
    assert "fine-tuning was given 2 epochs in place of 14, training from scratch" in str(both.caveat)
    missing = verdict.judge({**runs, "scratch": Run((), None, cut=Cut(1, 120))})
    assert missing.caveat is None


def test_a_run_that_failed_leaves_the_verdict_open() -> None:
    found = verdict.judge({"probe": run(0.8), "fine_tune": run(0.9), "scratch": Run((), None)})
    assert found.finding == "open"
    assert "training from scratch" in found.reasons[0]
    assert [(one.first, one.second) for one in found.differences] == [("fine_tune", "probe")]


def paired(*, both: int, fine_tuned_only: int, scratch_only: int, neither: int) -> dict[Arm, Run]:
    """Two runs on the same images, of which so many only one of them is right for."""
    counts = (both, fine_tuned_only, scratch_only, neither)
    images = sum(counts)

    def right(*for_whom: bool) -> Run:
        bits = np.repeat(for_whom, counts)
        score = Score(int(bits.sum()), images)
        return Run((Point(1, 10.0, score.accuracy, 1.0),), score, np.packbits(bits).tobytes().hex())

    return {"fine_tune": right(True, True, False, False), "scratch": right(True, False, True, False)}


@pytest.mark.parametrize(
    ("runs", "finding"),
    [
        # Unpaired, the intervals of 92.5 and 89.5 % of 400 overlap widely.
        (paired(both=354, fine_tuned_only=16, scratch_only=4, neither=26), "higher"),
        (paired(both=354, fine_tuned_only=4, scratch_only=16, neither=26), "lower"),
        # The same two accuracies, but of classifiers that are wrong for different images.
        (paired(both=340, fine_tuned_only=30, scratch_only=18, neither=12), "no_difference"),
        # Though its interval leaves out 0, five of five is what chance gives more often than 1 time in 20.
        (paired(both=5, fine_tuned_only=5, scratch_only=0, neither=0), "no_difference"),
        (paired(both=5, fine_tuned_only=6, scratch_only=0, neither=0), "higher"),
        (paired(both=40, fine_tuned_only=0, scratch_only=0, neither=10), "no_difference"),
    ],
)
def test_on_the_same_images_the_runs_are_compared_image_by_image(runs: dict[Arm, Run], finding: Finding) -> None:
    found = verdict.judge(runs)
    assert found.finding == finding
    (difference,) = found.differences
    assert difference.is_shown is (finding in ("higher", "lower"))


def test_the_sentence_has_the_difference_its_interval_and_the_images_that_make_it() -> None:
    found = verdict.judge(paired(both=354, fine_tuned_only=16, scratch_only=4, neither=26))
    assert found.reasons[0] == (
        "Pre-training raised the final score: fine-tuning is right more often than scratch by 3.0 points "
        "(95 %: 0.9 to 5.5; 16 images only the former gets right, 4 only the latter)."
    )
    (difference,) = found.differences
    assert (difference.first_only, difference.second_only) == (16, 4)
    one = verdict.judge(paired(both=5, fine_tuned_only=1, scratch_only=0, neither=0))
    assert "; 1 image only the former gets right, 0 only the latter" in one.reasons[0]
    few = verdict.judge(paired(both=5, fine_tuned_only=5, scratch_only=0, neither=0))
    assert few.reasons[0].endswith("5 images only the former gets right, 0 only the latter), "
                                   "and so few images that differ show nothing.")  # fmt: skip
    assert few.differences[0].interval.low > 0


def test_runs_of_which_one_kept_no_images_are_compared_as_if_each_had_its_own() -> None:
    runs = paired(both=354, fine_tuned_only=16, scratch_only=4, neither=26)
    old = Run(runs["scratch"].curve, runs["scratch"].score)
    found = verdict.judge({**runs, "scratch": old})
    assert found.finding == "no_difference"
    assert found.differences[0].first_only is None
