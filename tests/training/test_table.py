import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from worker.training import table, tablefile
from worker.training.table import Columns, Taken
from worker.training.tablefile import Draft

NARROW = np.arange(12, dtype=np.float32).reshape(6, 2)
WIDE = -np.arange(18, dtype=np.float32).reshape(6, 3)
NAMES = np.arange(24, dtype=np.uint8).reshape(6, 4)
PLACES = np.array([4, 0, 0, 5])
TAKEN = Taken((NARROW, WIDE), PLACES)
EXPECTED = np.concatenate([NARROW, WIDE], axis=1)[PLACES]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk is to a file that wants to grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path: Path) -> None:
    with Draft(path, tell=pytest.fail) as draft:
        for name, values in draft.create(NAMES, {"narrow": 2, "wide": 3}).items():
            values[:] = {"narrow": NARROW, "wide": WIDE}[name]
        draft.publish(seconds=12.5)


def test_rows_are_taken_from_tables_side_by_side() -> None:
    assert (len(TAKEN), TAKEN.shape) == (4, (4, 5))
    assert np.array_equal(TAKEN[:], EXPECTED)
    assert np.array_equal(TAKEN[1:3], EXPECTED[1:3])
    assert np.array_equal(TAKEN[[3, 0]], EXPECTED[[3, 0]])


@pytest.mark.parametrize("columns", [slice(0, 2), slice(1, 4), slice(2, 5), slice(4, 5), slice(None)])
def test_columns_may_lie_in_one_table_or_in_several(columns: slice) -> None:
    assert np.array_equal(TAKEN[1:, columns], EXPECTED[1:, columns])


def test_columns_of_columns_are_those_of_the_whole() -> None:
    middle = Columns(TAKEN, slice(1, 5))
    assert middle.shape == (4, 4)
    assert np.array_equal(middle[:], EXPECTED[:, 1:5])
    assert np.array_equal(Columns(middle, slice(1, 3))[[2, 0]], EXPECTED[[2, 0], 2:4])


def test_a_nameless_table_leaves_nothing_in_its_folder(tmp_path: Path) -> None:
    values = table.nameless(tmp_path, (3, 2), np.float32)
    values[:] = NARROW[:3]
    assert np.array_equal(values, NARROW[:3])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("knows_fallocate", [True, False])
def test_room_is_reserved_or_refused(tmp_path: Path, knows_fallocate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not knows_fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    size = 3 * 2**20 + 5
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"what is there")
        file.flush()
        table.reserve(file.fileno(), size)
        assert os.fstat(file.fileno()).st_size == size
        assert (tmp_path / "file").read_bytes().startswith(b"what is there\0")
        assert os.fstat(file.fileno()).st_blocks * 512 >= size
        with no_file_larger_than(2 * size), pytest.raises(OSError, match=r"large|No space"):
            table.reserve(file.fileno(), 3 * size)


def test_a_file_of_tables_is_one_of_safetensors(tmp_path: Path) -> None:
    write(tmp_path / "tables")
    read = safetensors.numpy.load_file(tmp_path / "tables")
    assert np.array_equal(read["narrow"], NARROW)
    assert np.array_equal(read["wide"], WIDE)
    assert (tmp_path / "tables").read_bytes()[8:].startswith(b"{")


def test_tables_are_read_as_written_and_cannot_be_changed(tmp_path: Path) -> None:
    write(tmp_path / "tables")
    found = tablefile.read(tmp_path / "tables", names=NAMES)
    assert found is not None
    assert found.seconds == 12.5
    assert list(found.tables) == ["narrow", "wide"]
    assert np.array_equal(found.tables["wide"], WIDE)
    with pytest.raises(ValueError, match="read-only"):
        found.tables["wide"][0, 0] = 1
    assert tablefile.read(tmp_path / "tables", names=NAMES[:5]) is None
    assert tablefile.read(tmp_path / "tables", names=NAMES[::-1]) is None


def test_what_rows_are_of_is_read_without_all_that_is_in_them(tmp_path: Path) -> None:
    write(tmp_path / "tables")
    whole = (tmp_path / "tables").read_bytes()
    found = tablefile.names_in(tmp_path / "tables")
    assert found is not None
    assert np.array_equal(found, NAMES)
    (tmp_path / "tables").write_bytes(whole[:-1])
    assert tablefile.names_in(tmp_path / "tables") is None
    assert tablefile.names_in(tmp_path / "others") is None


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "tables")
    whole = (tmp_path / "tables").read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        (tmp_path / "tables").write_bytes(changed)
        assert tablefile.read(tmp_path / "tables", names=NAMES) is None
    (tmp_path / "tables").write_bytes(whole + b"\0")
    assert tablefile.read(tmp_path / "tables", names=NAMES) is None
    (tmp_path / "tables").write_bytes(whole)
    assert tablefile.read(tmp_path / "tables", names=NAMES) is not None


def test_what_is_not_published_is_gone_but_for_whoever_has_it(tmp_path: Path) -> None:
    with Draft(tmp_path / "tables", tell=pytest.fail) as draft:
        values = draft.create(NAMES, {"narrow": 2})["narrow"]
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    values[:] = NARROW
    assert np.array_equal(values, NARROW)


def test_where_the_disk_has_no_room_tables_are_in_memory(tmp_path: Path) -> None:
    told: list[str] = []
    with Draft(tmp_path / "tables", tell=told.append) as draft:
        with no_file_larger_than(4096):
            values = draft.create(np.zeros((6000, 3), np.uint8), {"narrow": 2})["narrow"]
        assert list(tmp_path.iterdir()) == []
        values[:] = 3
        assert draft.publish(seconds=1.0)["narrow"] is values
    (reason,) = told
    assert "large" in reason
    assert list(tmp_path.iterdir()) == []


def test_tables_that_cannot_take_their_name_are_there_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    told: list[str] = []
    with Draft(tmp_path / "tables", tell=told.append) as draft:
        draft.create(NAMES, {"narrow": 2})["narrow"][:] = NARROW
        found = draft.publish(seconds=1.0)
    assert len(told) == 1
    assert np.array_equal(found["narrow"], NARROW)
    assert [path.name for path in tmp_path.iterdir()] == ["tables"]
