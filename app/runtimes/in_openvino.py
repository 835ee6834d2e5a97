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
        self._path, self._form, self._machine = path, form, machine
        self._free = self._requests(machine.threads)
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
        self._wide = self._requests(1)

    def _requests(self, streams: int) -> "SimpleQueue[openvino.InferRequest]":
        """As many as may run at once."""
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._form.precision],
            "INFERENCE_NUM_THREADS": self._machine.threads,
            "NUM_STREAMS": streams,
            # Pinned to cores, they would wait for whoever else is at work there.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = core.compile_model(core.read_model(self._path), "CPU", settings)
        except RuntimeError as error:
            message = f"OpenVINO cannot load the network: {error}"
            raise errors.Unavailable(message, code="runtime_unavailable") from error
        free: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            free.put(model.create_infer_request())
        return free


def open_openvino(files: Files, form: Form, machine: Machine) -> InOpenVino:
    """Raises `Unavailable`."""
    if openvino is None:
        raise errors.Unavailable("OpenVINO is not installed", code="runtime_unavailable")
    return InOpenVino(in_onnx.file_of(files, _FILES[form.precision]), form, machine)
