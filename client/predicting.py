"""The command that has images labelled."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from client import archives, show
from client.api import Client
from client.connection import DEFAULT_URL
from client.errors import GraftError
from client.terminal import Url, console, print_error, printable, told_plainly
from client.values import Prediction


def predict(
    model: Annotated[str, typer.Argument(help="name, name@version, or name:alias.")],
    images: Annotated[
        list[Path], typer.Argument(exists=True, help="JPEG, PNG or WebP files, and folders, of which those are taken.")
    ],
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each image.")] = 3,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Probability from which on a label is told.")] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line: file, labels, unknown, similarity.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the labels of images, the most probable first; of those that cannot be used stderr says why."""
    with told_plainly(), Client(url) as client:
        paths = [*_files(images)]
        failed = False
        for path, found in zip(paths, client.predict_each(model, paths, top_k=top_k, threshold=threshold), strict=True):
            if isinstance(found, GraftError):
                print_error(found)
                failed = True
            else:
                told = _as_json(path, found) if as_json else f"{printable(path)}: {show.best(found)}"
                console.print(told, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _files(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        yield from archives.images(path) if path.is_dir() else (path,)


def _as_json(path: Path, prediction: Prediction) -> str:
    return msgspec.json.encode({"file": printable(path), **msgspec.structs.asdict(prediction)}).decode()
