"""Files that the service has, brought to this machine."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import msgspec

from client import answers
from client.errors import Refused

_TRIES = 3


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a model version."""

    name: str
    size_bytes: int
    sha256: str
    about: str


class FileListing(msgspec.Struct, frozen=True):
    data: list[StoredFile]


def save(ask: Callable[[], AbstractContextManager[httpx.Response]], path: Path, sha256: str) -> Path:
    """What is answered to `ask`, as the file `path`: there when it is complete, and not before. Raises `Problem`,
    `Refused` and `httpx.TransportError`."""
    partial = path.with_name(path.name + ".part")
    for _ in range(_TRIES):
        try:
            if _received(ask, partial) == sha256:
                return partial.replace(path)
        except httpx.TransportError as error:
            broken: httpx.TransportError | None = error
        else:
            broken = None
        finally:
            partial.unlink(missing_ok=True)
    if broken is not None:
        raise broken
    raise Refused(f"{path.name} is not what the service says that it is; ask for the list of files again")


def _received(ask: Callable[[], AbstractContextManager[httpx.Response]], partial: Path) -> str:
    digest = hashlib.sha256()
    with ask() as response, partial.open("wb") as file:
        if not response.is_success:
            response.read()
            answers.checked(response)
        for chunk in response.iter_bytes():
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
