"""Networks written down for another runtime without being measured: for benchmarks of what happens around them."""

import numpy as np
import torch

from app import optimisation
from app.backbones.export import to_onnx
from app.db import utc_now
from app.models import artifact, serving
from app.models import service as models
from app.models.serving import NewOptimisation
from app.optimisation import DEFAULT_TOLERANCE, Figures, Machine, MeasuredForm, Report, Runtime, Speed
from app.runtimes import in_onnx, in_torch, optimised
from app.runtimes.form import Files
from app.runtimes.opening import Check
from app.runtimes.optimised import Optimised
from bench.serving.subjects import Folder

_SAME = Figures(accuracy=1.0, agreement=1.0, log_loss=0.0, calibration_error=0.0)
RUNTIMES: tuple[Runtime, ...] = ("torch", "onnxruntime", "openvino")


def write(folder: Folder, model: str, runtime: Runtime) -> None:
    """Have the newest version of `model` run by `runtime` in fp32, as the fastest, with nothing known of its memory."""
    with folder.database.read() as session:
        version = models.find_version(session, model, None)
        version_id, job_id = version.id, version.job_id
    made = serving.new_optimisation_id()
    place = folder.storage.optimisation(made)
    place.mkdir(parents=True)
    files = Files(folder.storage.model_version(version_id), place)
    network = in_torch.whole(files)
    side = artifact.describe(files.artifact).preprocessing.crop
    names = (in_onnx.INPUT, *in_onnx.OUTPUTS)
    written = to_onnx(
        network,
        torch.zeros(1, side, side, 3),
        inputs=[in_onnx.INPUT],
        outputs=list(in_onnx.OUTPUTS),
        dynamic={name: {0: "n"} for name in names},
    )
    (place / in_onnx.NAMES["fp32"]).write_bytes(written)
    forms = (_form("torch", 1.0), _form(runtime, 2.0))
    report = Report(Machine("cpu", "", 1), 0, 1.0, DEFAULT_TOLERANCE, forms, optimisation.order(forms))
    optimised.write(place, Optimised(report, Check(np.zeros((1, side, side, 3), np.uint8), {})))
    with folder.database.write() as session:
        serving.record(session, NewOptimisation(made, version_id, job_id, report), now=utc_now())


def _form(runtime: Runtime, rate: float) -> MeasuredForm:
    return MeasuredForm(runtime, "fp32", _SAME, Speed(1.0, 1.0, rate, None), within=True, reason=None)
