"""The images of a dataset in its Lance table. Lance does not survive a fork: only processes that were spawned or
served by a forkserver which has not touched it may import this module.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa

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


@dataclass(frozen=True)
class Item:
    """One image of a dataset, without its bytes; sizes in pixels and bytes."""

    item_id: str
    path: str
    label: str
    split: str
    sha256: str
    difference_hash: int
    format: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """The items of one version, in stored order."""

    uri: str
    number: int
    items: tuple[Item, ...]

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The image bytes at `rows`, in that order."""
        table = lance.dataset(self.uri, version=_tag(self.number)).take(list(rows), columns=["image"])
        return [value.as_py() for value in table.column("image")]


def read_version(path: Path, number: int) -> Snapshot:
    """The items of version `number` of the table at `path`."""
    table = lance.dataset(str(path), version=_tag(number)).to_table(columns=_FACTS)
    return Snapshot(uri=str(path), number=number, items=tuple(Item(**row) for row in table.to_pylist()))


def append_version(path: Path, number: int, rows: Iterable[tuple[Item, bytes]]) -> Snapshot:
    """Add `rows` to what version `number - 1` holds and tag the result as version `number`, in constant memory.

    What an earlier attempt at the same version left in the table is not part of it.
    """
    if number > 1:
        table = lance.dataset(str(path), version=_tag(number - 1))
        table.restore()
        mode = "append"
    else:
        mode = "overwrite"
    reader = pa.RecordBatchReader.from_batches(SCHEMA, _batches(rows))
    written = lance.write_dataset(reader, str(path), mode=mode)
    if _tag(number) in written.tags.list():
        written.tags.update(_tag(number), written.version)
    else:
        written.tags.create(_tag(number), written.version)
    # Versions without a tag are what interrupted attempts left behind.
    written.cleanup_old_versions(older_than=timedelta(0), error_if_tagged_old_versions=False)
    return read_version(path, number)


def content_hash(items: Iterable[Item]) -> str:
    """sha256 over image hash, label and split of every item, whatever their order."""
    digest = hashlib.sha256()
    for line in sorted(f"{item.sha256} {item.split} {item.label}\n" for item in items):
        digest.update(line.encode())
    return digest.hexdigest()


def _tag(number: int) -> str:
    return f"v{number}"


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
