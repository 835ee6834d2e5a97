"""Decoded images: each decoded once, whoever asks for it, and none carried to another process."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from app import errors
from app.backbones.preprocess import Pixels
from tests.training import samples
from worker.training.pixels import Decoded


class Counting:
    """Image files that say how often they were asked for."""

    def __init__(self) -> None:
        self.read_positions: list[int] = []

    def read(self, positions: Sequence[int]) -> list[bytes]:
        self.read_positions += positions
        return [bytes([position]) for position in positions]


def decode(file: bytes) -> tuple[Pixels, float]:
    return np.full((4, 4, 3), file[0], np.uint8), 0.5 + file[0]


def made(folder: Path) -> Decoded:
    decoded = Decoded(Counting(), 9, 4, decode, folder / "images.npy")
    decoded.create()
    return decoded


def test_each_image_is_decoded_when_it_is_wanted_for_the_first_time(tmp_path: Path) -> None:
    decoded = made(tmp_path)
    first, ratios = decoded.take([5, 2], samples.CPU)
    again, _ = decoded.take([2, 7, 5], samples.CPU)

    assert first[:, 0, 0, 0].tolist() == [5, 2]
    assert ratios.tolist() == [5.5, 2.5]
    assert again[:, 3, 3, 2].tolist() == [2, 7, 5]
    assert isinstance(decoded.images, Counting)
    assert decoded.images.read_positions == [5, 2, 7]


def test_another_process_finds_what_was_decoded_and_is_sent_no_pixels(tmp_path: Path) -> None:
    decoded = made(tmp_path)
    decoded.take([3], samples.CPU)
    sent = pickle.dumps(decoded)
    other = pickle.loads(sent)
    found, _ = other.take([3, 4], samples.CPU)

    assert len(sent) < 1000
    assert found[:, 0, 0, 0].tolist() == [3, 4]
    assert other.images.read_positions == [3, 4]
    assert (decoded.take([4], samples.CPU)[0] == 4).all()
    assert decoded.images.read_positions == [3]  # type: ignore[attr-defined]


def test_what_cannot_be_decoded_is_told_each_time(tmp_path: Path) -> None:
    def broken(_file: bytes) -> tuple[Pixels, float]:
        raise errors.BadImage("broken", code="broken_image")

    decoded = Decoded(Counting(), 9, 4, broken, tmp_path / "images.npy")
    decoded.create()
    for _ in range(2):
        with pytest.raises(errors.BadImage):
            decoded.take([0], samples.CPU)


def test_what_is_taken_is_a_copy(tmp_path: Path) -> None:
    decoded = made(tmp_path)
    decoded.take([1], samples.CPU)[0].zero_()

    assert torch.equal(decoded.take([1], samples.CPU)[0], torch.ones(1, 4, 4, 3, dtype=torch.uint8))
