"""Files of what is kept for good: JSON documents, digests to see whether a file has changed, writing that lasts, and
what it means that there is no room for it."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)


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


def is_of_full_disk(error: BaseException) -> bool:
    """Whether a disk had no room for what raised this, or whoever runs this may have no more of it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    # Libraries that write files by themselves have errors of their own for it.
    return any(os.strerror(code) in str(error) for code in _FULL)
