"""Classifiers executed by OpenVINO."""

from pathlib import Path
from queue import SimpleQueue

import numpy as np

from app import errors
from app.libraries import openvino
from app.runtimes import in_onnx
from app.runtimes.form import Files, Form, Images, Machine, Passed

_FILES = {"fp32": "fp32", "bf16": "fp32", "int8": "int8"}
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class InOpenVino:
    """A classifier as OpenVINO runs it: as many requests as threads, each in its own, and maybe one that takes all."""

    def __init__(self, path: Path, form: Form, machine: Machine) -> None:
        self._form, self._machine = form, machine
        self._core = openvino.Core()
        # Read once for both, which then have the weights as they were read in common.
        self._read = self._core.read_model(path)
        self._compiled = [self._compile(machine.threads)]
        self._free = _requests(self._compiled[0], machine.threads)
        self._wide: SimpleQueue[openvino.InferRequest] | None = None

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        free = self._wide if alone and self._wide is not None else self._free
        request = free.get()
        try:
            found = request.infer([images.astype(np.float32, copy=False)])
            # The request's own memory is used again by the next one.
            features, logits = (np.array(found[place]) for place in range(2))
        finally:
            free.put(request)
        return Passed(features, logits)

    def widen(self) -> None:
        wide = self._compile(1)
        self._compiled.append(wide)
        self._wide = _requests(wide, 1)

    def settle(self) -> None:
        for compiled in self._compiled:
            compiled.release_memory()

    def _compile(self, streams: int) -> "openvino.CompiledModel":
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._form.precision],
            "INFERENCE_NUM_THREADS": self._machine.threads,
            "NUM_STREAMS": streams,
            # Pinned to cores, they would wait for whoever else is at work there.
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(self._read, "CPU", settings)


def open_openvino(files: Files, form: Form, machine: Machine) -> InOpenVino:
    """Raises `Unavailable`."""
    if openvino is None:
        raise errors.Unavailable("OpenVINO is not installed", code="runtime_unavailable")
    path = in_onnx.file_of(files, _FILES[form.precision])
    try:
        return InOpenVino(path, form, machine)
    except RuntimeError as error:
        message = f"OpenVINO cannot load the network: {error}"
        raise errors.Unavailable(message, code="runtime_unavailable") from error


def _requests(compiled: "openvino.CompiledModel", count: int) -> "SimpleQueue[openvino.InferRequest]":
    """As many as may run at once."""
    free: SimpleQueue[openvino.InferRequest] = SimpleQueue()
    for _ in range(count):
        free.put(compiled.create_infer_request())
    return free
