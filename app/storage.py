"""Where files lie: one folder, the same for the API and every worker."""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app import files


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
        limit = time.time() - older_than_seconds
        for path in (*self._folder("uploads").glob("*.part"), *self.sockets().glob("*")):
            with suppress(FileNotFoundError):  # of a worker that has just ended
                if path.stat().st_mtime < limit:
                    yield path

    def _folder(self, *parts: str) -> Path:
        path = self.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _file(self, *parts: str) -> Path:
        return self._folder(*parts[:-1]) / parts[-1]


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
