"""Networks for TensorRT, as ONNX Runtime is told of them where there is a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.libraries import onnxruntime
from app.runtimes import in_onnx
from app.runtimes.form import Files, Form, Images, Machine
from tests import factories

TENSORRT = "TensorrtExecutionProvider"


class Session:
    """A network that TensorRT runs."""

    def get_providers(self) -> list[str]:
        return [TENSORRT]

    def disable_fallback(self) -> None:
        pass

    def run(self, _outputs: Sequence[str], given: dict[str, Images]) -> list[NDArray[np.float32]]:
        return [np.zeros((len(images), 2), np.float32) for images in given.values() for _ in range(2)]


@dataclass
class Gpu:
    """ONNX Runtime on a machine with TensorRT; `opened` has the options of each session."""

    opened: list[dict[str, Any]] = field(default_factory=list)

    def open(self, _path: str, _options: object, *, providers: in_onnx.Providers) -> Session:
        assert isinstance(providers[0], tuple)
        self.opened.append(providers[0][1])
        return Session()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    there = SimpleNamespace(
        get_available_providers=lambda: [TENSORRT],
        SessionOptions=onnxruntime.SessionOptions,
        InferenceSession=gpu.open,
    )
    monkeypatch.setattr(in_onnx, "onnxruntime", there)
    return gpu


@pytest.fixture
def files(tmp_path: Path) -> Files:
    factories.write_artifact(tmp_path / "artifact")
    (tmp_path / "fp32.onnx").write_bytes(b"a network")
    return Files(tmp_path / "artifact", tmp_path)


@pytest.mark.parametrize(("machine", "most"), [(Machine(4, "cuda:1"), 32), (Machine(4, "cuda:1", batch=48), 48)])
def test_one_engine_is_built_for_all_numbers_of_images(gpu: Gpu, files: Files, machine: Machine, most: int) -> None:
    in_onnx.open_tensorrt(files, Form("tensorrt", "fp16"), machine)
    (options,) = gpu.opened
    assert options["device_id"] == 1
    assert {name: options[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")} == {
        "min": "images:1x64x64x3",
        "opt": "images:32x64x64x3",
        "max": f"images:{most}x64x64x3",
    }


def test_an_engine_is_held_once_however_many_threads_there_are(gpu: Gpu, files: Files) -> None:
    network = in_onnx.open_tensorrt(files, Form("tensorrt", "bf16"), Machine(4, "cuda:0"))
    network.widen()
    assert network.run(np.zeros((1, 64, 64, 3), np.uint8), alone=True).logits.shape == (1, 2)
    assert len(gpu.opened) == 1
