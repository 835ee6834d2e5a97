"""Archives of labelled images: taking zip and tar in without unpacking to disk, and finding the class folders.

Nothing of an archive is ever written under a name it chose, and no file in it is read beyond a limit.
"""

import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Literal

from app import errors
from app.datasets import entries, tars, zips
from app.datasets.entries import Archive, Entry, Limits, Misplaced

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
_MAX_PATH_CHARACTERS = 1024
_MAX_FOLDERS_DEEP = 32
# As Python keeps them: up to four bytes a character. A few long ones are fine, nothing but long ones is not.
_MEAN_PATH_BYTES = 256
_NAMED_IN_MESSAGES = 20
_ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an entry belongs; `split` is None where the folders do not say."""

    label: str
    split: Split | None


@dataclass(frozen=True)
class Layout:
    """How the entries of an archive fall into classes, by entry position."""

    placed: Mapping[int, Placed]
    misplaced: tuple[Misplaced, ...]
    ignored: int
    labels: tuple[str, ...]
    empty: tuple[str, ...]
    """Labels whose folder holds no file."""


def open_archive(path: Path, limits: Limits) -> Archive:
    """The archive at `path`, told by its first bytes. Raises `BadArchive` for anything but a zip or tar."""
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise errors.BadArchive("the upload is empty; send a zip or tar with a folder of images per class")
    if head not in _ZIP_BEGINNINGS and tars.is_tar(path):
        return tars.Tar(path, limits)
    if zips.is_zip(path):
        return zips.Zip(path, limits)
    if head in _ZIP_BEGINNINGS:
        raise entries.broken("the zip's list of files, which is at its end, is missing: the file may have been cut off")
    raise errors.BadArchive(
        "the upload is neither a zip nor a tar (.tar, .tar.gz, .tar.bz2, .tar.xz)", code="not_an_archive"
    )


def lay_out(listed: Iterable[Entry], limits: Limits) -> Layout:
    """Find the class folders: the first level at which the folders of the files differ.

    Folders named train, val, validation or test on that level are splits, and the classes are the level below.
    Raises `BadArchive` for a path that leads out of the archive and for more entries or bytes than the limits allow.
    """
    sorting, total_bytes, path_bytes = _Sorting(), 0, 0
    for number, entry in enumerate(listed, start=1):
        total_bytes += entry.size_bytes
        path_bytes += sys.getsizeof(entry.path)
        if total_bytes > limits.max_total_bytes:
            raise entries.unpacks_too_large(limits.max_total_bytes)
        if number > limits.max_entries or path_bytes > limits.max_entries * _MEAN_PATH_BYTES:
            raise entries.too_many(limits.max_entries)
        sorting.add(entry)
    return sorting.layout()


def check_classes(layout: Layout, *, known: Iterable[str]) -> None:
    """Raise `BadArchive` unless every class has files, none differs from another or from a label that is `known` from
    before in upper and lower case alone, and there are two or more with those."""
    known = [*known]
    _check_case(layout, known)
    if layout.empty:
        raise empty_class(layout.empty, "no files in the folder", "remove the folder or add images")
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


def empty_class(labels: Sequence[str], what: str, advice: str) -> errors.BadArchive:
    """The error for classes without images; it names the first twenty."""
    named = [*labels[:_NAMED_IN_MESSAGES]]
    more = f" and {len(labels) - len(named)} more" if len(labels) > len(named) else ""
    return errors.BadArchive(
        f"{what} of {'class' if len(labels) == 1 else 'classes'} {', '.join(map(repr, named))}{more}; {advice}",
        code="empty_class",
        detail={"labels": [*named]},
    )


def _check_case(layout: Layout, known: Sequence[str]) -> None:
    """On many systems such folders are one and the same, and who mistypes a label wants no further one."""
    alike = {_folded(label): label for label in known}
    for label in sorted({*layout.labels, *layout.empty}.difference(known)):
        other = alike.setdefault(_folded(label), label)
        if other == label:
            continue
        here = f"the folders of the classes {other!r} and {label!r} are named the same but for upper and lower case"
        advice = "put their images into one, or rename one where they are two classes"
        if other in known:
            here = f"class {label!r} is named as {other!r}, which the data set has, but for upper and lower case"
            advice = f"rename its folder to {other!r}, or to something else where it is another class"
        raise errors.BadArchive(f"{here}; {advice}", code="labels_differ_in_case", detail={"labels": [other, label]})


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", label.casefold())


class _Sorting:
    """The work of `lay_out`. Folders are kept as `a/b/c`: there may be very many, and deep ones."""

    def __init__(self) -> None:
        self._files: list[Entry] = []
        self._folders: set[str] = set()
        self._filled: set[str] = set()
        self._littered: set[str] = set()
        self._ignored = 0

    def add(self, entry: Entry) -> None:
        parts = _safe_parts(entry.path)
        if _is_litter(parts):
            self._ignored += entry.kind != "folder"
            # The folder that it lies in may be that of a class all the same, though there is nothing else in it.
            self._littered.add("/".join(takewhile(lambda part: not _is_litter((part,)), parts)))
        elif parts and entry.kind == "folder":
            self._add_folder(parts)
        elif parts:
            self._files.append(entry)
            self._filled.add(self._add_folder(parts[:-1]))

    def layout(self) -> Layout:
        root = self._root()
        levels = _Levels(len(root), self._folders)
        littered = {folder for folder in self._littered if _parts(folder)[: len(root)] == root}
        places = {folder: levels.place(folder) for folder in self._folders | littered}
        placed, misplaced = {}, []
        for entry in self._files:
            place = places["/".join(_safe_parts(entry.path)[:-1])]
            if entry.kind == "other":
                misplaced.append(entries.not_plain(entry))
            elif place is None:
                misplaced.append(Misplaced(entry.path, "no_class_folder", "not in the folder of a class"))
            else:
                placed[entry.position] = place
        labels = {place.label for place in placed.values()}
        named = {place.label for place in places.values() if place is not None}
        return Layout(placed, tuple(misplaced), self._ignored, tuple(sorted(labels)), tuple(sorted(named - labels)))

    def _root(self) -> tuple[str, ...]:
        """The folders that all classes are in. An archive may list them or not: that alone makes no class of one. Where
        one is listed, the only folder in it that has files is one class, with the folder below."""
        around = _start_of_all(self._filled or self._folders)
        above = {"/".join(around[:depth]) for depth in range(len(around))}
        root = _start_of_all(folder for folder in self._folders if folder not in above)
        below = {parts[len(root)] for folder in self._filled if len(parts := _parts(folder)) > len(root)}
        is_class = len(self._folders) == 1 or (len(below) < 2 and not above.isdisjoint(self._folders))
        return root[:-1] if is_class and "/".join(root) in self._filled else root

    def _add_folder(self, parts: tuple[str, ...]) -> str:
        folder = "/".join(parts)
        self._folders.add(folder)
        return folder


class _Levels:
    """Which part of a folder's path is the class and which the split."""

    def __init__(self, depth: int, folders: Iterable[str]) -> None:
        self._depth = depth
        below = {parts[depth].lower() for folder in folders if len(parts := folder.split("/")) > depth and folder}
        trains = {name for name in below if _SPLIT_FOLDERS.get(name) == "train"}
        self._has_splits = bool(trains) and below > trains and below <= _SPLIT_FOLDERS.keys()

    def place(self, folder: str) -> Placed | None:
        parts = _parts(folder)
        if len(parts) <= self._depth + self._has_splits:
            return None
        label = unicodedata.normalize("NFC", parts[self._depth + self._has_splits].strip())
        split = _SPLIT_FOLDERS[parts[self._depth].lower()] if self._has_splits else None
        return Placed(label, split) if label else None


def _safe_parts(path: str) -> tuple[str, ...]:
    if len(path) > _MAX_PATH_CHARACTERS:
        raise _path_too_long(path)
    if "\0" in path or not _is_text(path):
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
    if len(parts) > _MAX_FOLDERS_DEEP:
        raise _path_too_long(path)
    return tuple(parts)


def _is_text(path: str) -> bool:
    # What a tar holds that is not UTF-8 comes as lone surrogates, which neither a database nor an answer can carry.
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path_too_long(path: str) -> errors.BadArchive:
    return errors.BadArchive(
        f"the archive holds the path {path[:80]!a}…, longer than {_MAX_PATH_CHARACTERS} characters or deeper than "
        f"{_MAX_FOLDERS_DEEP} folders",
        code="path_too_long",
    )


def _is_litter(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part.lower() in _LITTER for part in parts)


def _parts(folder: str) -> tuple[str, ...]:
    return tuple(folder.split("/")) if folder else ()


def _start_of_all(folders: Iterable[str]) -> tuple[str, ...]:
    found = map(_parts, folders)
    return reduce(_common_start, found, next(found, ()))


def _common_start(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(part for part, _ in same)
