"""Weights as integers that are chosen for what the layers of a network give."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from app.backbones import export
from app.runtimes import in_onnx
from app.runtimes.form import Machine
from worker.optimising import quantise, rounding
from worker.optimising.quantise import WAYS, Quantiser
from worker.training.events import Event, Progress

SIDE, SEEN, CHECKED = 16, 48, 64
PLAIN, FITTED = WAYS[0], WAYS[1]


class Net(nn.Module):
    """With a layer of each kind that has weights, and a convolution with each of its settings."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, 32, (3, 5), stride=2, padding=(1, 4), dilation=(1, 2), groups=4),
            nn.ReLU(),
            nn.Conv2d(32, 32, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.mixed = nn.Linear(32, 24)
        self.head = nn.Linear(96, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers((images / 127.5 - 1).permute(0, 3, 1, 2))
        # A linear layer on more than rows is a MatMul, on rows a Gemm.
        features = self.mixed(features.flatten(2).transpose(1, 2)).relu().flatten(1)
        return features, self.head(features)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ONNX."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("rounding") / "fp32.onnx"
    example = torch.zeros(1, SIDE, SIDE, 3)
    dynamic = {name: {0: "n"} for name in (in_onnx.INPUT, *in_onnx.OUTPUTS)}
    net = Net()
    made = export.to_onnx(net, example, inputs=[in_onnx.INPUT], outputs=list(in_onnx.OUTPUTS), dynamic=dynamic)
    path.write_bytes(made)
    return path


def images(count: int, seed: int) -> NDArray[np.uint8]:
    """Smooth ones, whose neighbouring pixels go together as those of photos do."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    smooth = nn.functional.interpolate(coarse, size=SIDE, mode="bilinear")
    return smooth.permute(0, 2, 3, 1).byte().numpy()


def written(network: Path, target: Path, way: quantise.Way) -> tuple[list[Event], dict[str, NDArray[np.int8]]]:
    """What was told, and the integer weights by name."""
    told: list[Event] = []
    Quantiser(network, images(SEEN, 1), small_range=True, emit=told.append).write(target, way)
    arrays = {one.name: numpy_helper.to_array(one) for one in onnx.load(target).graph.initializer}
    return told, {name: values for name, values in arrays.items() if values.dtype == np.int8 and values.ndim > 1}


def logits(network: Path) -> NDArray[np.float32]:
    opened = in_onnx.InOnnx(network, Machine(threads=1), ["CPUExecutionProvider"])
    return opened.run(images(CHECKED, 2)).logits


def test_weights_that_are_fitted_bring_a_network_nearer_to_what_it_was_in_float(network: Path, tmp_path: Path) -> None:
    _, each = written(network, tmp_path / "plain.onnx", PLAIN)
    told, fitted = written(network, tmp_path / "fitted.onnx", FITTED)
    assert len(each) == 6
    assert each.keys() == fitted.keys()
    for name, values in each.items():
        assert values.shape == fitted[name].shape
        assert np.abs(fitted[name]).max() <= np.abs(values).max() == 64
        assert not np.array_equal(values, fitted[name])
        assert np.abs(values - fitted[name]).max() < 16  # another rounding, and not other weights
    plain, far, near = (logits(path) for path in (network, tmp_path / "plain.onnx", tmp_path / "fitted.onnx"))
    assert np.square(near - plain).mean() < 0.7 * np.square(far - plain).mean()
    steps = [event for event in told if isinstance(event, Progress) and event.phase == "round int8"]
    assert (len(steps), steps[-1].done, steps[-1].total) == (6, 6, 6)


def test_they_are_the_same_whatever_stays_in_float_and_however_many_layers_are_looked_at_together(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = written(network, tmp_path / "whole.onnx", FITTED)
    with monkeypatch.context() as patched:
        patched.setattr(rounding, "_AT_ONCE_BYTES", 1)
        _, parts = written(network, tmp_path / "parts.onnx", FITTED)
    _, inner = written(network, tmp_path / "inner.onnx", WAYS[-1])
    assert len(inner) == 4
    assert all(np.abs(whole[name] - parts[name]).max() < 16 for name in whole)
    quantiser = Quantiser(network, images(SEEN, 1), small_range=True, emit=lambda _event: None)
    for way in (FITTED, WAYS[-1]):
        quantiser.write(tmp_path / "again.onnx", way)
    again = {one.name: numpy_helper.to_array(one) for one in onnx.load(tmp_path / "again.onnx").graph.initializer}
    assert all(np.array_equal(again[name], whole[name]) for name in inner)


def test_a_layer_that_is_too_wide_keeps_its_weights(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, each = written(network, tmp_path / "plain.onnx", PLAIN)
    monkeypatch.setattr(rounding, "_MOST_INPUTS", 95)
    _, fitted = written(network, tmp_path / "fitted.onnx", FITTED)
    kept = [name for name in each if np.array_equal(each[name], fitted[name])]
    assert [each[name].shape for name in kept] == [(10, 96)]


def test_products_with_inputs_that_go_together_are_met_better_than_by_rounding_each_weight() -> None:
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(2, 1, 500, generator=draw)
    inputs = common + 0.3 * torch.randn(2, 150, 500, generator=draw)
    weights = torch.randn(2, 8, 150, generator=draw)
    scales = weights.abs().amax(dim=2, keepdim=True) / 7

    def missed(integers: Tensor) -> float:
        return float((((integers * scales) - weights) @ inputs).square().mean())

    found = rounding.fitted(weights, scales, inputs @ inputs.mT)
    assert torch.equal(found, found.round())
    assert found.abs().max() <= 7
    assert missed(found) < 0.2 * missed((weights / scales).round())


def test_inputs_that_never_differ_from_nothing_leave_each_weight_rounded_by_itself() -> None:
    weights = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    scales = weights.abs().amax(dim=2, keepdim=True) / 64
    assert torch.equal(rounding.fitted(weights, scales, torch.zeros(1, 9, 9)), (weights / scales).round())


def test_a_layer_whose_inputs_are_no_numbers_keeps_its_weights(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, each = written(network, tmp_path / "plain.onnx", PLAIN)
    moments = rounding._moments

    def broken(*given: Any) -> list[Tensor]:
        first, *others = moments(*given)
        return [torch.full_like(first, torch.nan), *others]

    monkeypatch.setattr(rounding, "_moments", broken)
    told, fitted = written(network, tmp_path / "fitted.onnx", FITTED)
    kept = [name for name in each if np.array_equal(each[name], fitted[name])]
    assert [each[name].shape for name in kept] == [(16, 3, 3, 3)]
    steps = [event for event in told if isinstance(event, Progress) and event.phase == "round int8"]
    assert steps[-1].done == steps[-1].total


def test_the_images_that_layers_are_looked_at_for_are_of_all_that_there_are(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[NDArray[np.uint8]] = []
    moments = rounding._moments

    def noted(model: onnx.ModelProto, layers: Any, images: NDArray[np.uint8], emit: Any) -> list[Tensor]:
        seen.append(images)
        return moments(model, layers, images, emit)

    monkeypatch.setattr(rounding, "_moments", noted)
    monkeypatch.setattr(rounding, "_IMAGES", 5)
    written(network, tmp_path / "fitted.onnx", FITTED)
    assert np.array_equal(np.concatenate(seen), images(SEEN, 1)[[0, 12, 24, 35, 47]])


@pytest.mark.parametrize("place", [0, 2, 4, 6])
def test_the_patches_of_a_convolution_times_its_weights_are_what_it_gives(
    network: Path, tmp_path: Path, place: int
) -> None:
    written(network, tmp_path / "plain.onnx", PLAIN)
    convolution = Net().layers[place]
    assert isinstance(convolution, nn.Conv2d)
    model, quantised = onnx.load(network), onnx.load(tmp_path / "plain.onnx")
    layers = [layer for layer in rounding._layers(model, quantised) if layer.kernel]
    layer = layers[place // 2]
    inputs = torch.rand(1, convolution.in_channels, 9, 12, generator=torch.Generator().manual_seed(3))
    groups = len(layer.weights)
    patches = rounding._patches(layer, inputs)[0]
    high, wide = patches.shape[1:3]
    seen = patches.permute(0, 3, 4, 1, 2).reshape(groups, -1, high * wide)
    given = (layer.weights @ seen).reshape(1, -1, high, wide)
    expected = nn.functional.conv2d(
        inputs,
        layer.weights.reshape(convolution.weight.shape),
        stride=convolution.stride,
        padding=convolution.padding,
        dilation=convolution.dilation,
        groups=groups,
    )
    torch.testing.assert_close(given, expected)
