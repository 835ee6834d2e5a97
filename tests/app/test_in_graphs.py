"""Networks that a GPU runs by graphs; what can be seen on a GPU alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.runtimes import in_graphs
from app.runtimes.form import Machine
from app.runtimes.in_graphs import InGraphs
from app.runtimes.in_torch import Compiled, InTorch, Whole

MOST = 12
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_there_are_graphs_for_powers_of_two_and_for_the_most_images(most: int, expected: list[int]) -> None:
    assert in_graphs.sizes(most) == expected


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (8, 8), (9, 12), (12, 12), (13, None)])
def test_images_are_passed_by_the_least_graph_that_has_room(count: int, size: int | None) -> None:
    assert in_graphs.size_of(count, MOST) == size


def network(name: str) -> Whole:
    built = classifiers.build(catalogue.find(name), 3, state=None, seed=0)
    return Whole(classifiers.inference_form(built)).eval()


def images(count: int, seed: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def side_of(name: str) -> int:
    return classifiers.build(catalogue.find(name), 3, state=None, seed=0).preprocessing.crop


@on_gpu
@pytest.mark.parametrize("name", ["tinynet", "squeezenet1_1", "resnet18", "mobilenet_v3_small", "vit_b_32", "swin_t"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_those_of_the_processor_whatever_was_passed_before(name: str, dtype: torch.dtype) -> None:
    torch.backends.cudnn.allow_tf32 = False
    plain, side = InTorch(network(name), Machine(1), torch.float32), side_of(name)
    graphed = InGraphs(network(name).to("cuda"), torch.device("cuda"), dtype, most=MOST)
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    graphed.run(images(MOST, 0, side))
    assert graphed.captured == in_graphs.sizes(MOST)

    for count in (MOST, 1, 3, 2, 11, MOST + 5, 1):
        shown = images(count, count, side)
        expected, found = plain.run(shown), graphed.run(shown)
        for wanted, given in ((expected.logits, found.logits), (expected.features, found.features)):
            assert given.shape == wanted.shape
            assert np.sqrt(np.square(given - wanted).mean()) <= tolerance * np.sqrt(np.square(wanted).mean())
        # Pixels that are not whole numbers go the same way.
        assert np.allclose(graphed.run(shown.astype(np.float32)).logits, found.logits, atol=1e-5)


@on_gpu
def test_two_networks_that_threads_ask_at_once_answer_each_its_own() -> None:
    sides = [side_of(name) for name in ("tinynet", "resnet18")]
    built = [network(name).to("cuda") for name in ("tinynet", "resnet18")]
    graphed = [InGraphs(each, torch.device("cuda"), torch.float32, most=MOST) for each in built]
    expected = [each.run(images(5, 7, side)).logits for each, side in zip(graphed, sides, strict=True)]

    def ask(number: int) -> bool:
        which = number % 2
        batch = images(5, 7, sides[which]) if number % 3 else images(5, number, sides[which])
        found = graphed[which].run(batch).logits
        return number % 3 == 0 or np.allclose(found, expected[which], atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))


@on_gpu
def test_memory_of_passes_is_shared_and_goes_with_the_networks() -> None:
    before, held = torch.cuda.memory_allocated(), []
    for _ in range(4):
        held.append(InGraphs(network("resnet18").to("cuda"), torch.device("cuda"), torch.float32, most=32))
        held[-1].run(images(32, 0, 224))
        held[-1].settle()
    weights = 4 * 12_000_000 * 4
    inputs = 32 * 224 * 224 * 3 * 4
    assert torch.cuda.memory_allocated() - before < 1.2 * (weights + inputs)
    reserved = torch.cuda.memory_reserved()
    del held[1:]
    held[0].settle()
    assert torch.cuda.memory_reserved() < reserved
    assert np.isfinite(held[0].run(images(9, 0, 224)).logits).all()


@on_gpu
def test_what_waits_for_the_gpu_is_asked_for_operation_by_operation() -> None:
    inside = network("tinynet").to("cuda")

    def forward(shown: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert float(shown.sum()) >= 0
        return inside(shown)  # type: ignore[no-any-return]

    graphed = InGraphs(forward, torch.device("cuda"), torch.float32, most=MOST)
    usual = InGraphs(inside, torch.device("cuda"), torch.float32, most=MOST)
    usual.run(images(1, 0, 64))
    for count in (3, 1, 3):
        shown = images(count, count, 64)
        assert np.allclose(graphed.run(shown).logits, usual.run(shown).logits, atol=1e-5)
    assert graphed.captured == []
    assert usual.captured == [1, 2, 4]


@on_gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own parts, as they are imported to compile
def test_what_is_compiled_is_captured_too() -> None:
    plain = InGraphs(network("tinynet").to("cuda"), torch.device("cuda"), torch.float32, most=MOST)
    compiled = InGraphs(Compiled(network("tinynet").to("cuda")), torch.device("cuda"), torch.float32, most=MOST)
    for count in (1, 5, MOST):
        shown = images(count, count, 64)
        assert np.allclose(compiled.run(shown).logits, plain.run(shown).logits, atol=1e-3)
    assert compiled.captured == in_graphs.sizes(MOST)
