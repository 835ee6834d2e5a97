"""What a benchmark of hours has found so far, a line of JSON each, so that a run that was stopped goes on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any


def read(path: Path, *kinds: Callable[..., Any]) -> Iterator[tuple[Any, ...]]:
    """What was appended to `path`: each result in its parts, which are of these dataclasses."""
    if path.is_file():
        for line in path.read_text().splitlines():
            yield tuple(kind(**fields) for kind, fields in zip(kinds, json.loads(line), strict=True))


def append(path: Path, *parts: Any) -> None:
    """Keep a result, and tell of it."""
    with path.open("a") as lines:
        lines.write(json.dumps([asdict(part) for part in parts]) + "\n")
    print(*parts, flush=True)
