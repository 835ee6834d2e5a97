import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker.training import checkpoint
from worker.training.checkpoint import Best, Checkpoint

FINGERPRINT = "0123abcd"


def state(epoch: int, *, best: int) -> Checkpoint:
    """A checkpoint in which every value tells its epoch."""
    network = {
        "head.weight": torch.full((2, 3), float(epoch)),
        "norm.num_batches_tracked": torch.tensor(10 * epoch),
        "conv.weight": torch.full((2, 3, 4, 4), float(epoch)).to(memory_format=torch.channels_last),
    }
    momentum = {name: -value for name, value in network.items() if name.endswith("weight")}
    return Checkpoint(epoch, Best(best, accuracy=best / 10, loss=1 / best), network, momentum)


def save(folder: Path, epoch: int, *, best: int) -> Checkpoint:
    saved = state(epoch, best=best)
    checkpoint.save(folder, saved, fingerprint=FINGERPRINT)
    return saved


def load(folder: Path) -> Checkpoint:
    found = checkpoint.load(folder, fingerprint=FINGERPRINT)
    assert found is not None
    return found


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = save(tmp_path / "new" / "folder", 1, best=1)
    found = load(tmp_path / "new" / "folder")
    assert (found.epoch, found.best) == (1, saved.best)
    assert equal(found.network, saved.network)
    assert equal(found.momentum, saved.momentum)


def test_the_best_network_is_kept_while_later_ones_come_and_go(tmp_path: Path) -> None:
    best = save(tmp_path, 1, best=1)
    for epoch in (2, 3):
        save(tmp_path, epoch, best=1)
    found = load(tmp_path)
    assert found.epoch == 3
    assert equal(found.network, state(3, best=1).network)
    assert equal(checkpoint.load_best(tmp_path, found.best), best.network)


def test_older_files_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    save(tmp_path, 2, best=2)
    (tmp_path / "last-0009.safetensors.part").write_bytes(b"of a training that ended while it wrote")
    (tmp_path / "notes.txt").write_text("of somebody else's")
    save(tmp_path, 3, best=2)
    assert names(tmp_path) == {"checkpoint.json", "last-0003.safetensors", "best-0002.safetensors", "notes.txt"}
    save(tmp_path, 4, best=4)
    assert names(tmp_path) == {"checkpoint.json", "last-0004.safetensors", "best-0004.safetensors", "notes.txt"}


def test_an_empty_folder_and_none_at_all_hold_no_state(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None
    assert checkpoint.load(tmp_path / "missing", fingerprint=FINGERPRINT) is None


def test_the_state_of_another_training_is_none(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    assert checkpoint.load(tmp_path, fingerprint="another") is None
    assert load(tmp_path).epoch == 1


def test_a_new_training_takes_over_the_folder_of_another(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(tmp_path, epoch, best=2)
    other = state(1, best=1)
    checkpoint.save(tmp_path, other, fingerprint="another")
    assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None
    found = checkpoint.load(tmp_path, fingerprint="another")
    assert found is not None
    assert equal(checkpoint.load_best(tmp_path, found.best), other.network)
    assert names(tmp_path) == {"checkpoint.json", "last-0001.safetensors", "best-0001.safetensors"}


def test_a_training_that_ended_before_the_index_was_written_leaves_the_state_before(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save(tmp_path, 2, best=2)
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    found = load(tmp_path)
    assert found.epoch == 1
    assert equal(found.network, state(1, best=1).network)
    assert equal(checkpoint.load_best(tmp_path, found.best), state(1, best=1).network)


@pytest.mark.parametrize("name", ["checkpoint.json", "last-0002.safetensors", "best-0001.safetensors"])
def test_a_torn_file_is_no_state(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, best=1)
    save(tmp_path, 2, best=1)
    for size in (0, 7, (tmp_path / name).stat().st_size - 1):
        os.truncate(tmp_path / name, size)
        assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None
        save(tmp_path, 1, best=1)
        save(tmp_path, 2, best=1)


@pytest.mark.parametrize("name", ["checkpoint.json", "last-0002.safetensors", "best-0001.safetensors"])
def test_a_missing_file_is_no_state(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, best=1)
    save(tmp_path, 2, best=1)
    (tmp_path / name).unlink()
    assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None


@pytest.mark.parametrize(
    "content",
    [
        "null",
        "[]",
        "{}",
        '{"fingerprint": "0123abcd"}',
        '{"fingerprint": "0123abcd", "epoch": "one", "best": {"epoch": 1, "accuracy": 0.1, "loss": 1.0}}',
        '{"fingerprint": "0123abcd", "epoch": 1, "best": {"epoch": 1}}',
        '{"fingerprint": "0123abcd", "epoch": 1, "best": 1}',
        "\x00\x00\x00",
    ],
)
def test_an_index_that_says_something_else_is_no_state(tmp_path: Path, content: str) -> None:
    save(tmp_path, 1, best=1)
    (tmp_path / "checkpoint.json").write_text(content)
    assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None


def test_the_furthest_state_of_earlier_attempts_is_taken_over(tmp_path: Path) -> None:
    save(tmp_path / "one", 2, best=1)
    for epoch in (1, 2, 3):
        further = save(tmp_path / "two", epoch, best=2)
    (tmp_path / "three").mkdir()
    checkpoint.take_over(tmp_path / "new", [tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    # Whoever wrote it goes on, and its old files go.
    save(tmp_path / "two", 4, best=4)

    found = load(tmp_path / "new")
    assert (found.epoch, found.best) == (3, further.best)
    assert equal(found.network, further.network)
    assert checkpoint.load_best(tmp_path / "new", found.best)["head.weight"][0, 0] == 2


def test_nothing_is_taken_over_where_there_is_nothing_whole(tmp_path: Path) -> None:
    save(tmp_path / "torn", 3, best=3)
    (tmp_path / "torn" / "last-0003.safetensors").unlink()
    checkpoint.take_over(tmp_path / "new", [tmp_path / "torn", tmp_path / "none"])

    assert checkpoint.load(tmp_path / "new", fingerprint=FINGERPRINT) is None
