"""Image files as they are sent: several in a request, and which of them it is that the service refuses."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.errors import Problem, Refused

_MOST_IMAGES = 16
_MOST_BYTES = 64 * 1024 * 1024
"""Of a request with more than one image: a quarter of what a service takes where its settings do not say otherwise."""


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

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """A `Problem` raised within that is about one of the images names its file, and its place among all."""
        try:
            yield
        except Problem as problem:
            place = problem.document.get("image")
            if not isinstance(place, int) or not 0 <= place < len(self.paths):
                raise
            said = f": {problem}".removeprefix(f": image {place}")
            document = {**problem.document, "detail": f"{self.paths[place]}{said}", "image": self.start + place}
            raise Problem(problem.status, document, come_again_seconds=problem.come_again_seconds) from problem


def batches(images: Iterable[Path]) -> Iterator[Batch]:
    """The files in their order, each read when its request is next. Raises `Refused` where one cannot be read."""
    batch = Batch(0)
    for place, path in enumerate(images):
        with reading(path):
            content = path.read_bytes()
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
