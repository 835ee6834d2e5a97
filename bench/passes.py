"""One bare pass of images through a network: decoded in a thread pool and sent through, at the fastest of the runtimes
that are installed. What `bench.training` compares with."""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.backbones import crops
from app.backbones.classifier import InferenceForm
from app.backbones.preprocess import Pixels, Preprocessing
from app.libraries import onnxruntime, openvino
from bench.photos import Photos
from worker.training import data

_BATCH = 8
_TRIED = 64
"""Images by which the fastest runtime is found."""
_MAX_PIXELS = 100_000_000

Run = Callable[[Iterator[Tensor]], None]
"""Sends all batches `(N, 3, H, W) uint8` through a network."""


@dataclass(frozen=True)
class Runtime:
    """A network made ready for a pass."""

    name: str
    batch: int
    run: Run


def runtimes(form: InferenceForm, size: int) -> list[Runtime]:
    """The network for images of `size` pixels in every runtime."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch favours another exporter, which takes a hundred times as long
        images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        axes = {"images": {0: "count"}}
        path = Path(folder) / "network.onnx"
        torch.onnx.export(form, (images,), path, dynamo=False, input_names=["images"], dynamic_axes=axes)
        model = path.read_bytes()
    return [
        Runtime("torch", _BATCH, lambda batches: _in_torch(form, batches, half=False)),
        Runtime("torch bf16", _BATCH, lambda batches: _in_torch(form, batches, half=True)),
        Runtime("onnxruntime", _BATCH, _onnxruntime(model)),
        Runtime("openvino", 1, _openvino(model, size, "f32")),
        Runtime("openvino bf16", 1, _openvino(model, size, "bf16")),
    ]


def fastest(found: list[Runtime], photos: Photos, preprocessing: Preprocessing) -> tuple[Runtime, dict[str, float]]:
    """The runtime whose pass takes least, and the milliseconds per image of each, decoding included."""
    some = photos.at(np.arange(min(_TRIED, len(photos))))
    for runtime in found:
        seconds(runtime, some, preprocessing)
    took = {
        runtime.name: 1000 * min(seconds(runtime, some, preprocessing) for _ in range(3)) / len(some)
        for runtime in found
    }
    return min(found, key=lambda runtime: took[runtime.name]), took


def seconds(runtime: Runtime, photos: Photos, preprocessing: Preprocessing) -> float:
    """What the pass of `photos` takes."""

    def view(_position: int, file: bytes) -> Pixels:
        return crops.load(file, preprocessing, max_pixels=_MAX_PIXELS)

    started = time.perf_counter()
    parts = data.parts_of(len(photos), runtime.batch)
    runtime.run(data.batches(photos, parts, view, threads=torch.get_num_threads()))
    return time.perf_counter() - started


def _in_torch(form: InferenceForm, batches: Iterator[Tensor], *, half: bool) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        for batch in batches:
            form(batch)


def _onnxruntime(model: bytes) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(batches: Iterator[Tensor]) -> None:
        for batch in batches:
            session.run(None, {"images": batch.numpy()})

    return run


def _openvino(model: bytes, size: int, precision: str) -> Run:
    core = openvino.Core()
    read = core.read_model(model, b"")
    read.reshape([1, 3, size, size])
    threads = torch.get_num_threads()
    compiled = core.compile_model(
        read,
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads},
    )

    def run(batches: Iterator[Tensor]) -> None:
        queue = openvino.AsyncInferQueue(compiled, threads)
        for batch in batches:
            pixels: NDArray[np.uint8] = np.ascontiguousarray(batch.numpy())
            queue.start_async([pixels])
        queue.wait_all()

    return run
