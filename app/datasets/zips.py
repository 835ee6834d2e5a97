"""Reading zips in constant memory: the list of files at their end, and the files one at a time.

The format is that of PKWARE's APPNOTE 6.3.10, sections 4.3, 4.5.3 and 4.6.9. Sizes in it are promises of whoever made
the file: nothing is read or unpacked beyond them, nor beyond the limits.
"""

import stat
import struct
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app import errors
from app.datasets import entries
from app.datasets.entries import Entry, Kind, Limits, Misplaced, Told

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _STRONGLY_ENCRYPTED, _UTF8 = 1, 1 << 6, 1 << 11
_IN_ZIP64 = 0xFFFFFFFF
_ZIP64_FIELD, _UNICODE_PATH_FIELD = 0x0001, 0x7075

_END = struct.Struct("<4s4xHHLLH")
_END64_LOCATOR = struct.Struct("<4s4xQ4x")
_END64 = struct.Struct("<4s28xQQQ")
_LISTED = struct.Struct("<4s4xHH4xLLLHHH4xLL")
_LOCAL = struct.Struct("<4s22xHH")
_UNICODE_PATH = struct.Struct("<BL")
_LONGEST_COMMENT = 0xFFFF


@dataclass(frozen=True, slots=True)
class _Member:
    """One line of the list of files, as it stands there."""

    entry: Entry
    method: int
    flags: int
    packed_bytes: int
    checksum: int
    start: int


@dataclass(frozen=True, slots=True)
class _End:
    """Where the list of files is; `shift` is what stands before the zip in its file, to be added to every place."""

    count: int
    start: int
    size_bytes: int
    shift: int


def is_zip(path: Path) -> bool:
    """Whether there is a list of files at the end of the file at `path`."""
    with path.open("rb") as file:
        return _find_end(file) is not None


class Zip:
    has_index = True

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits

    def entries(self, _told: Told = entries.nobody) -> Iterator[Entry]:
        with self._path.open("rb") as file:
            for member in self._members(file):
                if member.flags & (_ENCRYPTED | _STRONGLY_ENCRYPTED):
                    raise errors.BadArchive(
                        "the zip is encrypted; send it without a password", code="encrypted_archive"
                    )
                if member.method not in (_STORED, _DEFLATED) and member.entry.kind == "file":
                    raise errors.BadArchive(
                        f"the zip packs {member.entry.path!r} by method {member.method}; "
                        "pack it with the usual one, deflate, or without compression",
                        code="unsupported_compression",
                    )
                yield member.entry

    def files(self, wanted: Container[int]) -> Iterator[tuple[Entry, bytes | Misplaced]]:
        with self._path.open("rb") as listed, self._path.open("rb") as file:
            for member in self._members(listed):
                if member.entry.position in wanted:
                    yield member.entry, self._content(file, member)

    def _members(self, file: BinaryIO) -> Iterator[_Member]:
        end = _find_end(file)
        if end is None or end.start < 0:
            raise entries.broken("the zip's list of files, which is at its end, cannot be found")
        if end.count > self._limits.max_entries:
            raise entries.too_many(self._limits.max_entries)
        file.seek(end.start)
        left, position = end.size_bytes, 0
        while left > 0:
            member, used = _read_line(file, position, end.shift)
            yield member
            left, position = left - used, position + 1

    def _content(self, file: BinaryIO, member: _Member) -> bytes | Misplaced:
        if member.entry.size_bytes > self._limits.max_file_bytes:
            return entries.file_too_large(member.entry, self._limits)
        try:
            return _unpacked(file, member)
        except errors.BadArchive as error:
            return Misplaced(member.entry.path, "broken_in_archive", f"cannot be read from the archive: {error}")


def _find_end(file: BinaryIO) -> _End | None:
    size = file.seek(0, 2)
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read(_END.size + _LONGEST_COMMENT)
    at = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
    if at < 0:
        return None
    _, _, count, size_bytes, start, _ = _END.unpack_from(tail, at)
    ends_at = tail_start + at
    larger = _find_end64(file, ends_at)
    if larger is not None:
        ends_at, count, size_bytes, start = larger
    found_at = ends_at - size_bytes
    return _End(count=count, start=found_at, size_bytes=size_bytes, shift=found_at - start)


def _find_end64(file: BinaryIO, before: int) -> tuple[int, int, int, int] | None:
    at = before - _END64_LOCATOR.size - _END64.size
    if at < 0:
        return None
    file.seek(at)
    found = file.read(_END64.size + _END64_LOCATOR.size)
    signature, count, size_bytes, start = _END64.unpack_from(found)
    locator_signature, _ = _END64_LOCATOR.unpack_from(found, _END64.size)
    if signature != b"PK\x06\x06" or locator_signature != b"PK\x06\x07":
        return None
    return at, count, size_bytes, start


def _read_line(file: BinaryIO, position: int, shift: int) -> tuple[_Member, int]:
    signature, flags, method, checksum, packed, size, name_size, extra_size, comment_size, mode, start = _LISTED.unpack(
        _exactly(file, _LISTED.size)
    )
    if signature != b"PK\x01\x02":
        raise entries.broken("the zip's list of files is damaged")
    name, extra = _exactly(file, name_size), _exactly(file, extra_size)
    file.seek(comment_size, 1)
    size, packed, start = _with_zip64(extra, size, packed, start)
    path = _utf8(name) if flags & _UTF8 else _unicode_path(extra, name) or _guessed(name)
    entry = Entry(position, path, _kind(path, mode >> 16), size)
    used: int = _LISTED.size + name_size + extra_size + comment_size
    return _Member(entry, method, flags, packed, checksum, start + shift), used


def _with_zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    """The values, with those that did not fit into 32 bits taken from the field made for them."""
    field = _field(extra, _ZIP64_FIELD)
    larger = iter([number for (number,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])])
    return tuple(next(larger, value) if value == _IN_ZIP64 else value for value in values)


def _field(extra: bytes, wanted: int) -> bytes:
    """The first extra field of the `wanted` kind; empty where there is none."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return b""


def _utf8(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise entries.broken(f"the zip's list of files cannot be read ({error})") from error


def _unicode_path(extra: bytes, name: bytes) -> str:
    """The path in UTF-8 that Info-ZIP puts beside a `name` in another encoding; empty where there is none of that very
    name."""
    field = _field(extra, _UNICODE_PATH_FIELD)
    if len(field) <= _UNICODE_PATH.size:
        return ""
    version, checksum = _UNICODE_PATH.unpack_from(field)
    is_of_name = version == 1 and checksum == zlib.crc32(name)
    return _utf8(field[_UNICODE_PATH.size :]) if is_of_name else ""


def _guessed(name: bytes) -> str:
    """A name whose encoding is not said: UTF-8, which zip on Linux writes as it is, where it is that; another encoding
    hardly ever happens to be. The format's own, CP437, otherwise."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437")


def _kind(path: str, mode: int) -> Kind:
    if path.endswith(("/", "\\")):
        return "folder"
    return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "other"


def _unpacked(file: BinaryIO, member: _Member) -> bytes:
    size = member.entry.size_bytes
    if not 0 <= member.start <= file.seek(0, 2):
        raise entries.broken("its place is outside the zip")
    file.seek(member.start)
    signature, name_size, extra_size = _LOCAL.unpack(_exactly(file, _LOCAL.size))
    if signature != b"PK\x03\x04":
        raise entries.broken("it is not where the list of files says")
    file.seek(name_size + extra_size, 1)
    content = _inflated(file, member) if member.method == _DEFLATED else _exactly(file, size)
    if len(content) != size or zlib.crc32(content) != member.checksum:
        raise entries.broken("its size or checksum is not as listed")
    return content


def _inflated(file: BinaryIO, member: _Member) -> bytes:
    # One byte more than listed, so that a file which unpacks to more is not taken for complete.
    most, left = member.entry.size_bytes + 1, member.packed_bytes
    inflater, pieces, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), [], 0
    try:
        while left > 0 and unpacked < most and not inflater.eof:
            packed = _exactly(file, min(left, entries.PIECE_BYTES))
            left -= len(packed)
            pieces.append(inflater.decompress(packed, most - unpacked))
            unpacked += len(pieces[-1])
    except zlib.error as error:
        raise entries.broken(str(error)) from error
    if not inflater.eof:
        raise entries.broken("it unpacks to more than listed, or is cut off")
    return b"".join(pieces)


def _exactly(file: BinaryIO, size: int) -> bytes:
    """The next `size` bytes, of which as many are there as the file has: a size that lies costs no memory."""
    content = file.read(size)
    if len(content) < size:
        raise entries.broken("the zip has been cut off")
    return content
