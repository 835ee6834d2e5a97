"""The images of a dataset in its Lance table. Lance does not survive a fork: only processes that were spawned or
served by a forkserver which has not touched it may import this module.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

from app import files
from app.datasets.archive import Split

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("difference_hash", pa.uint64(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("image", pa.large_binary(), nullable=False),
    ]
)
_FACTS = [name for name in SCHEMA.names if name != "image"]
_BATCH_BYTES = 32 * 1024 * 1024
_BATCH_ROWS = 1024
_LEFTOVER_AGE = timedelta(days=1)
_IMAGES = "data"
"""Where in its folder Lance has what is in a table."""


@dataclass(frozen=True)
class Item:
    """One image of a dataset, without its bytes; sizes in pixels and bytes."""

    item_id: str
    path: str
    label: str
    split: Split
    sha256: str
    difference_hash: int
    format: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """The items under one tag of a table, in stored order."""

    uri: str
    tag: str
    items: tuple[Item, ...]

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The image bytes at `rows`, in that order."""
        table = lance.dataset(self.uri, version=self.tag).take(list(rows), columns=["image"])
        return [value.as_py() for value in table.column("image")]


def read(path: Path, tag: str) -> Snapshot:
    """The items under `tag` of the table at `path`."""
    table = lance.dataset(str(path), version=tag).to_table(columns=_FACTS)
    return Snapshot(uri=str(path), tag=tag, items=tuple(Item(**row) for row in table.to_pylist()))


def paths_of(path: Path, tag: str, hashes: Sequence[str]) -> dict[tuple[str, str], str]:
    """The paths that items under `tag` with these sha256 had in their archives, by sha256 and label."""
    wanted = pc.field("sha256").isin(pa.array(hashes, pa.string()))
    table = lance.dataset(str(path), version=tag).to_table(columns=["sha256", "label", "path"], filter=wanted)
    return {(row["sha256"], row["label"]): row["path"] for row in table.to_pylist()}


def append(
    path: Path, rows: Iterable[tuple[Item, bytes]], *, versions: Sequence[str], tag: str, folder: Path
) -> Snapshot:
    """Give the table at `path` a version `tag` that holds the items of the last of `versions` and then `rows`, in
    constant memory; it outlasts a loss of power when this returns. `versions` are the tags of all versions so far, in
    order. Images lie in `folder`, which is on the same disk, until they are all there: what a process that is killed
    leaves is found there.

    Whatever else is written to the table at the same time, by a stale attempt at the same version for one, is no part
    of it.
    """
    before = [lance.dataset(str(path), version=last) for last in versions[-1:]]
    kept = [part.metadata for table in before for part in table.get_fragments()]
    form = before[0].data_storage_version if before else None
    reader = pa.RecordBatchReader.from_batches(SCHEMA, _batches(rows))
    added = write_fragments(reader, str(folder / tag), SCHEMA, mode="overwrite", data_storage_version=form)
    _take_in(path, folder / tag, [file.path for part in added for file in part.files])
    written = _commit(path, lance.LanceOperation.Overwrite(SCHEMA, [*kept, *added]))
    written.tags.create(tag, written.version)
    _make_durable(path)
    _remove_leftovers(written, versions)
    return read(path, tag)


def withdraw(path: Path, tag: str, *, versions: Sequence[str]) -> None:
    """Undo the `append` of `tag` to the table at `path`, with what it has added to the images of the last of
    `versions`; nobody may have been told of it."""
    table = lance.dataset(str(path), version=tag)
    kept = {name for last in versions[-1:] for name in _files_of(lance.dataset(str(path), version=last))}
    table.tags.delete(tag)
    for name in _files_of(table) - kept:
        (path / _IMAGES / name).unlink(missing_ok=True)


def tag_for(number: int, attempt: str) -> str:
    """The tag of version `number` as the attempt with this name writes it."""
    return f"v{number}-{attempt}"


def version_of(tag: str) -> int:
    """The number of the version that `tag` is for."""
    return int(tag[1:].partition("-")[0])


def content_hash(items: Iterable[Item]) -> str:
    """sha256 over image hash, label and split of every item, whatever their order."""
    digest = hashlib.sha256()
    for line in sorted(f"{item.sha256} {item.split} {item.label}\n" for item in items):
        digest.update(line.encode())
    return digest.hexdigest()


def _files_of(table: lance.LanceDataset) -> set[str]:
    return {file.path for part in table.get_fragments() for file in part.metadata.files}


def _take_in(path: Path, written: Path, names: Iterable[str]) -> None:
    """Have files of images that were written to one table, whose names nobody else gives, in that at `path`."""
    target = path / _IMAGES
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (written / _IMAGES / name).rename(target / name)


def _make_durable(path: Path) -> None:
    """Lance has nothing of the table at `path` written through to the disk. What was there before costs no time."""
    for part in (*path.rglob("*"), path, path.parent):
        with suppress(FileNotFoundError):  # somebody else's, who has renamed or removed it
            files.make_durable(part)


def _remove_leftovers(table: lance.LanceDataset, versions: Sequence[str]) -> None:
    """Remove what attempts that did not count have left behind."""
    for tag in table.tags.list():
        if version_of(tag) <= len(versions) and tag not in versions:
            table.tags.delete(tag)
    # A young version without a tag may be about to get one.
    table.cleanup_old_versions(older_than=_LEFTOVER_AGE, error_if_tagged_old_versions=False)


def _is_table(path: Path) -> bool:
    return (path / "_versions").is_dir()


def _commit(path: Path, state: lance.LanceOperation.Overwrite) -> lance.LanceDataset:
    while True:
        newest = lance.dataset(str(path)).version if _is_table(path) else 0
        try:
            return lance.LanceDataset.commit(str(path), state, read_version=newest)
        except CommitConflictError:
            continue  # somebody else's version came first; `state` names all it holds and so stays right


def _batches(rows: Iterable[tuple[Item, bytes]]) -> Iterator[pa.RecordBatch]:
    pending: list[dict[str, object]] = []
    pending_bytes = 0
    for item, image in rows:
        pending.append({**vars(item), "image": image})
        pending_bytes += len(image)
        if pending_bytes >= _BATCH_BYTES or len(pending) >= _BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(pending, schema=SCHEMA)
            pending, pending_bytes = [], 0
    if pending:
        yield pa.RecordBatch.from_pylist(pending, schema=SCHEMA)
