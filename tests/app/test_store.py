"""Versions of a table: each holds what was given for it, whoever else writes at the same time."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import lance
import pytest

from app import files
from app.datasets import store
from app.datasets.store import Item


def rows(*numbers: int) -> list[tuple[Item, bytes]]:
    return [
        (Item(f"item_{n}", f"a/{n}.jpg", "a", "train", f"{n:064x}", n, "JPEG", 8, 8, 3), b"%03d" % n) for n in numbers
    ]


def append(path: Path, rows: Iterable[tuple[Item, bytes]], *, versions: Sequence[str], tag: str) -> None:
    store.append(path, rows, versions=versions, tag=tag, folder=path.parent / "job")


def held(path: Path, tag: str) -> list[bytes]:
    snapshot = store.read(path, tag)
    return snapshot.read(range(len(snapshot.items)))


def test_a_version_adds_to_the_one_before_and_that_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.lance"
    append(path, rows(1, 2), versions=[], tag="v1-a")
    append(path, rows(3), versions=["v1-a"], tag="v2-a")

    assert held(path, "v1-a") == [b"001", b"002"]
    assert held(path, "v2-a") == [b"001", b"002", b"003"]


def test_files_are_named_by_what_is_in_them_and_their_label(tmp_path: Path) -> None:
    path = tmp_path / "t.lance"
    append(path, rows(1, 2), versions=[], tag="v1-a")
    append(path, rows(3), versions=["v1-a"], tag="v2-a")
    hashes = [f"{number:064x}" for number in (2, 3, 4)]
    assert store.paths_of(path, "v1-a", hashes) == {(hashes[0], "a"): "a/2.jpg"}
    assert store.paths_of(path, "v2-a", hashes) == {(hashes[0], "a"): "a/2.jpg", (hashes[1], "a"): "a/3.jpg"}
    assert store.paths_of(path, "v2-a", []) == {}


def test_all_of_a_new_version_is_on_the_disk_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "datasets" / "t.lance"
    for versions, tag in (([], "v1-a"), (["v1-a"], "v2-a")):
        before = set(path.rglob("*"))
        durable: set[Path] = set()
        monkeypatch.setattr(files, "make_durable", durable.add)
        append(path, rows(len(versions)), versions=versions, tag=tag)
        added = {*path.rglob("*"), path} - before
        assert {part.parent.name for part in added if part.is_file()} == {"data", "tags", "_transactions", "_versions"}
        assert added | {part.parent for part in added} <= durable


def test_images_that_are_not_all_there_yet_are_not_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a process that was killed would stay there."""
    path = tmp_path / "t.lance"
    append(path, rows(1), versions=[], tag="v1-a")
    monkeypatch.setattr(store, "_BATCH_ROWS", 1)
    before = set(path.rglob("*"))
    found: list[set[Path]] = []

    def watched() -> Iterator[tuple[Item, bytes]]:
        for item, _ in rows(2, 3, 4, 5):
            yield item, bytes(3_000_000)
            found.append(set(path.rglob("*")))

    append(path, watched(), versions=["v1-a"], tag="v2-a")
    assert found == [before] * 4
    assert [path for path in (tmp_path / "job").rglob("*") if path.is_file()] == []
    assert [len(image) for image in held(path, "v2-a")] == [3] + [3_000_000] * 4


@pytest.mark.parametrize("versions", [[], ["v1-a"]])
def test_two_attempts_at_one_version_that_overlap_keep_apart(tmp_path: Path, versions: list[str]) -> None:
    path = tmp_path / "t.lance"
    if versions:
        append(path, rows(1, 2), versions=[], tag="v1-a")
    number = len(versions) + 1

    def interrupted() -> Iterator[tuple[Item, bytes]]:
        yield from rows(10)
        append(path, rows(20, 21), versions=versions, tag=store.tag_for(number, "second"))
        yield from rows(11)

    append(path, interrupted(), versions=versions, tag=store.tag_for(number, "first"))
    before = [b"001", b"002"] if versions else []
    assert held(path, store.tag_for(number, "first")) == [*before, b"010", b"011"]
    assert held(path, store.tag_for(number, "second")) == [*before, b"020", b"021"]


def test_tags_of_attempts_that_did_not_count_go_with_the_next_version(tmp_path: Path) -> None:
    path = tmp_path / "t.lance"
    for attempt in ("a", "b"):
        append(path, rows(1), versions=[], tag=store.tag_for(1, attempt))
    append(path, rows(2), versions=["v1-b"], tag="v2-a")

    assert set(lance.dataset(str(path)).tags.list()) == {"v1-b", "v2-a"}


@pytest.mark.parametrize("versions", [[], ["v1-a"]])
def test_what_is_withdrawn_takes_its_images_along_and_no_others(
    tmp_path: Path, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.lance"
    if versions:
        append(path, rows(1, 2), versions=[], tag="v1-a")
    before = images(path)
    number = len(versions) + 1
    lost, again = store.tag_for(number, "lost"), store.tag_for(number, "again")
    append(path, rows(3), versions=versions, tag=lost)
    store.withdraw(path, lost, versions=versions)

    assert images(path) == before
    assert lost not in lance.dataset(str(path)).tags.list()
    append(path, rows(4), versions=versions, tag=again)
    assert held(path, again) == [*([b"001", b"002"] if versions else []), b"004"]
    # Tidying up goes over versions whose images are gone.
    monkeypatch.setattr(store, "_LEFTOVER_AGE", timedelta(microseconds=1))
    append(path, rows(5), versions=[*versions, again], tag=store.tag_for(number + 1, "a"))
    assert held(path, again) == [*([b"001", b"002"] if versions else []), b"004"]


def images(path: Path) -> set[Path]:
    return set((path / "data").glob("*"))
