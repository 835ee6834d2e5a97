"""Tables of as many rows each, `(N, D) float32`, in one file that is mapped into memory: safetensors with a digest,
what each row is of, and the seconds that they took to compute."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from worker.training import table

Tables = dict[str, NDArray[np.float32]]
"""By name, in order."""

Names = NDArray[np.uint8]
"""What each row is of, in bytes, `(N, B)`; only zeros where the row is missing."""

UNFINISHED = ".unfinished"
"""In the names of files of tables that have only some of their rows."""

_METADATA = "__metadata__"
_NAMES = "__names__"
_DIGEST = "sha256"
_SECONDS = "seconds"
_NO_DIGEST = 64 * "0"
_MAX_HEADER_BYTES = 2**20
_READ_BYTES = 2**20
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a file raises that is none, or not whole."""


@dataclass(frozen=True)
class Kept:
    """Tables that were found."""

    tables: Tables
    seconds: float
    """What they took to compute."""


def read(path: Path, *, names: Names) -> Kept | None:
    """The tables in `path`, mapped; None where there are none with rows of these `names`, or they are damaged."""
    with suppress(*_DAMAGED), path.open("rb") as file:
        layout, digest = _read_header(file)
        if np.array_equal(layout.names(file), names) and layout.digest(file) == digest:
            os.utime(path)  # whoever bounds the cache removes what was used longest ago
            return Kept(layout.map(file, writable=False), layout.seconds)
    return None


def names_in(path: Path) -> Names | None:
    """What the rows of the tables in `path` are of, whether or not they are damaged; None where it is no such file."""
    with suppress(*_DAMAGED), path.open("rb") as file:
        layout, _ = _read_header(file)
        return layout.names(file)
    return None


class Draft:
    """Tables in the making: in a file under a name of its own or, where the disk has no room, in memory; `tell` is then
    told why. What is neither published nor kept goes with the context, and with the last who has it mapped."""

    def __init__(self, path: Path, *, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._file: IO[bytes] | None = None
        self._names: Names = np.empty((0, 0), np.uint8)
        self._layout = _Layout(0, 0, {})
        self._tables: Tables = {}

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_raised: object) -> None:
        if self._file is not None:
            Path(self._file.name).unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def create(self, names: Names, widths: Mapping[str, int]) -> Tables:
        """Tables of rows of these `names` and so many columns, to be filled."""
        rows, name_bytes = names.shape
        self._names, self._layout = names, _Layout(rows, name_bytes, dict(widths))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix="features.", suffix=".part")
            os.close(descriptor)
            self._file = Path(name).open("r+b")  # noqa: SIM115 - until the context ends
            table.reserve(self._file.fileno(), self._layout.size_bytes)
            self._tables = self._layout.map(self._file, writable=True)
        except OSError as error:
            self.__exit__()
            self._tell(str(error))
            self._tables = {name: np.empty((rows, width), np.float32) for name, width in widths.items()}
        return self._tables

    def publish(self, *, seconds: float) -> Tables:
        """The tables, now filled, which took so long to compute, under their final name."""
        if self._file is None:
            return self._tables
        try:
            self._write(self._file, self._path, self._names, seconds)
        except OSError as error:
            self._tell(str(error))
            return self._tables
        with suppress(OSError):
            self._unfinished.unlink(missing_ok=True)
        return self._layout.map(self._file, writable=False)

    def keep(self, is_there: NDArray[np.bool_], *, seconds: float) -> None:
        """Leave those rows of the tables that are there `(N,)`, which took so long to compute, to whoever computes the
        others, if that is possible."""
        if self._file is not None and not self._path.exists():  # somebody else may have computed them all
            with suppress(OSError):
                self._write(self._file, self._unfinished, self._names * is_there[:, None], seconds)

    @property
    def _unfinished(self) -> Path:
        return self._path.with_suffix(UNFINISHED + self._path.suffix)

    def _write(self, file: IO[bytes], path: Path, names: Names, seconds: float) -> None:
        for values in self._tables.values():
            values.flush()  # type: ignore[attr-defined] # as they are maps
        layout = replace(self._layout, seconds=seconds)
        file.seek(layout.size_bytes - names.nbytes)
        file.write(names.tobytes())
        header = layout.header(layout.digest(file))
        file.seek(0)
        file.write(header)
        file.flush()
        # Two trainings may compute the same tables at once; either of them is right.
        os.replace(file.name, path)


@dataclass(frozen=True)
class _Layout:
    """Where the numbers of each table lie in a file: one table after the other, row by row, behind the header; and last
    the names of the rows."""

    rows: int
    name_bytes: int
    """Of each."""
    widths: Mapping[str, int]
    seconds: float = 0.0

    @property
    def size_bytes(self) -> int:
        return len(self.header(_NO_DIGEST)) + self.rows * (4 * sum(self.widths.values()) + self.name_bytes)

    def header(self, digest: str) -> bytes:
        """As long for any digest and any seconds."""
        entries: dict[str, object] = {_METADATA: {_DIGEST: digest, _SECONDS: f"{self.seconds:016.3f}"}}
        start = 0
        for name, width in self.widths.items():
            end = start + 4 * self.rows * width
            entries[name] = {"dtype": "F32", "shape": [self.rows, width], "data_offsets": [start, end]}
            start = end
        end = start + self.rows * self.name_bytes
        entries[_NAMES] = {"dtype": "U8", "shape": [self.rows, self.name_bytes], "data_offsets": [start, end]}
        content = json.dumps(entries).encode()
        content += b" " * (-len(content) % 8)
        return len(content).to_bytes(8, "little") + content

    def digest(self, file: IO[bytes]) -> str:
        """sha256 over the header and all that is behind it, in hex."""
        found = hashlib.sha256(self.header(_NO_DIGEST))
        file.seek(len(self.header(_NO_DIGEST)))
        while portion := file.read(_READ_BYTES):
            found.update(portion)
        return found.hexdigest()

    def names(self, file: IO[bytes]) -> Names:
        """Raises `ValueError` where the file is not as long as it should be."""
        if os.fstat(file.fileno()).st_size != self.size_bytes:
            raise ValueError("a part is missing, or there is more")
        size = self.rows * self.name_bytes
        file.seek(self.size_bytes - size)
        return np.frombuffer(file.read(size), np.uint8).reshape(self.rows, self.name_bytes)

    def map(self, file: IO[bytes], *, writable: bool) -> Tables:
        start, tables = len(self.header(_NO_DIGEST)), Tables()
        for name, width in self.widths.items():
            tables[name] = np.memmap(file, np.float32, "r+" if writable else "r", start, (self.rows, width))
            start += tables[name].nbytes
        return tables


def _read_header(file: IO[bytes]) -> tuple[_Layout, str]:
    """Raises one of many errors where there is none that is as it would be written."""
    size = int.from_bytes(file.read(8), "little")
    if size > _MAX_HEADER_BYTES:
        raise ValueError("no header is that long")
    content = file.read(size)
    entries = json.loads(content)
    known = entries.pop(_METADATA)
    digest, seconds = known[_DIGEST], float(known[_SECONDS])
    rows, name_bytes = entries.pop(_NAMES)["shape"]
    layout = _Layout(rows, name_bytes, {name: entry["shape"][1] for name, entry in entries.items()}, seconds)
    if layout.header(digest)[8:] != content:
        raise ValueError("another header would be written")
    return layout, digest
