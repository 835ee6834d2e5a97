"""Optimisations in real processes: a model version in all forms, compared, kept, and chosen from."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app import errors, optimisation
from app.db import Database, utc_now
from app.jobs import leases, service
from app.jobs.events import Line
from app.jobs.leases import Failure
from app.jobs.schemas import OptimisationCreate
from app.metrics import Metrics
from app.models import service as models
from app.models import serving
from app.models.service import Served
from app.models.serving import Process
from app.optimisation import Pins, Serving, Speed, Tolerance
from app.predictions.opener import FromStorage
from app.runtimes import in_onnx, opening, optimised
from app.runtimes.form import PLAIN, Files, Form, Network
from app.settings import Settings
from app.storage import Storage
from tests.worker.conftest import Desk, on_sqlite
from tests.worker.optimised import MACHINE, ended, pixels, report_of, submit, trained
from tests.worker.test_runner import files_left
from worker import kinds
from worker.optimise import optimise
from worker.optimising import measure
from worker.optimising.measure import Pace
from worker.runner import Runner

__all__ = ["trained"]  # a fixture

FORMS = ["torch-winograd-fp32", "onnxruntime-fp32", "openvino-fp32", "onnxruntime-int8", "openvino-int8"]
AROUND_BYTES = 16 * 2**20
"""What a small network takes for more than its values at the most. OpenVINO takes 45 MB for itself, with the first
network that it runs."""


@on_sqlite
def test_every_form_gives_the_answers_of_the_plain_one_and_the_report_is_right(
    desk: Desk, runner: Runner, dataset_id: str, trained: str, files: Storage
) -> None:
    optimisation_id = ended(desk, runner, OptimisationCreate(forms=FORMS))
    report = report_of(desk.database, trained)
    place = files.optimisation(optimisation_id)
    assert optimised.read(place).report == report
    assert [form.name for form in report.forms] == [PLAIN.name, *FORMS]
    assert report.order[-1] == PLAIN.name

    images, targets = pixels(desk, dataset_id, trained)
    assert report.images == len(images)
    where = Files(files.model_version(trained), place)
    plain = opening.open_form(where, PLAIN, MACHINE).run(images).logits
    refused = []
    for form in report.forms:
        passed = opening.open_form(where, Form(form.runtime, form.precision), MACHINE).run(images)
        logits = passed.logits
        assert np.abs(logits - plain).max() < (1e-4 if form.precision == "fp32" else 0.5)
        assert form.figures is not None
        assert form.speed is not None
        assert form.figures.accuracy == (logits.argmax(axis=1) == targets).mean()
        assert form.figures.agreement == (logits.argmax(axis=1) == plain.argmax(axis=1)).mean()
        likelihood = np.exp(logits / report.temperature)
        likelihood /= likelihood.sum(axis=1, keepdims=True)
        log_loss = -np.log(likelihood[np.arange(len(targets)), targets]).mean()
        assert form.figures.log_loss == pytest.approx(log_loss, rel=1e-3, abs=1e-4)
        served = Served(trained, "colours", 1, Serving(optimisation_id, (form.name,)))
        answers = FromStorage(files, MACHINE, 1, Metrics()).open(served)
        unknown = [bool(answers.answers([image], alone=False)[0].is_unknown) for image in images]
        assert form.figures.refused == np.mean(unknown)
        refused.append(unknown)
        assert form.figures.unknown_agreement == np.mean(np.array(unknown) == np.array(refused[0]))
        assert min(form.speed.latency_ms, form.speed.single_thread_ms, form.speed.images_per_second) > 0
        assert form.within
        file_bytes = (place / in_onnx.NAMES[form.precision]).stat().st_size
        assert form.speed.memory_bytes is not None
        assert file_bytes < form.speed.memory_bytes < 10 * file_bytes + AROUND_BYTES
    rates = {form.name: form.speed.images_per_second for form in report.forms if form.speed}
    assert [rates[name] for name in report.order] == sorted((rates[name] for name in report.order), reverse=True)


@on_sqlite
def test_the_job_tells_of_each_form_and_leaves_nothing_behind(
    desk: Desk, runner: Runner, trained: str, files: Storage
) -> None:
    job = submit(desk, OptimisationCreate(forms=["onnxruntime-fp32", "openvino-int8"]))
    runner.run(job.id)
    history = desk.history(job.id)
    assert history.count("form_measured") == 3
    assert history[-2:] == ["forms_ordered", "succeeded"]
    assert "quantised" in history
    assert [name for name in files_left(files) if name.startswith("jobs")] == []


@on_sqlite
def test_a_form_is_timed_as_long_as_the_settings_of_the_worker_say(
    desk: Desk, trained: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(desk, OptimisationCreate(forms=["onnxruntime-fp32"]))
    with desk.database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        given = settings.model_copy(update={"optimise_seconds": 0.07})
        work = kinds.KINDS["optimise"].prepare(session, claim, given, desk.files)
    paces: list[Pace] = []
    speed = measure.speed

    def noted(network: Network, images: NDArray[np.uint8], pace: Pace, **given: Any) -> Speed:
        paces.append(pace)
        return speed(network, images, pace, **given)

    monkeypatch.setattr(measure, "speed", noted)
    assert optimise(work, lambda _event: None).version_id == trained
    assert [pace.seconds for pace in paces] == [0.07, 0.07]


@on_sqlite
def test_an_attempt_removes_what_earlier_ones_have_left_and_nothing_of_one_that_took_its_place(
    desk: Desk, trained: str, settings: Settings
) -> None:
    job = submit(desk, OptimisationCreate(forms=["onnxruntime-fp32"]))
    with desk.database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        earlier, work, later = (kinds.KINDS["optimise"].prepare(session, claim, settings, desk.files) for _ in range(3))
    for attempt in (earlier, later):
        folder = attempt.folder / attempt.optimisation_id
        folder.mkdir()
        (folder / "validation.pixels").write_bytes(b"left")
    optimise(work, lambda _event: None)
    assert sorted(path.name for path in work.folder.iterdir()) == [work.optimisation_id, later.optimisation_id]


@on_sqlite
def test_the_last_attempt_goes_without_the_forms_in_which_the_process_of_others_was_killed(
    desk: Desk, runner: Runner, trained: str
) -> None:
    with desk.database.write() as session:
        wanted = OptimisationCreate(forms=["onnxruntime-fp32", "openvino-fp32"])
        version = models.find_version(session, "colours", 1)
        job = service.submit_optimisation(session, "colours", version, wanted, max_attempts=3, now=utc_now())
    measured = Line("form_measured", {"name": "onnxruntime-fp32"})
    for begun in (
        [Line("form_begun", {"name": "openvino-fp32"})],
        [Line("form_begun", {"name": "onnxruntime-fp32"}), measured],
    ):
        with desk.database.write() as session:
            claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
            assert claim is not None
            leases.record(session, claim, begun, now=utc_now(), lease_seconds=60)
            killed = Failure("process_killed", "the job's process was ended by SIGKILL", {"signal": "SIGKILL"})
            leases.release(session, claim, killed, counts=True, now=utc_now())
    runner.run(job.id)
    assert desk.job(job.id).state == "succeeded", desk.job(job.id).error
    assert desk.history(job.id).count("form_begun") == 3
    assert [(form.name, form.reason) for form in report_of(desk.database, trained).forms] == [
        (PLAIN.name, None),
        ("onnxruntime-fp32", None),
        ("openvino-fp32", "the job's process was ended by SIGKILL"),
    ]


@on_sqlite
def test_a_form_outside_the_tolerance_is_not_served_unless_it_is_pinned(
    desk: Desk, runner: Runner, trained: str, database: Database
) -> None:
    # Nothing agrees on more than all images, so the reports' figures are judged by a tolerance that they cannot meet.
    ended(desk, runner, OptimisationCreate(forms=["onnxruntime-fp32"]))
    found = report_of(database, trained)
    plain, other = found.forms
    assert other.figures is not None
    worse = replace(other.figures, agreement=0.5)
    assert "agrees on 50.00 %" in str(optimisation.miss(worse, worse, Tolerance()))
    bad = replace(other, figures=worse, within=False, reason="it agrees on 50 %")
    report = replace(found, forms=(plain, bad), order=optimisation.order([plain, bad]))
    assert optimisation.choose(report, Pins()) == (PLAIN.name,)
    assert optimisation.choose(report, Pins(runtime="onnxruntime")) == ("onnxruntime-fp32", PLAIN.name)


@on_sqlite
def test_a_broken_file_is_noticed_and_a_form_that_does_not_load_is_passed_over(
    desk: Desk, runner: Runner, trained: str, files: Storage
) -> None:
    place = files.optimisation(ended(desk, runner, OptimisationCreate(forms=["onnxruntime-fp32", "openvino-fp32"])))
    check = optimised.read(place).check
    (place / "fp32.onnx").write_bytes(b"no network")
    with pytest.raises(errors.Unavailable, match=r"has changed since it was written: fp32\.onnx"):
        optimised.read(place)
    where = Files(files.model_version(trained), place)
    wanted = (Form("onnxruntime", "fp32"), Form("openvino", "fp32"), PLAIN)
    failed: list[Form] = []

    def pass_over(form: Form, _reason: str) -> None:
        failed.append(form)

    made = opening.open_first(
        where, wanted, MACHINE, make=lambda _network, form: form, pass_over=pass_over, check=check
    )
    assert made == PLAIN
    assert failed == [Form("onnxruntime", "fp32"), Form("openvino", "fp32")]


@on_sqlite
def test_forms_that_the_machine_cannot_run_end_the_job_with_those_it_can(
    desk: Desk, runner: Runner, trained: str
) -> None:
    job = submit(desk, OptimisationCreate(forms=["tensorrt-fp16"]))
    runner.run(job.id)
    error = desk.job(job.id).error
    assert error is not None
    assert error["code"] == "no_form_here"
    assert "onnxruntime-int8" in error["detail"]["possible"]


@on_sqlite
def test_a_form_that_the_machine_cannot_run_is_said_beside_those_it_can(
    desk: Desk, runner: Runner, trained: str
) -> None:
    job = submit(desk, OptimisationCreate(forms=["tensorrt-fp16", "onnxruntime-fp32"]))
    runner.run(job.id)
    assert "form_refused" in desk.history(job.id)
    found = report_of(desk.database, trained)
    assert [form.name for form in found.forms] == [PLAIN.name, "onnxruntime-fp32", "tensorrt-fp16"]
    assert (found.forms[-1].figures, found.forms[-1].reason) == (None, "this machine's CPU or GPU does not run it")
    with desk.database.write() as session, pytest.raises(errors.Invalid, match="tensorrt-fp16: this machine's CPU"):
        serving.pin(session, "colours", 1, Pins("tensorrt", "fp16"), revision=None)


@on_sqlite
@pytest.mark.slow
def test_the_compiled_form_in_fp32_is_had_by_name_on_any_cpu_and_can_be_pinned(
    desk: Desk, runner: Runner, trained: str
) -> None:
    ended(desk, runner, OptimisationCreate(forms=["torch-compiled-fp32"]))
    compiled = report_of(desk.database, trained).forms[1]
    assert (compiled.name, compiled.reason) == ("torch-compiled-fp32", None)
    with desk.database.write() as session:
        serving.pin(session, "colours", 1, Pins("torch-compiled", "fp32"), revision=None)
    with desk.database.read() as session:
        version = models.find_version(session, "colours", 1)
        assert serving.of_version(session, version, Process()).forms[0] == "torch-compiled-fp32"
