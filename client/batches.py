"""Image files as they are sent: several in a request, and which of them it is that the service refuses."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from client.errors import Problem, Refused

_MOST_IMAGES = 16
_MOST_BYTES = 64 * 1024 * 1024
"""Of a request with more than one image: a quarter of what a service takes where its settings do not say otherwise."""

T = TypeVar("T")


@dataclass
class Batch:
    """The files of one request; `start` is the place of the first one, from 0 on, among all that are to be sent."""

    start: int
    paths: list[Path] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, path: Path, content: bytes) -> None:
        self.paths.append(path)
        self.contents.append(content)
        self.size_bytes += len(content)

    def has_room_for(self, content: bytes) -> bool:
        return not self.paths or (len(self.paths) < _MOST_IMAGES and self.size_bytes + len(content) <= _MOST_BYTES)

    def form(self) -> list[tuple[str, tuple[str, bytes]]]:
        """The files as fields of a form."""
        # The name of a file need not be text, and what is sent has to be.
        names = (path.name.encode(errors="replace").decode() for path in self.paths)
        return [("file", file) for file in zip(names, self.contents, strict=True)]

    def part(self, first: int, end: int) -> "Batch":
        """The files from place `first` of this one on, up to before `end`."""
        contents = self.contents[first:end]
        return Batch(self.start + first, self.paths[first:end], contents, sum(map(len, contents)))

    def place_of(self, problem: Problem) -> int | None:
        """The place here of the image that `problem` is about; None where it is about none."""
        place = problem.document.get("image")
        return place if isinstance(place, int) and 0 <= place < len(self.paths) else None

    def blamed(self, problem: Problem, place: int) -> Problem:
        """`problem` with the file at `place`, and its place among all."""
        said = f": {problem}".removeprefix(f": image {place}")
        document = {**problem.document, "detail": f"{self.paths[place]}{said}", "image": self.start + place}
        return Problem(problem.status, document, come_again_seconds=problem.come_again_seconds)


def outcomes(images: Iterable[Path], send: Callable[[Batch], Sequence[T]]) -> Iterator[T | Problem | Refused]:
    """What `send` makes of each file, in their order, or why that is nothing: `Refused` where it cannot be read, or the
    `Problem` that is about it. Raises any other `Problem`."""
    for batch in batches(images):
        if isinstance(batch, Refused):
            yield batch
        else:
            yield from _outcomes(batch, send)


def _outcomes(batch: Batch, send: Callable[[Batch], Sequence[T]]) -> Iterator[T | Problem]:
    """The files before one that is refused, and those after it, are sent once more by themselves."""
    if not batch.paths:
        return
    try:
        found = send(batch)
    except Problem as problem:
        place = batch.place_of(problem)
        if place is None:
            raise
        blamed = batch.blamed(problem, place)
    else:
        yield from found
        return
    yield from _outcomes(batch.part(0, place), send)
    yield blamed
    yield from _outcomes(batch.part(place + 1, len(batch.paths)), send)


def batches(images: Iterable[Path]) -> Iterator[Batch | Refused]:
    """The files in their order, each read when its request is next; in place of one that cannot be read, why."""
    batch = Batch(0)
    for place, path in enumerate(images):
        try:
            with reading(path):
                content = path.read_bytes()
        except Refused as refused:
            if batch.paths:
                yield batch
            yield refused
            batch = Batch(place + 1)
            continue
        if not batch.has_room_for(content):
            yield batch
            batch = Batch(place)
        batch.add(path, content)
    if batch.paths:
        yield batch


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises `Refused` where `path` cannot be read."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror or error}") from error
