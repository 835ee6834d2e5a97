"""Networks in the form for inference, exported to ONNX, give the same logits in ONNX Runtime."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from app.backbones import catalogue, classifier
from app.libraries import onnxruntime
from tests.backbones.samples import REPRESENTATIVES, images, live_in

FAST = ("tinynet", "resnet18", "mobilenet_v3_small", "squeezenet1_1")
OF_LAYERS_THAT_OTHERS_HAVE = ("vgg11_bn", "zfnet")
NAMES = [
    pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
    for name in (*REPRESENTATIVES, "resnet50")
    if name not in OF_LAYERS_THAT_OTHERS_HAVE
]
"""What is not here has the layers of its siblings."""


@contextmanager
def slow_attention() -> Iterator[None]:
    """The fused attention of torch, which runs without gradients, has no ONNX form: the plain one has."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_network_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    backbone = catalogue.find(name)
    network = classifier.build(backbone, 3, state=None, seed=0)
    live_in(network)
    # Pools to a fixed size are exported where they divide the map that comes in, as at the network's own input size.
    form, batch = classifier.inference_form(network), images(backbone, count=1, size=backbone.input_size)
    path = tmp_path / "network.onnx"
    with warnings.catch_warnings(), slow_attention():
        # The exporter by tracing is out of favour with torch, but a hundred times as fast as its successor.
        warnings.simplefilter("ignore")
        torch.onnx.export(form, (batch,), path, dynamo=False, input_names=["images"], output_names=["logits"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": batch.numpy()})
    with torch.inference_mode():
        expected = form(batch)
    assert torch.allclose(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
