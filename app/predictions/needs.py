"""How much memory a model version takes: as it was measured when it was optimised, or by the size of its file."""

from dataclasses import dataclass
from pathlib import Path

from app import errors
from app.models import artifact
from app.models.service import Served
from app.optimisation import Runtime
from app.runtimes import form, in_onnx, optimised
from app.runtimes.form import Form
from app.storage import Storage


@dataclass(frozen=True)
class Need:
    """Memory in bytes."""

    kept: int
    """Once the version is loaded."""
    loading: int
    """At most while it is being loaded, that included."""


@dataclass(frozen=True)
class _Cost:
    """Memory by the size of the file that a network is read from."""

    kept: float
    """For one thread and for all."""
    loading: float


_COSTS: dict[Runtime, _Cost] = {
    "torch": _Cost(1.1, 2.6),
    "torch-winograd": _Cost(4.8, 6.3),
    "torch-compiled": _Cost(1.3, 2.8),
    "onnxruntime": _Cost(2.1, 5.0),
    "openvino": _Cost(3.4, 3.7),
    "tensorrt": _Cost(2.0, 5.0),
}
_AROUND_BYTES = 16 * 1024 * 1024
"""What comes with every network: activations, and code that a runtime makes for it."""
_OF_ONNX = ("onnxruntime", "openvino", "tensorrt")


def of(version: Served, storage: Storage) -> Need:
    """For the form in which `version` is to be run first. Raises `Unavailable`."""
    first = form.named(version.serving.forms[0])
    file_bytes = artifact.describe(storage.model_version(version.version_id)).weights_bytes
    measured: int | None = None
    if version.serving.optimisation_id is not None:
        place = storage.optimisation(version.serving.optimisation_id)
        file_bytes = _file_bytes(place, first) or file_bytes
        measured = _measured(place, first)
    cost = _COSTS[first.runtime]
    estimate = round(cost.kept * file_bytes) + _AROUND_BYTES
    # A network that was measured to be smaller than its file was given memory that was there already.
    kept = estimate if measured is None or measured < file_bytes else measured
    return Need(kept, kept + round((cost.loading - cost.kept) * file_bytes))


def _file_bytes(optimisation: Path, wanted: Form) -> int | None:
    """Of the network as ONNX; None for a form that is not read from there, or where there is none."""
    path = optimisation / in_onnx.NAMES.get(wanted.precision, in_onnx.NAMES["fp32"])
    return path.stat().st_size if wanted.runtime in _OF_ONNX and path.is_file() else None


def _measured(optimisation: Path, wanted: Form) -> int | None:
    try:
        report = optimised.report(optimisation)
    except errors.Unavailable:
        return None
    speeds = [one.speed for one in report.forms if one.name == wanted.name]
    return speeds[0].memory_bytes if speeds and speeds[0] is not None else None
