"""Commands for the forms that a model can be run in, here and elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from client import show, steps, waiting
from client.api import Client
from client.connection import DEFAULT_URL
from client.errors import Refused
from client.options import named
from client.terminal import Url, console, printable, told_plainly

Reference = Annotated[str, typer.Argument(help="name for the newest version, name@version, or name:alias.")]


def optimise(
    model: Reference,
    accuracy_points: Annotated[
        float, typer.Option(min=0, max=100, help="Points of accuracy that a form may be lower by.")
    ] = 0.5,
    agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images whose label is to stay the same.")
    ] = 0.99,
    unknown_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images for which it is to decide the same as to `unknown`.")
    ] = 0.95,
    form: Annotated[
        list[str] | None, typer.Option(help="Form to compare, such as openvino-int8; all that can be if left out.")
    ] = None,
    on_cpu: Annotated[bool, typer.Option("--cpu", help="On a CPU, also where the worker has a GPU.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Compare all runtimes and precisions on the held-out images; the fastest that is as good is served."""
    with told_plainly(named), Client(url) as client:
        name, number = client.resolve(model)
        with steps.step(console, f"optimise {name}@{number}") as step:
            wanted = {
                "tolerance": {
                    "accuracy_points": accuracy_points,
                    "agreement": agreement,
                    "unknown_agreement": unknown_agreement,
                },
                "forms": form,
                "device": "cpu" if on_cpu else "gpu",
            }
            job = client.optimise(name, number, wanted)
            show.succeeded(waiting.ended(client, job.id, step))
        for part in show.runtimes(client.runtimes(name, number)):
            console.print(part)


def runtimes(
    model: Reference,
    pin_runtime: Annotated[
        str | None, typer.Option("--runtime", help="Run it by this from now on; auto for what was measured.")
    ] = None,
    pin_precision: Annotated[
        str | None, typer.Option("--precision", help="... in this precision; auto for what was measured.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Show how each form of a model did, which is served and why; or decide which."""
    with told_plainly(), Client(url) as client:
        name, number = client.resolve(model)
        found = client.runtimes(name, number)
        if pin_runtime is not None or pin_precision is not None:
            pins = {
                "runtime": pin_runtime or found.pins.runtime,
                "precision": pin_precision or found.pins.precision,
            }
            found = client.pin(name, number, pins, revision=found.revision)
        for part in show.runtimes(found):
            console.print(part)


def download(
    model: Reference,
    to: Annotated[
        Path | None, typer.Option("--to", file_okay=False, help="Folder for the files; one called as the version.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--file", help="Name of a file; all if left out.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Take a model elsewhere: its weights, labels and figures and, once it is optimised, the whole as ONNX."""
    with told_plainly(), Client(url) as client:
        name, number = client.resolve(model)
        files = client.files(name, number)
        known = {file.name: file for file in files}
        for missing in [wanted for wanted in only or () if wanted not in known]:
            hint = "; networks as ONNX come with `graft optimise`" if missing.endswith(".onnx") else ""
            raise Refused(f"{name}@{number} has no file {missing!r}; it has {', '.join(known)}{hint}")
        folder = to or Path(f"{name}-{number}")
        for file in (known[wanted] for wanted in only or known):
            saved = client.download(name, number, file, folder)
            console.print(f"{printable(saved)}: {file.about}", highlight=False, soft_wrap=True)
