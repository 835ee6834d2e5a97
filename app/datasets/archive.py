"""Archives of labelled images: reading zip and tar without unpacking to disk, and finding the class folders.

Nothing of an archive is ever written under a name it chose, and no file in it is read beyond a limit.
"""

import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO, Literal, Protocol

from app import errors

Split = Literal["train", "validation"]

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "validation",
}
_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
    UnicodeDecodeError,
    struct.error,
)


@dataclass(frozen=True)
class Entry:
    """One line of an archive's list."""

    position: int
    path: str
    kind: Literal["file", "folder", "other"]
    size_bytes: int


@dataclass(frozen=True)
class Placed:
    """Where an entry belongs; `split` is None where the folders do not say."""

    label: str
    split: Split | None


@dataclass(frozen=True)
class Misplaced:
    """An entry that belongs nowhere, and why."""

    path: str
    code: str
    message: str


@dataclass(frozen=True)
class Layout:
    """How the entries of an archive fall into classes, by entry position."""

    placed: Mapping[int, Placed]
    misplaced: tuple[Misplaced, ...]
    ignored: int
    labels: tuple[str, ...]
    empty: tuple[str, ...]
    """Labels whose folder holds no file."""


class Archive(Protocol):
    has_index: bool
    """Whether the list of entries is had without reading the whole file."""

    def entries(self) -> Iterator[Entry]:
        """Every entry in stored order. Raises `BadArchive`."""

    def files(self, wanted: Mapping[int, Placed], *, max_bytes: int) -> Iterator[tuple[Entry, bytes | Misplaced]]:
        """Content of the wanted entries in stored order, or why one cannot be read. Raises `BadArchive`."""


def open_archive(path: Path) -> Archive:
    """The archive at `path`, told by its content. Raises `BadArchive` for anything but a zip or tar."""
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise errors.BadArchive("the upload is empty; send a zip or tar with a folder of images per class")
    if zipfile.is_zipfile(path):
        return _Zip(path)
    if head[:2] == b"PK":
        raise _broken("the zip's list of files, which is at its end, is missing: the file may have been cut off")
    if _is_tar(path):
        return _Tar(path)
    raise errors.BadArchive(
        "the upload is neither a zip nor a tar (.tar, .tar.gz, .tar.bz2, .tar.xz)", code="not_an_archive"
    )


def lay_out(entries: Iterable[Entry], *, max_total_bytes: int) -> Layout:
    """Find the class folders: the first level at which the folders of the files differ.

    Folders named train, val, validation or test on that level are splits, and the classes are the level below.
    Raises `BadArchive` for a path that leads out of the archive and for more than `max_total_bytes` unpacked.
    """
    listed, total_bytes, ignored = [], 0, 0
    for entry in entries:
        parts = _safe_parts(entry.path)
        total_bytes += entry.size_bytes
        if total_bytes > max_total_bytes:
            raise errors.BadArchive(
                f"the archive unpacks to more than {max_total_bytes} bytes", code="archive_unpacks_too_large"
            )
        if any(part.startswith(".") or part.lower() in _LITTER for part in parts):
            ignored += entry.kind != "folder"
        elif parts:
            listed.append((entry, parts))
    return _Sorting(listed, ignored).layout()


def check_classes(layout: Layout, *, known: Iterable[str]) -> None:
    """Raise `BadArchive` unless every class has files and there are two or more, with the `known` labels of before."""
    if layout.empty:
        names = ", ".join(repr(label) for label in layout.empty)
        raise errors.BadArchive(
            f"no files in the folder of class {names}; remove the folder or add images",
            code="empty_class",
            detail={"labels": [*layout.empty]},
        )
    labels = {*layout.labels, *known}
    if not labels:
        raise errors.BadArchive(
            "no class folders: put the images of each class into a folder named as the class",
            code="no_class_folders",
        )
    if len(labels) == 1:
        raise errors.BadArchive(
            f"one class only, {labels.pop()!r}; a classifier needs two or more, a folder each",
            code="single_class",
            detail={"labels": [*layout.labels]},
        )


class _Sorting:
    """The work of `lay_out` on entries whose paths are split into parts."""

    def __init__(self, listed: list[tuple[Entry, tuple[str, ...]]], ignored: int) -> None:
        self._files = [(entry, parts) for entry, parts in listed if entry.kind != "folder"]
        self._ignored = ignored
        folders = {parts[:-1] for _, parts in self._files}
        self._folders = folders | {parts for entry, parts in listed if entry.kind == "folder"}
        self._root = _common_start(self._folders)
        if len(folders) == 1 and len(self._folders) == 1:
            self._root = self._root[:-1]
        below = {parts[len(self._root)].lower() for parts in self._folders if len(parts) > len(self._root)}
        trains = {name for name in below if _SPLIT_FOLDERS.get(name) == "train"}
        self._has_splits = bool(trains) and below > trains and below <= _SPLIT_FOLDERS.keys()

    def layout(self) -> Layout:
        placed, misplaced = {}, []
        for entry, parts in self._files:
            outcome = self._place(entry, parts)
            if isinstance(outcome, Placed):
                placed[entry.position] = outcome
            else:
                misplaced.append(outcome)
        labels = {item.label for item in placed.values()}
        named = {label for parts in self._folders if (label := self._label(parts)) is not None}
        return Layout(
            placed=placed,
            misplaced=tuple(misplaced),
            ignored=self._ignored,
            labels=tuple(sorted(labels)),
            empty=tuple(sorted(named - labels)),
        )

    def _place(self, entry: Entry, parts: tuple[str, ...]) -> Placed | Misplaced:
        label = self._label(parts[:-1])
        if entry.kind == "other":
            return Misplaced(entry.path, "not_a_file", "a link or device, not a file")
        if label is None:
            return Misplaced(entry.path, "no_class_folder", "not in the folder of a class")
        split = _SPLIT_FOLDERS[parts[len(self._root)].lower()] if self._has_splits else None
        return Placed(label, split)

    def _label(self, folder: tuple[str, ...]) -> str | None:
        depth = len(self._root) + self._has_splits
        return unicodedata.normalize("NFC", folder[depth].strip()) or None if len(folder) > depth else None


class _Zip:
    has_index = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> Iterator[Entry]:
        with _opened_zip(self._path) as archive:
            for position, info in enumerate(archive.infolist()):
                if info.flag_bits & 1:
                    raise errors.BadArchive(
                        "the zip is encrypted; send it without a password", code="encrypted_archive"
                    )
                yield Entry(position, info.filename, _zip_kind(info), info.file_size)

    def files(self, wanted: Mapping[int, Placed], *, max_bytes: int) -> Iterator[tuple[Entry, bytes | Misplaced]]:
        with _opened_zip(self._path) as archive:
            for position, info in enumerate(archive.infolist()):
                if position in wanted:
                    entry = Entry(position, info.filename, _zip_kind(info), info.file_size)
                    yield entry, _read_zip_member(archive, info, entry, max_bytes)


class _Tar:
    has_index = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> Iterator[Entry]:
        for _, _, entry in self._members():
            yield entry

    def files(self, wanted: Mapping[int, Placed], *, max_bytes: int) -> Iterator[tuple[Entry, bytes | Misplaced]]:
        for archive, info, entry in self._members():
            if entry.position not in wanted:
                continue
            file = archive.extractfile(info)
            if file is None:
                yield entry, Misplaced(entry.path, "not_a_file", "a link or device, not a file")
            elif entry.size_bytes > max_bytes:
                yield entry, _member_too_large(entry, max_bytes)
            else:
                yield entry, self._read(file)

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, Entry]]:
        try:
            with tarfile.open(self._path) as archive:
                for position, info in enumerate(archive):
                    kind: Literal["file", "folder", "other"] = (
                        "file" if info.isreg() else "folder" if info.isdir() else "other"
                    )
                    yield archive, info, Entry(position, info.name, kind, info.size)
                    archive.members.clear()  # type: ignore[attr-defined]  # it keeps every member it has seen
        except _UNREADABLE as error:
            raise _broken(f"the tar cannot be read to its end ({error})") from error

    def _read(self, file: IO[bytes]) -> bytes:
        try:
            return file.read()
        except _UNREADABLE as error:
            raise _broken(f"the tar cannot be read to its end ({error})") from error


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise _broken(f"the zip's list of files cannot be read ({error})") from error


def _zip_kind(info: zipfile.ZipInfo) -> Literal["file", "folder", "other"]:
    if info.is_dir():
        return "folder"
    mode = info.external_attr >> 16
    return "other" if stat.S_IFMT(mode) not in (0, stat.S_IFREG) else "file"


def _read_zip_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: Entry, max_bytes: int
) -> bytes | Misplaced:
    if entry.size_bytes > max_bytes:
        return _member_too_large(entry, max_bytes)
    try:
        with archive.open(info) as file:
            return file.read(max_bytes)
    except (*_UNREADABLE, RuntimeError) as error:
        return Misplaced(entry.path, "broken_in_archive", f"cannot be read from the archive ({error})")


def _member_too_large(entry: Entry, max_bytes: int) -> Misplaced:
    return Misplaced(entry.path, "file_too_large", f"{entry.size_bytes} bytes, over the limit of {max_bytes} a file")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except _UNREADABLE:
        return False


def _safe_parts(path: str) -> tuple[str, ...]:
    # What a tar holds that is not UTF-8 comes as lone surrogates, which neither a database nor an answer can carry.
    if "\0" in path or any("\ud800" <= character <= "\udfff" for character in path):
        raise errors.BadArchive(
            f"the archive holds the path {path!a}, whose name is not UTF-8 text; pack it again with such names",
            code="name_not_text",
        )
    unified = path.replace("\\", "/")
    parts = [part for part in unified.split("/") if part not in ("", ".")]
    if unified.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
        raise errors.BadArchive(
            f"the archive holds the path {path!r}, which leads out of it; pack it again from inside its folder",
            code="unsafe_path",
            detail={"path": path},
        )
    return tuple(parts)


def _common_start(folders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    ordered = sorted(folders)
    if not ordered:
        return ()
    first, last = ordered[0], ordered[-1]
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _broken(what: str) -> errors.BadArchive:
    return errors.BadArchive(f"the archive is broken: {what}", code="broken_archive")
