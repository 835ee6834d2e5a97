import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.backbones.formnet import FormNet
from pretraining import export, pictures, run
from pretraining.pictures import Order, Pictures
from pretraining.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forkserver")]

ORDER = Order(images=48, shapes_each=1, textures_each=1, seed=2)
TINY = Run(steps=6, batch=8, size=32, warmup=2, log_every=2, save_every=2, processes=1)
WORDS = 7


@dataclass
class Failing:
    """Pictures of which so many steps can be read."""

    pixels: NDArray[np.uint8]
    steps: int

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.steps -= 1
        if self.steps < 0:
            raise OSError("the disk is gone")
        return self.pixels[chosen]


def opened(folder: Path) -> Pictures:
    return pictures.drawn(ORDER, folder, processes=1)


def opened_for(steps: int, folder: Path) -> Pictures:
    found = opened(folder)
    return replace(found, pixels=Failing(found.pixels, steps))  # type: ignore[arg-type]


def trained(tiny: Run, drawn: Path, folder: Path) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    return run.train(functools.partial(opened, drawn), tiny, shapes=WORDS, textures=WORDS, folder=folder)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    opened(folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(TINY, drawn, tmp_path_factory.mktemp("whole"))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    drawn: Path, tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    with pytest.raises(RuntimeError, match="ended with"):
        run.train(functools.partial(opened_for, 5, drawn), TINY, shapes=WORDS, textures=WORDS, folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [None, 2, 4]
    assert equal(trained(TINY, drawn, tmp_path), uninterrupted)


def test_two_processes_learn_together(drawn: Path, tmp_path: Path) -> None:
    longer = replace(TINY, processes=2, steps=30, log_every=10, save_every=30, average_over=5)
    state = trained(longer, drawn, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["run"]["steps"] == 30
    assert lines[-1]["step"] == 30
    assert lines[-1]["description"] < lines[1]["description"]
    network = FormNet(3)
    assert network.load_state_dict(state, strict=False).missing_keys == ["head.weight", "head.bias"]


def test_the_values_are_written_in_half_precision_under_the_name_of_their_hash(
    uninterrupted: dict[str, Tensor], tmp_path: Path
) -> None:
    stale = tmp_path / "formnet-00000000.safetensors"
    stale.write_bytes(b"old")
    path = export.write(uninterrupted, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size < 4_000_000
    with pytest.raises(ValueError, match="half precision"):
        export.write({"huge": torch.tensor([1e9])}, tmp_path)
