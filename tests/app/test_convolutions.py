"""Our own convolutions against torch's, alone and in networks."""

import copy
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet

from app import errors
from app.backbones import catalogue, formnet, tinynet
from app.backbones import classifier as classifiers
from app.backbones.classifier import InferenceForm
from app.backbones.taps import Outlet
from app.runtimes import convolutions, convolve
from app.runtimes.convolutions import Convolution, Residual
from app.runtimes.convolve import Finish, Library, Window
from app.runtimes.form import Machine
from app.runtimes.in_torch import InOwn, InTorch, Whole

Found = TypeVar("Found")
CLOSE = 2e-5
"""Of the largest value: Winograd's way rounds where the direct one does not."""
LANES = (8, 16)
"""Of AVX2 and of AVX-512; a CPU without the latter computes the longer vectors in pieces."""
OTHER, ANOTHER = 4, 2
"""Those that no test before has had compiled."""


@pytest.fixture(scope="module", params=LANES)
def library(request: pytest.FixtureRequest) -> Library:
    return convolve.library(request.param)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= CLOSE * expected.abs().max()


# (images, channels, outputs, height, width, padding): whole tiles and pieces of them, few and many.
SMALL = [
    (1, 16, 16, 4, 4, 1),
    (1, 16, 48, 7, 7, 1),
    (2, 64, 16, 5, 9, 1),
    (3, 32, 64, 14, 13, 1),
    (1, 48, 32, 3, 3, 0),
    (2, 16, 80, 9, 6, 0),
    (1, 16, 16, 1, 1, 1),
    (1, 32, 32, 6, 8, 2),
    (4, 256, 64, 8, 8, 1),
]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("images", "channels", "outputs", "height", "width", "padding"), SMALL)
def test_three_by_three_by_winograd(
    library: Library, images: int, channels: int, outputs: int, height: int, width: int, padding: int, count: int
) -> None:
    window = Window((3, 3), (1, 1), (padding, padding))
    assert library.suits_winograd(window, channels, outputs)
    maps, weights = numbers(images, channels, height, width), numbers(outputs, channels, 3, 3, seed=1)
    bias = numbers(outputs, seed=2)
    expected = functional.conv2d(maps, weights, bias, padding=padding)
    packed = library.transformed(weights)
    assert packed.numel() == 4 * weights.numel() * -(-outputs // packed.shape[-1]) * packed.shape[-1] / outputs
    with library.helped(count):
        assert_close(library.winograd(maps, packed, window, outputs, Finish(bias), None), expected)


# (images, channels, outputs, height, width, window, stride, padding)
ANY = [
    (1, 3, 64, 23, 21, (7, 7), (2, 2), (3, 3)),
    (2, 3, 10, 9, 9, (3, 3), (2, 2), (1, 1)),
    (1, 64, 256, 7, 7, (1, 1), (1, 1), (0, 0)),
    (3, 20, 33, 6, 5, (1, 1), (2, 2), (0, 0)),
    (2, 17, 5, 8, 8, (5, 5), (1, 1), (2, 2)),
    (1, 8, 40, 9, 9, (1, 7), (1, 1), (0, 3)),
    (1, 8, 24, 9, 9, (7, 1), (1, 2), (3, 0)),
    (2, 5, 1, 4, 4, (3, 3), (1, 1), (1, 1)),
    (1, 512, 96, 3, 3, (3, 3), (2, 2), (1, 1)),
    (1, 4, 16, 40, 40, (1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("images", "channels", "outputs", "height", "width", "size", "stride", "padding"), ANY)
def test_any_window_directly(
    library: Library,
    images: int,
    channels: int,
    outputs: int,
    height: int,
    width: int,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    count: int,
) -> None:
    window = Window(size, stride, padding)
    maps, weights = numbers(images, channels, height, width), numbers(outputs, channels, *size, seed=1)
    bias = numbers(outputs, seed=2)
    expected = functional.conv2d(maps, weights, bias, stride=stride, padding=padding)
    assert window.outputs(height, width) == expected.shape[2:]
    with library.helped(count):
        found = library.direct(maps, library.packed(weights), window, outputs, Finish(bias), None)
    assert_close(found, expected)


@pytest.mark.parametrize(("stride", "outputs"), [(1, 32), (2, 32), (2, 21)])
def test_what_is_added_comes_before_the_limits_and_no_number_stays_none(
    library: Library, stride: int, outputs: int
) -> None:
    layer = nn.Conv2d(16, outputs, 3, stride=stride, padding=1).requires_grad_(requires_grad=False)
    maps, own = numbers(2, 16, 9, 9), Convolution(library, layer)
    plain = layer(maps)
    added = numbers(*plain.shape, seed=3)  # not in channels-last order, which torch does not see to either
    assert_close(own(maps, added), plain + added)
    own.limit()
    assert_close(own(maps, added), functional.relu(plain + added))
    own.limit(is_capped=True)
    assert_close(own(5 * maps, added), functional.relu6(layer(5 * maps) + added))
    assert own(20 * maps).max() == 6
    assert own(20 * maps).min() == 0

    maps[0, 0, 4, 4] = float("nan")
    found = own(maps, added)
    assert found[0].isnan().any()
    assert not found[1].isnan().any()


def in_inference_form(name: str, outlet: Outlet | None = None) -> InferenceForm:
    """With BatchNorm that does something."""
    built = classifiers.build(catalogue.find(name), 5, state=None, seed=0, outlet=outlet or Outlet())
    generator = torch.Generator().manual_seed(1)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert values is not None
                values.data.uniform_(low, high, generator=generator)
    return classifiers.inference_form(built)


def helped(library: Library, compute: Callable[[], Found]) -> Found:
    """What `compute` returns once others have helped with it: they may come too late for what takes no millisecond."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        before = library.pieces_helped_with()
        found = compute()
        if library.pieces_helped_with() > before:
            return found
    raise AssertionError("nobody helped")


def count_of(network: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in network.modules())


SIDE = 72
# Of each: how many convolutions are ours, how many blocks with a short cut, and how many activations are left over.
NETWORKS = {
    "tinynet": (10, 3, 0),
    "formnet": (14, 4, 0),
    "resnet18": (20, 8, 1),
    "squeezenet1_1": (25, 0, 25),
    "googlenet": (57, 0, 0),
    "inception_v2": (69, 0, 0),
    "densenet121": (120, 0, 119),
    "vgg11_bn": (8, 0, 2),
}


@pytest.mark.parametrize(("images", "side", "way"), [(1, 8, "direct"), (1, 9, "winograd"), (2, 8, "winograd")])
def test_of_few_tiles_heavy_convolutions_are_computed_directly(
    library: Library, monkeypatch: pytest.MonkeyPatch, images: int, side: int, way: str
) -> None:
    ways = []

    def noted(name: str, compute: Callable[..., Tensor], *given: object) -> Tensor:
        ways.append(name)
        return compute(*given)

    for name in ("direct", "winograd"):
        monkeypatch.setattr(library, name, partial(noted, name, getattr(library, name)))
    layer = nn.Conv2d(384, 384, 3, padding=1)
    maps = torch.randn(images, 384, side, side).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert_close(Convolution(library, layer)(maps), layer(maps))
        Convolution(library, nn.Conv2d(64, 64, 3, padding=1))(maps[:, :64])  # whose weights are few
    assert ways == [way, "winograd"]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_say_the_same_with_our_convolutions(name: str) -> None:
    plain = in_inference_form(name)
    own = copy.deepcopy(plain)
    library = convolutions.compute_own(own)
    assert (count_of(own, Convolution), count_of(own, Residual), count_of(own, nn.ReLU)) == NETWORKS[name]

    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    expected = InTorch(Whole(plain), Machine(1), torch.float32).run(images)
    ours = InOwn(Whole(own), Machine(2), library)
    found = ours.run(images)
    ours.widen()
    for one in (found, helped(library, lambda: ours.run(images, alone=True))):
        assert_close(torch.from_numpy(one.features), torch.from_numpy(expected.features))
        assert_close(torch.from_numpy(one.logits), torch.from_numpy(expected.logits))
    for number in range(3):
        alone = ours.run(images[number : number + 1])
        assert_close(torch.from_numpy(alone.logits), torch.from_numpy(expected.logits[number : number + 1]))


@pytest.mark.parametrize("outlet", [Outlet(stage="layer2"), Outlet(taps=("stem", "layer1", "layer3"))])
def test_networks_that_are_cut_say_the_same(outlet: Outlet) -> None:
    backbone = catalogue.find("resnet18")
    columns = torch.arange(0, 200, 3) if outlet.taps else None
    built = classifiers.build(backbone, 4, state=None, seed=0, outlet=outlet, columns=columns).eval()
    plain = classifiers.inference_form(built)
    own = copy.deepcopy(plain)
    convolutions.compute_own(own)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert_close(own(images), plain(images))


def test_groups_stay_with_torch_and_their_blocks_say_the_same() -> None:
    network = ResNet(
        Bottleneck, [1, 2, 1, 1], 4, groups=32, width_per_group=4, norm_layer=lambda _channels: nn.Identity()
    ).eval()
    with pytest.raises(errors.Unavailable, match="no convolution of 3 x 3"):
        convolutions.compute_own(network)  # all of 3 x 3 are grouped
    network.layer1[0].conv3 = nn.Conv2d(128, 256, 3, padding=1)
    own = copy.deepcopy(network)
    convolutions.compute_own(own)
    assert count_of(own, Residual) == 5
    assert count_of(own, nn.Conv2d) == 5
    maps = numbers(2, 3, 64, 64)
    with torch.inference_mode():
        assert_close(own(maps), network(maps))


@pytest.mark.parametrize("kind", [tinynet.TinyNet, formnet.FormNet])
def test_where_normalisation_is_not_folded_it_is_not_left_out(kind: type[nn.Module]) -> None:
    network = kind(3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    own = copy.deepcopy(network)
    convolutions.compute_own(own)
    assert count_of(own, Residual) == 0
    maps = numbers(2, 3, 64, 64)
    with torch.inference_mode():
        assert_close(own(maps), network(maps))


def test_many_threads_compile_it_once_and_compute_side_by_side() -> None:
    layer = nn.Conv2d(32, 32, 3, padding=1).requires_grad_(requires_grad=False)
    maps = [numbers(1, 32, 12, 12, seed=seed) for seed in range(8)]

    def ask(one: Tensor) -> tuple[Library, Tensor]:
        found = convolve.library(OTHER)
        return found, Convolution(found, layer)(one)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, maps))
    assert len({id(library) for library, _ in found}) == 1
    for (_, own), one in zip(found, maps, strict=True):
        assert_close(own, layer(one))


def test_whoever_helps_does_its_part_of_each_of_many_small_ones(library: Library) -> None:
    layers = [nn.Conv2d(16, outputs, size, padding=1) for size, outputs in ((3, 32), (1, 48), (3, 16))]
    with torch.inference_mode():
        own = [Convolution(library, layer) for layer in layers]
        maps = [numbers(1, 16, side, side, seed=side) for side in (3, 9, 17)]
        expected = [[layer(one) for one in maps] for layer in layers]
        for _ in range(60):
            with library.helped(5):  # more than there are cores
                found = [[convolution(one) for one in maps] for _ in range(3) for convolution in own]
            for ours, theirs in zip(found, 3 * expected, strict=True):
                for this, that in zip(ours, theirs, strict=True):
                    assert_close(this, that)


@pytest.mark.parametrize("size", [1, 3], ids=["directly", "by Winograd"])
def test_others_do_a_part_of_it(library: Library, size: int) -> None:
    layer = nn.Conv2d(64, 64, size, padding=size // 2).requires_grad_(requires_grad=False)
    own, maps = Convolution(library, layer), numbers(1, 64, 56, 56)
    with library.helped(2):
        assert_close(helped(library, lambda: own(maps)), layer(maps))
    before = library.pieces_helped_with()
    own(maps)
    assert library.pieces_helped_with() == before


def test_whoever_helps_is_awake_only_while_there_is_something_to_help_with() -> None:
    library = convolve.library()
    with library.helped(2):
        pass
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    asleep = time.process_time() - before
    with library.helped(2):
        before = time.process_time()
        time.sleep(1)
        awake = time.process_time() - before
    assert asleep < 0.2
    assert awake > asleep


def test_one_thread_is_helped_at_a_time_and_others_go_on_alone(library: Library) -> None:
    layer = nn.Conv2d(16, 32, 3, padding=1).requires_grad_(requires_grad=False)
    own, maps = Convolution(library, layer), [numbers(1, 16, 20, 20, seed=seed) for seed in range(12)]
    both = threading.Barrier(2)

    def ask(ones: Sequence[Tensor]) -> list[Tensor]:
        with library.helped(3):
            both.wait(60)
            found = [own(one) for one in ones for _ in range(20)]
            both.wait(60)
        return found[::20]

    with ThreadPoolExecutor(2) as pool:
        found = [one for ones in pool.map(ask, (maps[:6], maps[6:])) for one in ones]
    for ours, one in zip(found, maps, strict=True):
        assert_close(ours, layer(one))


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(errors.Unavailable, match=r"no C\+\+ compiler \(g\+\+, c\+\+, clang\+\+\)"):
        convolve.library(ANOTHER)


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho cc1plus: out of vectors >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _name: str(broken))
    with pytest.raises(errors.Unavailable, match="cc1plus: out of vectors"):
        convolve.library(ANOTHER)
    broken.write_text("#!/bin/sh\nfor last; do :; done\necho no library > $last\n")
    with pytest.raises(errors.Unavailable, match="cannot be compiled and loaded"):
        convolve.library(ANOTHER)
    monkeypatch.undo()
    convolve.library(ANOTHER)  # a failure is not kept


def test_what_torch_would_refuse_is_refused(library: Library) -> None:
    window, finish = Window((3, 3), (2, 2), (0, 0)), Finish(torch.zeros(16))
    packed = library.packed(numbers(16, 16, 3, 3))
    for maps, added, reason in (
        (numbers(1, 16, 2, 2), None, "greater than its padded maps"),
        (numbers(0, 16, 9, 9), None, "greater than its padded maps"),
        (numbers(1, 16, 9, 9), numbers(1, 16, 1, 1), "cannot be added"),
        (numbers(1, 16, 9, 9).bfloat16(), None, "take float32 on the CPU, not torch.bfloat16"),
        (numbers(1, 16, 9, 9), numbers(1, 16, 4, 4).double(), "not torch.float64"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            library.direct(maps, packed, window, 16, finish, added)
    small = Window((3, 3), (1, 1), (0, 0))
    with pytest.raises(RuntimeError, match="greater than its padded maps"):
        library.winograd(numbers(1, 16, 2, 2), library.transformed(numbers(16, 16, 3, 3)), small, 16, finish, None)


def test_a_pool_that_is_passed_twice_keeps_its_place() -> None:
    pool, layer = nn.AvgPool2d(2), nn.Conv2d(16, 16, 3, padding=1)
    network = nn.Sequential(pool, layer, pool, nn.ReLU()).requires_grad_(requires_grad=False)
    own = copy.deepcopy(network)
    convolutions.compute_own(own)
    maps = numbers(1, 16, 16, 16)
    assert_close(own(maps), network(maps))


def test_networks_without_such_convolutions_are_refused_untouched() -> None:
    network = in_inference_form("mobilenet_v3_small")
    before = count_of(network, nn.Conv2d)
    with pytest.raises(errors.Unavailable, match="no convolution of 3 x 3 and stride 1") as caught:
        convolutions.compute_own(network)
    assert caught.value.code == "runtime_unavailable"
    assert count_of(network, nn.Conv2d) == before


def test_windows_that_are_not_for_winograd(library: Library) -> None:
    small = Window((3, 3), (1, 1), (1, 1))
    assert library.suits_winograd(small, 64, 64)
    for window in (
        replace(small, size=(5, 5)),
        replace(small, size=(1, 3)),
        replace(small, stride=(2, 2)),
        replace(small, padding=(1, 0)),
    ):
        assert not library.suits_winograd(window, 64, 64)
    assert not library.suits_winograd(small, 3, 64)
    assert not library.suits_winograd(small, 64, 20)
