"""An optimisation on disk: a folder beside the artifact it belongs to, with the network in other forms, the report on
all of them, and a few images with what each form makes of them.

`optimisation.json` lists the files with their sha256; a folder that does not agree with its list is not loaded.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
from pydantic import TypeAdapter, ValidationError

from app import errors
from app.optimisation import Report
from app.runtimes.opening import Check

FORMAT = 1
_MANIFEST = "optimisation.json"
_REPORT = "report.json"
_CHECK = "check.safetensors"
_IMAGES = "images"
_REPORTS = TypeAdapter(Report)


@dataclass(frozen=True)
class Optimised:
    """What is known of the forms of a classifier, and what to check one by when it is loaded."""

    report: Report
    check: Check


def write(folder: Path, found: Optimised) -> None:
    """Complete `folder`, in which the networks lie already; durable when this returns."""
    _write_json(folder / _REPORT, asdict(found.report))
    safetensors.numpy.save_file({_IMAGES: found.check.images, **found.check.logits}, folder / _CHECK)
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.name != _MANIFEST}
    _write_json(folder / _MANIFEST, {"format": FORMAT, "files": files})
    for path in (*folder.iterdir(), folder):
        _make_durable(path)


def read(folder: Path) -> Optimised:
    """The optimisation in `folder`. Raises `Unavailable` where it is missing or not as it was written."""
    try:
        files: Mapping[str, str] = _read_json(folder / _MANIFEST)["files"]
        changed = [name for name, digest in files.items() if _sha256(folder / name) != digest]
        if changed:
            raise errors.Unavailable(f"the optimisation has changed since it was written: {', '.join(changed)}")
        report = _REPORTS.validate_python(_read_json(folder / _REPORT))
        arrays = safetensors.numpy.load_file(folder / _CHECK)
    except FileNotFoundError as error:
        raise errors.Unavailable(f"the optimisation is incomplete: {error.filename} is missing") from error
    except (ValueError, KeyError, ValidationError) as error:
        raise errors.Unavailable(f"the optimisation cannot be read: {error}") from error
    return Optimised(report, Check(arrays.pop(_IMAGES), arrays))


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
