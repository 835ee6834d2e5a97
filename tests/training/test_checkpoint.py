import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker.training import checkpoint
from worker.training.checkpoint import Best, Checkpoint, Position

FINGERPRINT = "0123abcd"


def state(epoch: int, *, best: int) -> Checkpoint:
    """A checkpoint in which every value tells its epoch."""
    network = {
        "network.head.weight": torch.full((2, 3), float(epoch)),
        "network.norm.num_batches_tracked": torch.tensor(10 * epoch),
        "network.conv.weight": torch.full((2, 3, 4, 4), float(epoch)).to(memory_format=torch.channels_last),
    }
    momentum = {name.replace("network", "momentum"): -value for name, value in network.items() if value.ndim > 0}
    return Checkpoint(
        Position(epoch, 0, 0.0),
        Best(best, accuracy=best / 10, loss=1 / best, tempered_loss=1 / best),
        {**network, **momentum},
    )


def kept(epoch: int) -> dict[str, Tensor]:
    """What is kept of the network after `epoch`."""
    return {"head.weight": torch.full((2, 3), 100.0 + epoch)}


def save(folder: Path, epoch: int, *, best: int) -> Checkpoint:
    saved = state(epoch, best=best)
    values = kept(epoch) if best == epoch else None
    checkpoint.save(folder, saved, fingerprint=FINGERPRINT, best=values)
    return saved


def best_of(folder: Path, found: Checkpoint) -> dict[str, Tensor]:
    assert found.best is not None
    return checkpoint.load_best(folder, found.best)


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
    assert (found.position, found.best) == (saved.position, saved.best)
    assert equal(found.tensors, saved.tensors)


def test_a_state_knows_its_pieces_and_one_from_before_has_none(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    path = tmp_path / "checkpoint.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"pieces": 4}))
    assert load(tmp_path).pieces == 4
    del index["pieces"]
    path.write_text(json.dumps(index))
    assert load(tmp_path).pieces == 1


def test_a_state_within_the_first_epoch_has_no_best_one_yet(tmp_path: Path) -> None:
    saved = Checkpoint(Position(0, 7, 1.5), None, {"network.head.weight": torch.ones(2)})
    checkpoint.save(tmp_path, saved, fingerprint=FINGERPRINT)
    found = load(tmp_path)
    assert (found.position, found.best) == (saved.position, None)
    assert equal(found.tensors, saved.tensors)
    assert names(tmp_path) == {"checkpoint.json", "last-0000-000007.safetensors"}


def test_the_best_network_is_kept_while_later_ones_come_and_go(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    for epoch in (2, 3):
        save(tmp_path, epoch, best=1)
    found = load(tmp_path)
    assert found.position.epochs == 3
    assert equal(found.tensors, state(3, best=1).tensors)
    assert equal(best_of(tmp_path, found), kept(1))


def test_older_files_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    save(tmp_path, 2, best=2)
    (tmp_path / "last-0009.safetensors.part").write_bytes(b"of a training that ended while it wrote")
    (tmp_path / "notes.txt").write_text("of somebody else's")
    save(tmp_path, 3, best=2)
    assert names(tmp_path) == {"checkpoint.json", "last-0003-000000.safetensors", "best-0002.safetensors", "notes.txt"}
    save(tmp_path, 4, best=4)
    assert names(tmp_path) == {"checkpoint.json", "last-0004-000000.safetensors", "best-0004.safetensors", "notes.txt"}


def test_an_empty_folder_and_none_at_all_hold_no_state(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None
    assert checkpoint.load(tmp_path / "missing", fingerprint=FINGERPRINT) is None


def test_the_state_of_another_training_is_none(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    assert checkpoint.load(tmp_path, fingerprint="another") is None
    assert load(tmp_path).position.epochs == 1


def test_a_new_training_takes_over_the_folder_of_another(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(tmp_path, epoch, best=2)
    other = {"head.weight": torch.zeros(3)}
    checkpoint.save(tmp_path, state(1, best=1), fingerprint="another", best=other)
    assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None
    found = checkpoint.load(tmp_path, fingerprint="another")
    assert found is not None
    assert equal(best_of(tmp_path, found), other)
    assert names(tmp_path) == {"checkpoint.json", "last-0001-000000.safetensors", "best-0001.safetensors"}


def test_a_training_that_ended_before_the_index_was_written_leaves_the_state_before(tmp_path: Path) -> None:
    save(tmp_path, 1, best=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save(tmp_path, 2, best=2)
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    found = load(tmp_path)
    assert found.position.epochs == 1
    assert equal(found.tensors, state(1, best=1).tensors)
    assert equal(best_of(tmp_path, found), kept(1))


@pytest.mark.parametrize("name", ["checkpoint.json", "last-0002-000000.safetensors", "best-0001.safetensors"])
def test_a_torn_file_is_no_state(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, best=1)
    save(tmp_path, 2, best=1)
    for size in (0, 7, (tmp_path / name).stat().st_size - 1):
        os.truncate(tmp_path / name, size)
        assert checkpoint.load(tmp_path, fingerprint=FINGERPRINT) is None
        save(tmp_path, 1, best=1)
        save(tmp_path, 2, best=1)


@pytest.mark.parametrize("name", ["checkpoint.json", "last-0002-000000.safetensors", "best-0001.safetensors"])
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
        '{"fingerprint": "0123abcd", "position": {"epochs": "one", "steps": 0, "loss": 0}, "best": null}',
        '{"fingerprint": "0123abcd", "position": {"epochs": 2, "steps": 0, "loss": 0}, "best": {"epoch": 1}}',
        '{"fingerprint": "0123abcd", "position": 1, "best": null}',
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
    assert (found.position, found.best) == (further.position, further.best)
    assert equal(found.tensors, further.tensors)
    assert equal(best_of(tmp_path / "new", found), kept(2))


def refuse(*_paths: Path) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_state_is_taken_over_also_where_the_file_system_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path / "one", 2, best=2)
    within = replace(state(2, best=2), position=Position(2, 5, 1.5))
    checkpoint.save(tmp_path / "one", within, fingerprint=FINGERPRINT)
    checkpoint.take_over(tmp_path / "new", [tmp_path / "one"])

    found = load(tmp_path / "new")
    assert found.position == within.position
    assert equal(found.tensors, within.tensors)
    assert equal(best_of(tmp_path / "new", found), kept(2))
    assert checkpoint.load_epoch(tmp_path / "new", 2) is not None
    assert names(tmp_path / "new") == names(tmp_path / "one")


def test_a_state_that_cannot_be_taken_over_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path / "one", 2, best=2)
    monkeypatch.setattr(checkpoint, "write", refuse)
    checkpoint.take_over(tmp_path / "new", [tmp_path / "one", tmp_path / "none"])

    assert checkpoint.load(tmp_path / "new", fingerprint=FINGERPRINT) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"the state of {tmp_path / 'one'} cannot be gone on with: [Errno 1] Operation not permitted"
    ]


def test_nothing_is_taken_over_where_there_is_nothing_whole(tmp_path: Path) -> None:
    save(tmp_path / "torn", 3, best=3)
    (tmp_path / "torn" / "last-0003-000000.safetensors").unlink()
    checkpoint.take_over(tmp_path / "new", [tmp_path / "torn", tmp_path / "none"])

    assert checkpoint.load(tmp_path / "new", fingerprint=FINGERPRINT) is None
