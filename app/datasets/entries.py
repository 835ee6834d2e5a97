"""What archives consist of, whatever their format, and how much of one is taken in."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from app import errors

Kind = Literal["file", "folder", "other"]

PIECE_BYTES = 256 * 1024
"""How much is read, unpacked or skipped at a time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an archive's list."""

    position: int
    path: str
    kind: Kind
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Misplaced:
    """An entry of which nothing can be made, and why."""

    path: str
    code: str
    message: str


@dataclass(frozen=True)
class Limits:
    """How much of an archive is taken in. Sizes in bytes, and what comes out counts, whatever the archive says."""

    max_total_bytes: int
    """Of all that the archive unpacks to."""
    max_file_bytes: int
    max_entries: int


Told = Callable[[int, int], None]
"""Is told, now and then, how many bytes of a file were read, and how many there are."""


def nobody(_done: int, _total: int) -> None:
    """Who does not want to be told."""


class Archive(Protocol):
    has_index: bool
    """Whether the list of entries is had without reading the whole file."""

    def entries(self, told: Told = nobody) -> Iterator[Entry]:
        """Every entry in stored order; `told` of the reading where there is no index. Raises `BadArchive`."""

    def files(self, wanted: Container[int]) -> Iterator[tuple[Entry, bytes | Misplaced]]:
        """Content of the entries at the wanted positions in stored order, or why one cannot be read.

        Raises `BadArchive`.
        """


def not_plain(entry: Entry) -> Misplaced:
    return Misplaced(entry.path, "not_a_file", "a link, device or sparse file, not a plain file")


def file_too_large(entry: Entry, limits: Limits) -> Misplaced:
    message = f"{entry.size_bytes} bytes, over the limit of {limits.max_file_bytes} a file"
    return Misplaced(entry.path, "file_too_large", message)


def unpacks_too_large(max_total_bytes: int) -> errors.BadArchive:
    message = f"the archive unpacks to more than {max_total_bytes} bytes"
    return errors.BadArchive(message, code="archive_unpacks_too_large")


def too_many(max_entries: int) -> errors.BadArchive:
    message = f"the archive holds more than {max_entries} files and folders, or very long names; send it in parts"
    return errors.BadArchive(message, code="too_many_entries", detail={"max_entries": max_entries})


def broken(what: str) -> errors.BadArchive:
    return errors.BadArchive(f"the archive is broken: {what}", code="broken_archive")
