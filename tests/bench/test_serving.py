"""What the benchmarks of serving make of what they have measured."""

import json

import pytest

from bench.serving import figures, swaps
from bench.serving.bare import Bare
from bench.serving.beside import RUBBISH, Beside
from bench.serving.figures import OURS, Agreement, Comparison, Served
from bench.serving.loader import NO_ANSWER, Call, Calls
from bench.serving.memory import Memory
from bench.serving.overload import Strain
from bench.serving.subjects import Labelled
from bench.serving.wrk import Load

RIGHT: Labelled = [("ants", 0.7), ("bees", 0.2), ("wasps", 0.06)]


def answers(*labelled: Labelled) -> Agreement:
    return figures.agreement(labelled, [RIGHT] * len(labelled))


def verdict(*rounds: Agreement, precision: str) -> bool:
    """Whether the answers of ours are right, by these rounds."""
    load = Load(seconds=1.0, requests=100, p50_ms=1.0, p99_ms=2.0, refused=0, broken=0)
    found = Comparison(
        {OURS: [Served(load, load, 1.0)] * len(rounds)}, {OURS: list(rounds)}, [Bare(1, 1, 1)] * len(rounds)
    )
    told = dict(found.verdicts("resnet18", precision))
    (judged,) = (holds for line, holds in told.items() if "the reference" in line or "same first label" in line)
    return judged


def test_in_full_precision_all_probabilities_are_to_be_the_references() -> None:
    near = [(label, value + 9e-5) for label, value in RIGHT]
    far = [(label, value + 2e-4) for label, value in RIGHT]
    assert verdict(answers(RIGHT, near), precision="fp32")
    assert not verdict(answers(RIGHT, far), precision="fp32")
    assert not verdict(answers(RIGHT, far), answers(RIGHT, RIGHT), precision="fp32")


def test_a_label_that_is_not_told_differs_by_what_it_should_have_had_above_the_last() -> None:
    wrong: Labelled = [("flies", 0.7), ("bees", 0.2), ("wasps", 0.06)]
    assert answers(wrong).difference == pytest.approx(0.7 - 0.06)
    swapped_last: Labelled = [("ants", 0.7), ("bees", 0.2), ("flies", 0.0600001)]
    assert answers(swapped_last).difference == 0


def test_at_the_best_precision_labels_agree_as_the_tolerance_wants() -> None:
    other: Labelled = [("bees", 0.5), ("ants", 0.4), ("wasps", 0.06)]
    assert verdict(answers(*[RIGHT] * 99, other), precision="best")
    assert not verdict(answers(*[RIGHT] * 98, other, other), precision="best")


def call(seconds: float, status: int, code: str | None = None) -> Call:
    body = b"{}" if code is None else json.dumps({"code": code}).encode()
    return Call(0.0, seconds, status, body)


def told(*during: Call) -> dict[str, bool]:
    quick = Calls(tuple(call(0.01, 200) for _ in range(10)), 0)
    memory = Memory(0, seconds=[float(second) for second in range(8)], megabytes=[100.0] * 8)
    found = Strain(100.0, quick, Calls(during, 0), quick, memory)
    return dict(found.report(deadline=1.0, seconds=1.0))


def held(lines: dict[str, bool], part: str) -> bool:
    (holds,) = (holds for line, holds in lines.items() if part in line)
    return holds


def test_requests_that_expired_after_they_were_let_in_count_as_accepted() -> None:
    ok, expired = [call(0.9, 200)] * 90, [call(2.5, 503, "deadline_exceeded")] * 10
    at_once = [call(0.002, 503, "overloaded")] * 300
    assert held(told(*ok, *at_once), "accepted 90, of which 0 expired; their p99 0.90 s")
    lines = told(*ok, *expired, *at_once)
    assert not held(lines, "accepted 100, of which 10 expired; their p99 2.50 s")
    assert held(lines, "told to come again 300: p50 2 ms, p99 2 ms")


@pytest.mark.parametrize(
    "bad",
    [call(0.1, 503, "runtime_unavailable"), call(0.1, 500, "internal_error"), call(0.1, 503), call(60, NO_ANSWER)],
)
def test_what_an_overload_is_no_reason_for_is_not_orderly(bad: Call) -> None:
    assert held(told(call(0.9, 200), call(0.1, 429, "model_busy")), "; answers {")
    assert not held(told(call(0.9, 200), bad), "; answers {")


def labelled(version: int, label: str) -> Call:
    body = {"version": version, "predictions": [{"labels": [{"label": label, "probability": 0.9}]}]}
    return Call(0.0, 0.01, 200, json.dumps(body).encode())


def test_answers_during_swaps_are_right_where_the_label_is_of_the_version_that_they_name() -> None:
    calls = Calls((labelled(1, "ants"), labelled(2, "bees"), labelled(2, "ants"), call(0.1, 503, "overloaded")), 0)
    assert swaps.right(calls, ("ants", "bees")) == 2


@pytest.mark.parametrize(
    ("small", "code", "holds"),
    [
        (call(0.055, 200), RUBBISH[0].code, [True, True]),
        (call(0.065, 200), RUBBISH[0].code, [True, False]),
        (call(0.01, 503, "overloaded"), RUBBISH[0].code, [False, True]),
        (call(0.01, 200), "internal_error", [False, True]),
    ],
)
def test_what_comes_beside_large_requests_is_answered_soon_and_those_are_refused(
    small: Call, code: str, holds: list[bool]
) -> None:
    alone = Calls((call(0.01, 200),) * 3, 0)
    found = Beside(RUBBISH[0], alone, Calls((*alone.calls, small), 0), Calls((call(1.0, 422, code),), 0))
    assert [held for _, held in found.report()] == holds
