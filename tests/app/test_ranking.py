"""Comparing networks: places, agreement of scores, and what is said of it."""

import math

import pytest
from scipy.stats import kendalltau

from app import ranking
from app.profile import Probe
from app.ranking import Cost, Latency, MeasuredNetwork, Ranking, Refused, Setting

SETTING = Setting(classes=3, images=100, measured_images=100, seed=0, device="cpu", threads=2)


def measured(
    name: str,
    accuracy: float,
    *,
    log_me: float = 0.0,
    h_score: float = 0.0,
    milliseconds: float = 5.0,
    macs: int | None = 100_000_000,
    size_bytes: int = 4_000_000,
    has_seen: bool = False,
) -> MeasuredNetwork:
    error = math.sqrt(accuracy * (1 - accuracy) / 100)
    return MeasuredNetwork(
        name=name,
        weights="V1",
        weights_sha256="0" * 64,
        features=8,
        log_me=log_me,
        h_score=h_score,
        neighbours=accuracy,
        probe=Probe(accuracy=accuracy, log_loss=1 - accuracy, error=error),
        cost=Cost(
            parameters=size_bytes // 4,
            size_bytes=size_bytes,
            macs=macs,
            latency=Latency(seconds=milliseconds / 1000, runs=3),
        ),
        has_seen=has_seen,
        seconds=1.0,
        cached=False,
    )


def three() -> Ranking:
    """Of which `large` is the best by the probe and H-score, and `small` by LogME."""
    entries = [
        measured("small", 0.70, log_me=0.9, h_score=0.1, milliseconds=1, macs=10_000_000, size_bytes=400_000),
        measured("middle", 0.80, log_me=0.5, h_score=0.5, milliseconds=4),
        measured("large", 0.95, log_me=0.1, h_score=0.9, milliseconds=20, macs=None, size_bytes=40_000_000),
    ]
    return ranking.order(SETTING, entries, [Refused(name="gone", code="weights_unavailable", message="no weights")])


def test_the_highest_is_first_and_equal_ones_share_the_mean_place() -> None:
    assert ranking.ranks([0.5, 0.9, 0.5, 0.1]) == [2.5, 1, 2.5, 4]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]),
        ([1.0, 1.0, 2.0, 3.0], [2.0, 1.0, 1.0, 5.0]),
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]),
    ],
)
def test_agreement_is_kendalls_tau_b(first: list[float], second: list[float]) -> None:
    assert ranking.tau(first, second) == pytest.approx(kendalltau(first, second).statistic)


def test_a_score_that_tells_nothing_apart_agrees_with_none() -> None:
    assert ranking.tau([1.0, 1.0], [1.0, 2.0]) is None


def test_the_probe_counts_as_much_as_both_formulas_together() -> None:
    places = {"log_me": [1.0, 2.0], "h_score": [2.0, 1.0], "probe": [2.0, 1.0]}
    assert ranking.combined(places) == [(1.5 + 2) / 2, (1.5 + 1) / 2]
    assert [place.name for place in three().places] == ["large", "middle", "small"]
    assert [place.combined for place in three().places] == [1, 2, 3]
    assert three().places[0].by_score == {"log_me": 3, "h_score": 1, "neighbours": 1, "probe": 1}


def test_of_two_that_stand_alike_the_one_with_the_better_probe_comes_first() -> None:
    found = ranking.order(
        SETTING,
        [measured("probed", 0.9, log_me=0.1, h_score=0.1), measured("told", 0.8, log_me=0.2, h_score=0.2)],
        [],
    )
    assert [entry.name for entry in found.measured] == ["probed", "told"]


def test_where_the_scores_disagree_it_is_said() -> None:
    said = " ".join(three().remarks)
    assert "The scores disagree on which is first: LogME: small; H-score, kNN, probe: large." in said
    assert "Kendall's tau between LogME and H-score is -1.00" in said
    assert "gone is not ranked: no weights" in said
    assert {(each.first, each.second): each.tau for each in three().agreements}["h_score", "probe"] == 1


def test_networks_that_stand_alike_by_a_score_share_the_best_place() -> None:
    found = ranking.order(SETTING, [measured(name, 0.9) for name in ("a", "b", "c")] + [measured("d", 0.5)], [])
    assert [place.by_score["probe"] for place in found.places] == [1, 1, 1, 4]


def test_where_the_scores_agree_it_is_said_too() -> None:
    entries = [measured("b", 0.5, log_me=0.1, h_score=0.1), measured("a", 0.9, log_me=0.9, h_score=0.9)]
    said = ranking.order(SETTING, entries, []).remarks
    assert said[0] == "All scores put a first."
    assert "tau is 1.00 between" in said[1]


def test_what_the_probe_cannot_tell_apart_is_said() -> None:
    entries = [measured("a", 0.80), measured("b", 0.82), measured("c", 0.5)]
    said = ranking.order(SETTING, entries, []).remarks
    assert "By the probe a cannot be told from b: within one standard error." in said


def test_a_model_that_has_seen_the_photos_is_marked() -> None:
    found = ranking.order(SETTING, [measured("mine@1", 0.99, has_seen=True)], [])
    (said,) = found.remarks
    assert said == "mine@1: trained on images of this data set before, so the figures are too good."
    assert found.best.name == "mine@1"


def test_what_is_said_of_the_first_leaves_out_those_that_have_seen_the_photos() -> None:
    entries = [
        measured("mine@1", 0.99, log_me=0.9, h_score=0.9, has_seen=True),
        measured("good", 0.90, log_me=0.5, h_score=0.5),
        measured("fair", 0.70, log_me=0.1, h_score=0.1),
    ]
    found = ranking.order(SETTING, entries, [])
    assert [entry.name for entry in found.measured] == ["mine@1", "good", "fair"]
    assert found.best.name == "good"
    seen, first, _, chance = found.remarks
    assert seen.startswith("mine@1: trained on images of this data set before")
    assert seen.endswith("what is said of the first is of the others.")
    assert first == "All scores put good first."
    assert chance == "By the probe no other is within one standard error of good."


def test_of_one_network_that_has_not_seen_the_photos_nothing_is_compared() -> None:
    entries = [measured("mine@1", 0.99, has_seen=True), measured("good", 0.90)]
    said = " ".join(ranking.order(SETTING, entries, []).remarks)
    assert "first" not in said
    assert "standard error" not in said


def test_where_all_have_seen_the_photos_they_are_compared_as_others_are() -> None:
    entries = [measured(f"mine@{number}", 0.6 + number / 10, has_seen=True) for number in (1, 2)]
    found = ranking.order(SETTING, entries, [])
    assert found.best.name == "mine@2"
    assert "The scores disagree" in found.remarks[1] or "All scores put" in found.remarks[1]


@pytest.mark.parametrize(
    ("code", "file", "now", "same"),
    [
        ("out_of_memory", f"{'5' * 8} 100-1", f"{'5' * 8} 100-2", True),  # on another machine
        ("out_of_memory", f"{'5' * 64} 100-1", f"{'5' * 8} 100-1", True),  # of several files the content was looked at
        ("out_of_memory", f"{'5' * 8} 100-1", f"{'5' * 64} 100-1", True),
        ("out_of_memory", f"{'5' * 8} 100-1", f"{'6' * 8} 100-1", False),
        ("out_of_memory", None, f"{'5' * 8} 100-1", True),
        ("weights_unavailable", f"{'5' * 8} 100-1", f"{'5' * 8} 100-1", True),
        ("weights_unavailable", f"{'5' * 8} 100-1", f"{'5' * 8} 100-2", False),  # written anew
        ("weights_unavailable", None, f"{'5' * 8} 100-1", False),  # which file it was is not known
    ],
)
def test_a_network_that_was_refused_is_another_once_its_file_is_or_was_mended(
    code: str, file: str | None, now: str, same: bool
) -> None:
    refused = Refused(name="large", code=code, message="no", file=file)
    found = ranking.order(SETTING, [measured("small", 0.7)], [refused])
    assert found.is_of({"small": "0" * 8, "large": now}) is same
