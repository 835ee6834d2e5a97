"""Where files lie: one folder, the same for the API and every worker."""

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from app import files

_UNFINISHED = re.compile(r"\.tmp|#\d+$")
"""What Lance calls a file of a table before that is whole, wherever it lies: `.tmpPZpJt4`, `v1-a.json.tmp.e13c#1`,
`17.manifest#1`. It removes none that a process which was killed has left."""


@dataclass(frozen=True)
class Storage:
    root: Path

    def upload(self, import_id: str) -> Path:
        """The archive of an import while it is being received."""
        return self._file("uploads", f"{import_id}.part")

    def archive(self, import_id: str) -> Path:
        """The archive of an import, complete, until its job has ended."""
        return self._file("archives", import_id)

    def dataset(self, dataset_id: str) -> Path:
        """The Lance table of a dataset."""
        return self._file("datasets", f"{dataset_id}.lance")

    def features(self) -> Path:
        """The folder of cached features."""
        return self._folder("features")

    def job(self, job_id: str) -> Path:
        """The working folder of a job: checkpoints that a later attempt goes on from."""
        return self._folder("jobs", job_id)

    def model_version(self, version_id: str) -> Path:
        """The artifact of a model version."""
        return self._file("models", version_id)

    def optimisation(self, optimisation_id: str) -> Path:
        """What a model version was optimised to."""
        return self._file("optimisations", optimisation_id)

    def devices(self) -> Path:
        """The folder of locks by which processes share out devices."""
        return self._folder("devices")

    def sockets(self) -> Path:
        """The folder, not made yet, for a folder of each worker's with the socket at which its jobs' processes are
        asked for."""
        return self.root / "sockets"

    def abandoned(self, *, older_than_seconds: float) -> Iterator[Path]:
        """Uploads that nothing was written to for so long, and folders of workers that were not seen for so long."""
        return _older(chain(self._folder("uploads").glob("*.part"), self.sockets().glob("*")), older_than_seconds)

    def unfinished_in_tables(self, *, older_than_seconds: float) -> Iterator[Path]:
        """Files that were to be renamed into a table, that nothing was written to for so long. Goes through the folders
        of all data sets."""
        return _older(self._unfinished_in_tables(), older_than_seconds)

    def _unfinished_in_tables(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.root / "datasets"):
            yield from (Path(folder, name) for name in names if _UNFINISHED.search(name))

    def _folder(self, *parts: str) -> Path:
        path = self.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _file(self, *parts: str) -> Path:
        return self._folder(*parts[:-1]) / parts[-1]


def _older(paths: Iterable[Path], seconds: float) -> Iterator[Path]:
    limit = time.time() - seconds
    for path in paths:
        with suppress(FileNotFoundError):  # of a worker that has just ended, or whole by now
            if path.stat().st_mtime < limit:
                yield path


def move(source: Path, target: Path) -> None:
    """Rename `source` to `target`, durable when this returns."""
    source.rename(target)
    for folder in {source.parent, target.parent}:
        files.make_durable(folder)


def discard(path: Path) -> None:
    """Remove a file or a folder with all it holds; what is gone already is fine."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
