"""What `bench.quality` makes of its results."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import quality
from bench import results as records
from bench.quality import Found, Run

RUN = Run("hymenoptera", "formnet", "head", 0)
FOUND = Found(test=0.9, validation=0.9, measuring=0.0, seconds=10.0, kept="head", estimate=10.0)


@pytest.mark.parametrize(
    ("told", "took", "is_right"),
    [(10, 14, True), (10, 16, False), (16, 10, False), (0.1, 2.9, True), (0.1, 3.1, False), (3.1, 0.1, False)],
)
def test_an_estimate_is_right_within_a_factor_and_less_than_two_seconds_are_two(
    told: float, took: float, is_right: bool
) -> None:
    counted = quality.true_estimates([(RUN, replace(FOUND, estimate=told, seconds=took))])
    assert (counted.right, counted.trainings) == (int(is_right), 1)
    assert "less than 2 seconds, told or taken, count as 2" in counted.line()


def test_trainings_that_nothing_was_told_of_are_not_counted() -> None:
    counted = quality.true_estimates([(RUN, replace(FOUND, estimate=None))])
    assert (counted.trainings, counted.holds) == (0, True)


@pytest.mark.parametrize(("wrong", "code"), [(1, 0), (2, 1)])
def test_it_fails_where_fewer_than_nine_of_ten_estimates_were_right(
    wrong: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "quality.jsonl"
    for seed in range(10):
        records.append(results, replace(RUN, seed=seed), replace(FOUND, seconds=30.0 if seed < wrong else 10.0))
    # Of no set and no network there is nothing left to be run.
    monkeypatch.setattr(sys, "argv", ["quality", str(tmp_path), "--results", str(results)])
    monkeypatch.setattr(quality, "BACKBONES", ())
    assert quality.main() == code
    assert f"{10 - wrong} of 10 estimates" in capsys.readouterr().out
