"""The chart of control runs, read back from its picture."""

import html
from datetime import timedelta
from xml.etree import ElementTree

import pytest

from app import intervals
from app.experiments import chart, verdict
from app.experiments.schemas import ArmRead, ExperimentRead
from app.experiments.verdict import Arm, Point, Verdict
from app.intervals import Score
from app.jobs.schemas import JobError, JobState
from tests.app.conftest import NOW

SVG = "{http://www.w3.org/2000/svg}"
IMAGES = 36


def arm(right: int, *curve: tuple[int, float, float], seconds: float | None = None) -> ArmRead:
    """A run with these epochs, seconds and accuracies, and a final score of so many of 36 images after `seconds`, or at
    once after the last epoch."""
    score = Score(right, IMAGES)
    return ArmRead(
        job_id="job_1",
        state="succeeded",
        error=None,
        model="control",
        model_version=1,
        strategy="full",
        epochs=30,
        accuracy=score.accuracy,
        interval=intervals.of_share(score),
        images=IMAGES,
        also_chosen_by=None,
        seconds=curve[-1][1] if seconds is None else seconds,
        curve=[Point(epoch, seconds, accuracy, 1.0) for epoch, seconds, accuracy in curve],
    )


def unscored(state: JobState, *curve: tuple[int, float, float]) -> ArmRead:
    """A run that goes on, or ended without a score."""
    none = {"accuracy": None, "interval": None, "model_version": None, "images": None}
    found = arm(0, *(curve or ((0, 0.0, 0.0),)))
    return found.model_copy(update={**none, "state": state, "curve": found.curve if curve else []})


def experiment(told: Verdict | None = None, **arms: ArmRead) -> ExperimentRead:
    found: dict[Arm, ArmRead] = {name: arms[name] for name in verdict.ARMS if name in arms}
    return ExperimentRead(
        id="exp_1",
        dataset_id="ds_1",
        dataset_name="insects",
        dataset_version=1,
        model="control",
        backbone="formnet",
        created_at=NOW,
        has_ended=told is not None,
        arms=found,
        verdict=told,
    )


def drawn(told: Verdict | None = None, **arms: ArmRead) -> ElementTree.Element:
    return ElementTree.fromstring(chart.draw(experiment(told, **arms)))


def dots(picture: ElementTree.Element, name: Arm) -> list[tuple[float, float]]:
    """Where a run's final score is in either panel."""
    found = picture.findall(f".//{SVG}circle[@class='dot {name}']")
    return [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in found]


def whisker(picture: ElementTree.Element, name: Arm) -> tuple[float, float, float]:
    """Place across, low and high end of the first panel's."""
    path = picture.find(f".//{SVG}path[@class='run whisker {name}']")
    assert path is not None
    across, rest = path.attrib["d"].removeprefix("M").split(" ", 1)
    low, high = rest.split("m")[0].split("V")
    return float(across), float(low), float(high)


def line(picture: ElementTree.Element, name: Arm, panel: int) -> list[tuple[float, float]]:
    found = picture.findall(f".//{SVG}polyline[@class='run {name}']")[panel]
    return [(float(x), float(y)) for x, y in (place.split(",") for place in found.attrib["points"].split())]


def test_a_run_ends_at_its_final_score_whatever_its_last_epoch_had() -> None:
    picture = drawn(fine_tune=arm(18, (1, 10, 0.5), (2, 20, 0.75), (3, 30, 1.0)))
    places = line(picture, "fine_tune", 0)
    (x, y), _ = dots(picture, "fine_tune")
    assert (x, y) == (places[-1][0], places[0][1])
    across, low, high = whisker(picture, "fine_tune")
    assert across == x
    # Wilson's interval of a half is even on both sides.
    assert (low + high) / 2 == pytest.approx(y, abs=0.1)


def test_a_run_of_one_epoch_is_where_it_was_and_not_drawn_on() -> None:
    picture = drawn(fine_tune=arm(30, (1, 10, 0.5), (10, 100, 0.8)), scratch=arm(18, (1, 10, 0.5)))
    for panel in (0, 1):
        (place,) = line(picture, "scratch", panel)
        assert dots(picture, "scratch")[panel] == place == line(picture, "fine_tune", panel)[0]


def test_a_probe_is_at_its_own_time_and_its_level_goes_on_from_there() -> None:
    picture = drawn(probe=arm(18, (0, 10, 0.5)), fine_tune=arm(30, (1, 10, 0.5), (10, 200, 0.8)))
    assert dots(picture, "probe")[1] == line(picture, "fine_tune", 1)[0]
    assert picture.findall(f".//{SVG}polyline[@class='run probe']") == []
    levels = picture.findall(f".//{SVG}path[@class='run level probe']")
    assert [float(level.attrib["d"].split("H")[1]) for level in levels] == [600.0, 1240.0]


@pytest.mark.parametrize("reasons", [("Short.",), ("word " * 100,) * 3])
def test_the_legend_and_the_panels_are_below_the_reasons(reasons: tuple[str, ...]) -> None:
    told = Verdict("no_difference", None, (), reasons)
    picture = drawn(told, fine_tune=arm(30, (1, 10, 0.8)))
    lowest = max(float(text.attrib["y"]) for text in picture.findall(f".//{SVG}text[@class='muted']"))
    legend = picture.find(f".//{SVG}text[@class='legend']")
    assert legend is not None
    assert float(legend.attrib["y"]) >= lowest + 30
    assert dots(picture, "fine_tune")[0][1] > float(legend.attrib["y"])


def test_the_page_has_the_verdict_its_reasons_and_every_run() -> None:
    runs = {
        "probe": verdict.Run((), Score(27, IMAGES), "1" * 27 + "0" * 9),
        "fine_tune": verdict.Run((Point(1, 10, 0.9, 1.0),), Score(33, IMAGES), "1" * 33 + "0" * 3),
        "scratch": verdict.Run((Point(1, 10, 0.5, 1.0),), Score(18, IMAGES), "1" * 18 + "0" * 18),
    }
    told = verdict.judge({name: runs[name] for name in verdict.ARMS})
    curves = {name: arm(right, (1, 10, right / IMAGES)) for name, right in (("fine_tune", 33), ("scratch", 18))}
    page = chart.page(experiment(told, **curves), now=NOW)

    assert told.finding == "higher"
    assert "fine-tuning ends higher than training from scratch." in page
    for reason in told.reasons:
        assert f"<li>{html.escape(reason, quote=True)}</li>" in page
    assert "91.7 %" in page
    assert "50.0 %" in page
    assert "on insects, version 1</h1>" in page
    assert "Begun 2026-01-02 00:00 UTC" in page
    assert "http-equiv" not in page
    # From wherever the service is, so that a prefix of its address is kept.
    assert '<a href="exp_1/chart.svg"><img class="chart" src="exp_1/chart.svg?reasons=false"' in page
    assert 'href="../jobs/job_1"' in page
    assert '"/v1' not in page
    assert "+41.7" in page


def test_the_page_of_runs_that_go_on_or_have_failed_says_so() -> None:
    failed = arm(18, (1, 10, 0.5)).model_copy(
        update={
            "state": "failed",
            "accuracy": None,
            "interval": None,
            "model_version": None,
            "error": JobError(code="diverged", message="the loss is <not> a number", detail={}),
        }
    )
    begun = experiment(None, scratch=failed, fine_tune=failed.model_copy(update={"curve": [], "seconds": 0.0}))
    page = chart.page(begun, now=NOW + timedelta(minutes=4))

    assert "have not all ended yet" in page
    assert "figures of 00:04:00 UTC" in page
    assert f'<meta http-equiv="refresh" content="{chart.REFRESH_SECONDS}">' in page
    assert "<td>1 of 30</td><td>10 s</td>" in page
    assert "<td>0 of 30</td><td></td>" in page
    assert "the loss is &lt;not&gt; a number" in page
    assert "Image by image" not in page


def test_a_run_is_ended_at_its_own_seconds_also_where_they_are_the_most_of_all() -> None:
    picture = drawn(
        fine_tune=arm(18, (1, 10, 0.5), (2, 20, 0.75), seconds=100), scratch=arm(18, (1, 10, 0.5), (9, 100, 0.5))
    )
    by_epoch, by_second = dots(picture, "fine_tune")
    assert by_epoch[0] == line(picture, "fine_tune", 0)[-1][0]
    assert by_second[0] == line(picture, "scratch", 1)[-1][0] > line(picture, "fine_tune", 1)[-1][0]

    alone = drawn(fine_tune=arm(18, (1, 10, 0.5), (2, 20, 0.75), seconds=3000))
    assert line(alone, "fine_tune", 1)[-1][0] < dots(alone, "fine_tune")[1][0] <= 1240


@pytest.mark.parametrize("state", ["running", "cancelled"])
def test_a_run_without_a_final_score_has_a_ring_and_no_dot(state: JobState) -> None:
    picture = drawn(fine_tune=unscored(state, (1, 10, 0.5), (2, 20, 0.75)), scratch=arm(18, (1, 10, 0.5)))
    assert dots(picture, "fine_tune") == []
    assert len(dots(picture, "scratch")) == 2
    rings = picture.findall(f".//{SVG}circle[@class='ring fine_tune']")
    assert [float(ring.attrib["cx"]) for ring in rings] == [line(picture, "fine_tune", n)[-1][0] for n in (0, 1)]


@pytest.mark.parametrize(
    ("state", "said"), [("failed", "No run came as far as a score"), ("queued", "There is a chart as soon as")]
)
def test_without_a_score_there_is_a_sentence_and_no_axes(state: JobState, said: str) -> None:
    told = verdict.judge({"fine_tune": verdict.Run((), None), "scratch": verdict.Run((), None)})
    found = experiment(told if state == "failed" else None, fine_tune=unscored(state), scratch=unscored(state))
    page = chart.page(found, now=NOW)
    assert said in page
    assert "<img" not in page
    picture = ElementTree.fromstring(chart.draw(found))
    assert picture.findall(f".//{SVG}line[@class='grid']") == []
    assert picture.findall(f".//{SVG}text[@class='tick']") == []
    assert any((text.text or "").startswith("No run ") for text in picture.findall(f".//{SVG}text[@class='muted']"))


def test_what_was_deleted_is_said_to_be_so() -> None:
    gone = arm(18, (1, 10, 0.5)).model_copy(update={"model_version": None})
    page = chart.page(experiment(None, scratch=gone).model_copy(update={"dataset_name": None}), now=NOW)
    assert "control: deleted" in page
    assert "on ds_1, version 1</h1>" in page
    assert "The data set is deleted." in page
