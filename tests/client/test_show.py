"""Tables on terminals that are not wide."""

import io
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from rich.console import Console, RenderableType

from app import wording
from client import show
from client.forms import Form, FormFigures, FormMachine, FormReport, FormSpeed, Optimisation, Pins, Runtimes
from client.profiles import Costs, CurvePoint, Depth, Figures, Probe, Profile
from client.recipe import Recipe
from client.values import (
    Candidate,
    Cost,
    Estimate,
    Job,
    JobError,
    LabelProbability,
    Latency,
    Place,
    Plan,
    Planned,
    Prediction,
    Progress,
    Ranking,
    RankingFigures,
    RankingSetting,
    Treatment,
)

JOB = Job(
    id="job_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e",
    kind="optimise",
    state="cancelling",
    dataset_id="ds_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e",
    model_name="insects-of-the-garden-in-summer",
    plan=None,
    attempt=2,
    max_attempts=3,
    progress=None,
    result=None,
    error=None,
    created_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    finished_at=None,
)
PROBE = Probe(accuracy=0.9125, log_loss=0.251, error=0.0125)
DEPTH = Depth(name="stage1", features=1024, probe=PROBE, log_me=-0.512, h_score=1.234, neighbours=0.875)
COSTS = Costs(decode=0.001, forward=0.002, step=0.003, device="cpu", threads=1)
FIGURES = Figures(
    backbone="resnet50",
    weights="IMAGENET1K_V2",
    classes=2,
    images=100,
    measured=100,
    depths=[DEPTH],
    together=PROBE,
    curve=[],
    random=[DEPTH],
    costs=COSTS,
)
PLAN = Plan(backbone="resnet50", strategy="head", treatments=[], expected=None, estimate=None, reasons=[])
AUTO = Recipe(backbone="resnet50")
PLANNED = Planned(dataset_id=JOB.dataset_id, dataset_version=1, plan=PLAN, profile=Profile("prf_1", FIGURES))


def printed(*parts: RenderableType, columns: int = 80) -> list[str]:
    written = io.StringIO()
    console = Console(file=written, width=columns, markup=False, emoji=False)
    for part in parts:
        console.print(part)
    return written.getvalue().splitlines()


def test_labels_of_what_is_like_nothing_learned_are_not_told_as_if_they_meant_something() -> None:
    labels = [LabelProbability(label="ants", probability=0.6), LabelProbability(label="bees", probability=0.4)]
    assert show.best(Prediction(labels=labels)) == "ants 60.0 %, bees 40.0 %"
    assert show.best(Prediction(labels=labels, unknown=False)) == "ants 60.0 %, bees 40.0 %"
    told = "ants 60.0 %, bees 40.0 %; but less like the photos it knows than 19 of 20 of them are"
    assert show.best(Prediction(labels=labels, unknown=True)) == told


def test_what_was_measured_says_of_how_many_labels_where_they_were_drawn() -> None:
    def told(figures: Figures) -> str:
        profile = Profile("prf_1", figures)
        return " ".join(printed(*show.planned(msgspec.structs.replace(PLANNED, profile=profile), AUTO), columns=1000))

    drawn = msgspec.structs.replace(FIGURES, images=50_000, measured=2_000, classes=1_000, measured_labels=100)
    assert "resnet50, IMAGENET1K_V2: 2000 of 50000 training images of 100 of 1000 labels" in told(drawn)
    assert "resnet50, IMAGENET1K_V2: 100 of 100 training images " in told(FIGURES)


@pytest.mark.parametrize("columns", [80, 1000])
def test_ids_and_states_of_jobs_are_never_broken(columns: int) -> None:
    lines = printed(*show.jobs([JOB, JOB]), columns=columns)

    assert sum(JOB.id in line and "cancelling" in line and "2/3" in line for line in lines) == 2
    assert (len(lines) == 3) == (columns == 1000)


def test_jobs_say_when_they_were_created_with_the_year_and_the_time_zone() -> None:
    in_sydney = JOB.created_at.astimezone(timezone(timedelta(hours=11)))
    heading, line = printed(*show.jobs([msgspec.structs.replace(JOB, created_at=in_sydney)]), columns=1000)

    assert heading.rstrip().endswith("Created (UTC)")
    assert line.endswith("2026-01-02 03:04:00")


def test_what_a_job_failed_with_or_is_at_follows_on_a_line_of_its_own() -> None:
    failed = msgspec.structs.replace(JOB, state="failed", error=JobError("out_of_memory", "the batch", {}))
    running = msgspec.structs.replace(JOB, state="running", progress=Progress("train", 1, 10))

    lines = printed(*show.jobs([failed, running]))

    assert lines[-2:] == [f"{JOB.id}: out_of_memory: the batch", f"{JOB.id}: training"]


def test_a_profile_is_told_with_no_heading_broken() -> None:
    assert any("cpu, 1 thread)" in line for line in printed(*show.planned(PLANNED, AUTO), columns=200))
    (heading,) = (line for line in printed(*show.planned(PLANNED, AUTO)) if line.startswith("Depth"))

    assert heading.split()[3:] == ["Log-loss", "LogME", "H-score", "Neighbours", "Untrained"]


def test_a_profile_has_the_same_figures_of_the_untrained_network() -> None:
    worse = Probe(accuracy=0.5, log_loss=0.7, error=0.05)
    figures = msgspec.structs.replace(
        FIGURES,
        curve=[CurvePoint(50, PROBE), CurvePoint(100, PROBE)],
        random_together=worse,
        random_curve=[CurvePoint(32, worse), CurvePoint(50, worse)],
    )
    planned = msgspec.structs.replace(PLANNED, profile=Profile("prf_1", figures))
    lines = [line.split() for line in printed(*show.planned(planned, AUTO), columns=200)]

    assert ["all", "together", "1024", "91.2", "±", "1.2", "%", "0.251", "50.0", "±", "5.0", "%"] in lines
    heading = ["Images", "Accuracy", "Log-loss"]
    begin = lines.index(heading)
    assert lines[begin + 1 : begin + 3] == [
        ["50", "91.2", "±", "1.2", "%", "0.251"],
        ["100", "91.2", "±", "1.2", "%", "0.251"],
    ]
    begin = lines.index(heading, begin + 1)
    assert lines[begin - 1] == ["The", "same", "untrained"]
    assert [line[:5] for line in lines[begin + 1 : begin + 3]] == [
        ["32", "50.0", "±", "5.0", "%"],
        ["50", "50.0", "±", "5.0", "%"],
    ]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Recipe(backbone="resnet50", strategy="head"), "Not measured with this backbone yet; --measure does that"),
        (Recipe(backbone="tinynet"), "Nothing is measured for this"),  # or auto would have done so
        (Recipe(backbone="resnet50", strategy="head", base="insects@1"), "With a base nothing is measured"),
        (Recipe(backbone="resnet50", base="insects@1"), "With a base nothing is measured"),
    ],
)
def test_only_where_it_would_do_something_is_measuring_advised(asked: Recipe, told: str) -> None:
    unmeasured = msgspec.structs.replace(PLANNED, profile=None)

    assert printed(*show.planned(unmeasured, asked), columns=200)[0].startswith(told)


@pytest.mark.parametrize("values", ["fitted", "base"])
def test_a_head_without_a_learning_rate_is_fitted_and_does_not_stay_as_it_is(values: str) -> None:
    treatments = [Treatment("layer4", "pretrained", None), Treatment("head", values, None)]
    plan = msgspec.structs.replace(PLAN, treatments=treatments)

    lines = printed(*show.planned(msgspec.structs.replace(PLANNED, plan=plan), AUTO), columns=200)

    (layer,) = (line for line in lines if line.startswith("layer4"))
    (head,) = (line for line in lines if line.startswith("head") and values in line)
    assert layer.split("  ")[-1].strip() == "stays as it is"
    assert head.split()[-1] == "fitted"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "0 s"),
        (0.0482, "0.048 s"),
        (2.34, "2.3 s"),
        (95.4, "95 s"),
        (1440.0, "24 min"),
        (5 * 3600.0, "5 h"),
        (86_400.0 * 1.5, "36 h"),
    ],
)
def test_what_a_training_takes_is_told_in_the_unit_that_people_would_use(seconds: float, told: str) -> None:
    plan = msgspec.structs.replace(PLAN, estimate=Estimate(seconds, None))

    assert printed(*show.planned(msgspec.structs.replace(PLANNED, plan=plan), AUTO))[-1] == f"Estimated: {told}."
    assert wording.estimated(seconds) == told  # pages say the same


def test_little_memory_is_not_told_as_none_and_what_is_refused_and_batched_is_told_where_it_is_known() -> None:
    speed = FormSpeed(latency_ms=1.0, single_thread_ms=1.0, images_per_second=10.0, memory_bytes=300_000, batch=1)
    forms = [
        Form("torch", "fp32", FormFigures(0.9, 1.0, 0.1, 0.02), speed, within=True, reason=None),
        Form(
            "openvino",
            "fp32",
            FormFigures(0.9, 1.0, 0.1, 0.02, refused=0.048),
            msgspec.structs.replace(speed, memory_bytes=12_300_000, images_per_second=87.0, batch=4),
            within=True,
            reason=None,
        ),
    ]
    report = FormReport(FormMachine("cpu", "a CPU", 1), 10, forms)
    found = Runtimes("insects", 1, Pins("auto", "auto"), 1, [], [Optimisation("opt_1", report)])
    first, second = (line for line in printed(*show.runtimes(found), columns=120) if "fp32" in line)
    assert "0.3 MB" in first
    assert "12 MB" in second
    assert "87 (4)" in second
    assert "(" not in first
    assert "4.8 %" not in first
    assert "4.8 %" in second


def test_what_is_written_to_a_program_is_not_broken_into_lines() -> None:
    program = "from client.terminal import console; console.print('word ' * 100)"
    environment = {**os.environ, "COLUMNS": "80"}
    written = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert len(written.stdout.splitlines()) == 1


def ranked(setting: RankingSetting) -> Ranking:
    cost = Cost(parameters=179_000, size_bytes=716_000, macs=37_000_000, latency=Latency(0.0031))
    entries = [
        Candidate(name, "own", 0.1, 0.2, 0.9, PROBE, cost, has_seen=name == "mine@1") for name in ("mine@1", "formnet")
    ]
    places = [
        Place(entry.name, number, dict.fromkeys(("probe", "log_me", "h_score", "neighbours"), number))
        for number, entry in enumerate(entries, 1)
    ]
    figures = RankingFigures(setting, entries, places, remarks=["All scores put formnet first."])
    return Ranking("rnk_1", "ds_1", 1, figures)


def test_a_ranking_marks_what_has_seen_the_images_and_tells_small_sizes_apart() -> None:
    first, second = printed(*show.ranking(ranked(RankingSetting(classes=2))), columns=200)[1:3]
    assert "mine@1 (has seen the images)" in first
    assert "(has seen" not in second
    for told in ("0.179 M", "0.037", "0.7 MB", "3.1 ms"):
        assert told in second


def test_a_ranking_says_of_how_many_labels_it_is_where_they_were_drawn() -> None:
    def told(setting: RankingSetting) -> str:
        return " ".join(printed(*show.ranking(ranked(setting)), columns=1000))

    assert "Scores are of 100 of 1000 labels. In brackets" in told(RankingSetting(classes=1000, measured_labels=100))
    assert "Scores are of" not in told(RankingSetting(classes=2))
