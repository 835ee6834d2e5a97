"""Classifiers executed by ONNX Runtime; by TensorRT within it, where both are installed."""

from pathlib import Path
from typing import Any

import numpy as np

from app import errors
from app.libraries import onnxruntime
from app.models import artifact as artifacts
from app.runtimes import memory
from app.runtimes.form import BATCH, Files, Form, Images, Machine, Passed

NAMES = {"fp32": "fp32.onnx", "int8": "int8.onnx"}
"""The files of an optimisation, by precision."""
INPUT, OUTPUTS = "images", ("features", "logits")
ENGINES = "engines"
"""The folder in an optimisation for what TensorRT builds of it, by precision, on each kind of GPU anew."""
Providers = list[str | tuple[str, dict[str, Any]]]
_TENSORRT = "TensorrtExecutionProvider"


class InOnnx:
    """A classifier as ONNX Runtime runs it: a session in which each caller computes in its own thread, and maybe one
    that computes in all."""

    def __init__(self, path: Path, machine: Machine, providers: Providers) -> None:
        self._path, self._machine, self._providers = path, machine, providers
        self._single = session(path, 1, providers)
        self._wide: onnxruntime.InferenceSession | None = None

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        chosen = self._wide if alone and self._wide is not None else self._single
        features, logits = chosen.run(OUTPUTS, {INPUT: images.astype(np.float32, copy=False)})
        return Passed(features, logits)

    def widen(self) -> None:
        memory.give_back()  # what it took to make the first one, which this one would have beside it
        self._wide = session(self._path, self._machine.threads, self._providers)

    def settle(self) -> None:
        """Nothing: without an arena, memory of a pass is free after it."""


class InTensorRt(InOnnx):
    """A classifier as TensorRT runs it within ONNX Runtime."""

    def widen(self) -> None:
        """Nothing: all of the GPU computes any pass, and a second session would hold the engine twice."""


def open_onnx(files: Files, form: Form, machine: Machine) -> InOnnx:
    """For the CPU. Raises `Unavailable`."""
    if onnxruntime is None:
        raise errors.Unavailable("ONNX Runtime is not installed", code="runtime_unavailable")
    return InOnnx(file_of(files, form.precision), machine, ["CPUExecutionProvider"])


def open_tensorrt(files: Files, form: Form, machine: Machine) -> InTensorRt:
    """For an NVIDIA GPU. Raises `Unavailable`, also where TensorRT cannot take the whole network: the shapes between
    parts are not known."""
    path = file_of(files, "fp32")
    if onnxruntime is None or _TENSORRT not in onnxruntime.get_available_providers():
        raise errors.Unavailable("ONNX Runtime with TensorRT is not installed", code="runtime_unavailable")
    engines = path.parent / ENGINES / form.precision
    engines.mkdir(parents=True, exist_ok=True)
    number = int(machine.device.partition(":")[2] or 0)
    options = {
        "device_id": number,
        "trt_fp16_enable": form.precision == "fp16",
        "trt_bf16_enable": form.precision == "bf16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(engines),
        **_profile(artifacts.describe(files.artifact).preprocessing.crop, machine),
    }
    return InTensorRt(path, machine, [(_TENSORRT, options), "CPUExecutionProvider"])


def file_of(files: Files, precision: str) -> Path:
    """The network in `precision` as ONNX. Raises `Unavailable` where no optimisation has made it."""
    path = files.optimised / NAMES[precision] if files.optimised and precision in NAMES else None
    if path is None or not path.is_file():
        raise errors.Unavailable(f"the network was not written down in {precision}", code="runtime_unavailable")
    return path


def _profile(side: int, machine: Machine) -> dict[str, str]:
    """For which numbers of images `side` pixels wide an engine is built, and for which it is the fastest: else it would
    be for those that it has seen, and be built anew, within a request, for each that is outside of them."""
    counts = {"min": 1, "opt": min(BATCH, machine.batch), "max": machine.batch}
    return {f"trt_profile_{end}_shapes": f"{INPUT}:{count}x{side}x{side}x3" for end, count in counts.items()}


def session(path: Path, threads: int, providers: Providers) -> "onnxruntime.InferenceSession":
    """The network at `path` as the first of the `providers` runs it. Raises `Unavailable`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait busily take the cores from those who decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # An arena would keep what the largest batch took for as long as the session lasts, and is no faster.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    try:
        made = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its own classes, which share no base but this
        raise errors.Unavailable(
            f"ONNX Runtime cannot load the network: {error}", code="runtime_unavailable"
        ) from error
    # Where a provider cannot be had, it takes the next one, here and at any pass, and says so in its log alone.
    made.disable_fallback()
    first = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if first not in made.get_providers():
        raise errors.Unavailable(f"ONNX Runtime does not run the network by {first}", code="runtime_unavailable")
    return made
