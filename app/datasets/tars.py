"""Reading tars, plain or compressed, forwards and in constant memory.

The formats are POSIX ustar and pax (IEEE Std 1003.1, `pax`, "EXTENDED DESCRIPTION") and that of GNU tar. Sizes in them
are promises of whoever made the file: a record that describes another entry may be 64 KiB long and no longer, and what
a compressed tar unpacks to is counted as it comes out.
"""

import bz2
import io
import logging
import lzma
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import BinaryIO, Protocol

from app import errors
from app.datasets import entries
from app.datasets.entries import Entry, Kind, Limits, Misplaced, Told

logger = logging.getLogger(__name__)

_BLOCK = 512
_MAGIC = slice(257, 262)
_MAX_RECORD_BYTES = 64 * 1024
# Of those that describe one entry. GNU tar and pax write one or two.
_MAX_RECORDS = 8
# Twice what `xz -9` needs. The file may ask for 4 GiB.
_UNPACKING_BYTES = 128 * 1024 * 1024
_PEEK_BYTES = 1024 * 1024

_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
_SPARSE_NAME, _SPARSE_MAP = b"GNU.sparse.name", b"GNU.sparse.map"
_KINDS: Mapping[bytes, Kind] = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder"}
_WITHOUT_CONTENT = b"123456"  # links, devices, folders, queues: nothing follows, whatever size they say


class _Decompressor(Protocol):
    """What bz2, lzma and `_Gunzip` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _File(Protocol):
    """What is read of a tar's file."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...


class _Source(Protocol):
    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""

    def skip(self, size: int) -> None:
        """Go on `size` bytes further. Raises `BadArchive` where there are not as many."""


class Tar:
    has_index = False

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits

    def entries(self, told: Told = entries.nobody) -> Iterator[Entry]:
        with self._path.open("rb") as file:
            watched = _Watched(file, self._path.stat().st_size, told)
            yield from _Walk(_source(watched, self._limits.max_total_bytes)).entries()

    def files(self, wanted: Container[int]) -> Iterator[tuple[Entry, bytes | Misplaced]]:
        with self._path.open("rb") as file:
            walk = _Walk(_source(file, self._limits.max_total_bytes))
            for entry in walk.entries():
                if entry.position not in wanted:
                    continue
                if entry.kind != "file":
                    yield entry, entries.not_plain(entry)
                elif entry.size_bytes > self._limits.max_file_bytes:
                    yield entry, entries.file_too_large(entry, self._limits)
                else:
                    yield entry, walk.content(entry)


def is_tar(path: Path) -> bool:
    """Whether the file at `path` begins as a tar does; of a compressed one no more than that is unpacked.

    Raises `BadArchive` for one that is compressed and cannot be unpacked.
    """
    with path.open("rb") as file:
        head = file.read(_PEEK_BYTES)
    return _source(io.BytesIO(head), _PEEK_BYTES).read(_BLOCK)[_MAGIC] == b"ustar"


class _Walk:
    """One way through a tar, from its first header to its last."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._for_all: dict[bytes, bytes] = {}
        self._left = 0

    def entries(self) -> Iterator[Entry]:
        for position in count():
            found = self._next(position)
            if found is None:
                return
            yield found
            self._source.skip(self._left)

    def content(self, entry: Entry) -> bytes:
        """What is in the file that `entries` came to last."""
        content = _exactly(self._source, entry.size_bytes)
        self._left -= entry.size_bytes
        return content

    def _next(self, position: int) -> Entry | None:
        described: dict[bytes, bytes] = {}
        for _ in range(_MAX_RECORDS + 1):
            header = _read_header(self._source)
            if header is None:
                return None
            kind = header[156:157]
            if kind not in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
                return self._entry(position, header, {**self._for_all, **described})
            content = self._record(_number(header[124:136]))
            if kind == _PAX:
                described |= _pax(content)
            elif kind == _PAX_GLOBAL:
                self._for_all |= _pax(content)
            elif kind == _LONG_NAME:
                described.setdefault(b"path", content.partition(b"\0")[0])
        raise entries.broken(f"more than {_MAX_RECORDS} records of the tar describe one entry")

    def _record(self, size: int) -> bytes:
        if size > _MAX_RECORD_BYTES:
            raise entries.broken(f"a record of the tar has {size} bytes, more than a name or an attribute needs")
        content = _exactly(self._source, size)
        self._source.skip(-size % _BLOCK)
        return content

    def _entry(self, position: int, header: bytes, described: Mapping[bytes, bytes]) -> Entry:
        kind, name = header[156:157], _name(header)
        size = _decimal(described[b"size"]) if b"size" in described else _number(header[124:136])
        if kind == _SPARSE:
            self._skip_map(header)
        # Before there was a kind for folders, they were files with such a name.
        if kind == b"\0" and name.endswith(b"/"):
            kind = b"5"
        if kind in _WITHOUT_CONTENT:
            size = 0
        self._left = size + -size % _BLOCK
        path = described.get(_SPARSE_NAME, described.get(b"path", name)).decode("utf-8", "surrogateescape")
        is_sparse = _SPARSE_MAP in described or _SPARSE_NAME in described
        return Entry(position, path, "other" if is_sparse else _KINDS.get(kind, "other"), size)

    def _skip_map(self, header: bytes) -> None:
        goes_on = header[482]
        while goes_on:
            goes_on = _exactly(self._source, _BLOCK)[504]


class _Watched:
    """A file that tells before each reading how far it has come."""

    def __init__(self, file: BinaryIO, size_bytes: int, told: Told) -> None:
        self._file, self._size_bytes, self._told = file, size_bytes, told
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int, /) -> bytes:
        self._told(self._file.tell(), self._size_bytes)
        return self._file.read(size)


class _Plain:
    """A tar that is not compressed."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def skip(self, size: int) -> None:
        if self._file.tell() + size > self._size:
            raise _cut_off()
        self._file.seek(size, io.SEEK_CUR)


class _Compressed:
    """What a compressed file unpacks to, as far as it is asked for, and `max_bytes` of it."""

    def __init__(self, file: _File, make: Callable[[], _Decompressor], max_bytes: int) -> None:
        self._file = file
        self._make = make
        self._decompressor = make()
        self._max_bytes = max_bytes
        self._unpacked_bytes = 0

    def read(self, size: int) -> bytes:
        pieces, left = [], size
        while left > 0:
            piece = self._piece(min(left, entries.PIECE_BYTES))
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        while size > 0:
            piece = self._piece(min(size, entries.PIECE_BYTES))
            if not piece:
                raise _cut_off()
            size -= len(piece)

    def _piece(self, size: int) -> bytes:
        """Between one byte and `size`; none at the end of the file."""
        piece = b""
        while not piece:
            packed = b""
            if self._decompressor.eof:  # files of this kind may stand one after another
                packed = self._decompressor.unused_data or self._file.read(entries.PIECE_BYTES)
                if not packed:
                    return b""
                self._decompressor = self._make()
            piece = self._decompress(packed, size)
            if not piece and not packed and not self._decompressor.eof:
                packed = self._file.read(entries.PIECE_BYTES)
                if not packed:
                    raise _cut_off()
                piece = self._decompress(packed, size)
        self._unpacked_bytes += len(piece)
        if self._unpacked_bytes > self._max_bytes:
            raise entries.unpacks_too_large(self._max_bytes)
        return piece

    def _decompress(self, packed: bytes, size: int) -> bytes:
        try:
            return self._decompressor.decompress(packed, size)
        except Exception as error:  # three libraries, each with its own, and all of them say the same
            logger.info("a compressed tar cannot be unpacked", exc_info=True)
            raise entries.broken(f"the tar cannot be unpacked ({error})") from error


class _Gunzip:
    """gzip in the form of the other decompressors, which keep what they were given and have not used yet."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail + data, max_length)


_COMPRESSIONS: Mapping[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": _Gunzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACKING_BYTES),
}


def _source(file: _File, max_bytes: int) -> _Source:
    head = file.read(max(map(len, _COMPRESSIONS)))
    file.seek(0)
    for magic, make in _COMPRESSIONS.items():
        if head.startswith(magic):
            return _Compressed(file, make, max_bytes)
    return _Plain(file)


def _read_header(source: _Source) -> bytes | None:
    """The next header; nothing at the end, which a block of zeros marks."""
    header = source.read(_BLOCK)
    if header.count(0) == len(header):
        return None
    if len(header) < _BLOCK:
        raise _cut_off()
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156]):
        raise entries.broken("a header of the tar is damaged")
    return header


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    # GNU tar has other things where POSIX has the beginning of a long name.
    is_posix = header[257:263] == b"ustar\0"
    return prefix + b"/" + name if prefix and is_posix else name


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # a number that was too large for octal digits
        return int.from_bytes(field[1:])
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise entries.broken("a header of the tar is damaged")
    return int(digits, 8) if digits else 0


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise entries.broken("a size in the tar is no number")
    return int(digits)


def _pax(content: bytes) -> dict[bytes, bytes]:
    """The attributes that matter here; those of sparse files as one."""
    found, at = {}, 0
    while at < len(content):
        length = content[at : at + 8].partition(b" ")[0]
        begin, end = at + len(length) + 1, at + _decimal(length)
        if begin >= end or content[end - 1 : end] != b"\n":
            raise entries.broken("an attribute in the tar is damaged")
        key, _, value = content[begin : end - 1].partition(b"=")
        if key in (b"path", b"size", _SPARSE_NAME):
            found[key] = value
        elif key.startswith(b"GNU.sparse."):
            found[_SPARSE_MAP] = b""
        at = end
    return found


def _exactly(source: _Source, size: int) -> bytes:
    content = source.read(size)
    if len(content) < size:
        raise _cut_off()
    return content


def _cut_off() -> errors.BadArchive:
    return entries.broken("the tar has been cut off")
