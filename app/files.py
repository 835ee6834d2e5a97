"""Files of what is kept for good: JSON documents, digests to see whether a file has changed, and writing that lasts."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, document: Any, *, allow_nan: bool = True) -> None:
    """Write `document` for people and programs. Raises `ValueError` for a NaN that is not allowed."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=allow_nan)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Of what is in the file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_durable(path: Path) -> None:
    """Have a file, or the names in a folder, outlast a loss of power from here on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
