"""The work of an optimisation: a model version in all forms that this machine can run, compared with one another."""

import shutil

import torch

from app import errors
from app.models import artifact
from app.models.artifact import Calibration
from app.runtimes import opening, optimised
from app.runtimes.form import PLAIN, Files, Form, Machine, named
from worker import machine
from worker.optimising import compare
from worker.optimising.compare import Setting, Subject
from worker.optimising.measure import Scale
from worker.splits import splits_of
from worker.training.events import Emit
from worker.works import OptimiseOutcome, OptimiseWork


def optimise(work: OptimiseWork, emit: Emit) -> OptimiseOutcome:
    """Carry out `work`. Raises `Unavailable` where the artifact cannot be run, `Invalid` where none of the forms wanted
    is one of this machine's, and `BadImage`."""
    stored = artifact.read(work.artifact)
    device = torch.device("cuda" if work.device == "gpu" and torch.cuda.is_available() else "cpu")
    # Each attempt writes into a folder of its own: a stale one that is still at work spoils nothing.
    folder = work.folder / work.optimisation_id
    networks = folder / "optimisation"
    networks.mkdir(parents=True)
    _remove_earlier_attempts(work)
    forms, elsewhere = _forms(work.forms, work.kept_forms, device)
    subject = Subject(
        files=Files(work.artifact, networks),
        preprocessing=stored.preprocessing,
        scale=_scale(stored.calibration),
        splits=splits_of(work.table, work.tag),
        max_pixels=work.max_image_pixels,
    )
    setting = Setting(
        forms=forms,
        elsewhere=elsewhere,
        tolerance=work.tolerance,
        machine=Machine(torch.get_num_threads(), str(device)),
        seconds=work.seconds,
        machine_name=machine.name(device),
        workdir=folder,
        given_up=work.given_up,
    )
    found = compare.compare(subject, setting, emit)
    optimised.write(networks, found)
    return OptimiseOutcome(
        folder=networks,
        optimisation_id=work.optimisation_id,
        version_id=work.version_id,
        report=found.report,
        kept_forms=work.kept_forms,
        process_pins=work.process_pins,
    )


def _remove_earlier_attempts(work: OptimiseWork) -> None:
    """Nothing of them is gone on with. One of them may still be at work, which ends by what it misses."""
    # Ids sort by the time they were made: an attempt that begins late, its lease being over, spoils nothing of the one
    # that has taken its place.
    for path in work.folder.glob("*"):
        if path.is_dir() and path.name < work.optimisation_id:
            shutil.rmtree(path, ignore_errors=True)


def _scale(calibration: Calibration | None) -> Scale:
    if calibration is None:
        return Scale(temperature=1.0, means=None, unknown_below=0.0)
    return Scale(calibration.temperature, calibration.means.numpy(), calibration.unknown_below)


def _forms(
    wanted: tuple[str, ...] | None, kept: tuple[str, ...], device: torch.device
) -> tuple[tuple[Form, ...], tuple[Form, ...]]:
    """What to compare, and what was wanted but is nothing for this machine."""
    possible = opening.forms(device)
    if wanted is None:
        usual = {*opening.usual_forms(device)}
        return tuple(form for form in possible if form in usual or form.name in kept), ()
    if not any(form.name in wanted for form in possible):
        names = ", ".join(form.name for form in possible)
        raise errors.Invalid(
            f"none of {', '.join(wanted)} is a form that this machine may run; these are {names}",
            code="no_form_here",
            detail={"wanted": [*wanted], "possible": [form.name for form in possible]},
        )
    here = tuple(form for form in possible if form.name in (PLAIN.name, *wanted, *kept))
    return here, tuple(form for form in map(named, wanted) if form not in possible)
