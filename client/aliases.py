"""The commands for aliases, the movable names of model versions."""

from typing import Annotated

import typer

from client import show
from client.api import Client
from client.connection import DEFAULT_URL
from client.terminal import Url, console, told_plainly
from client.values import Alias

Model = Annotated[str, typer.Argument(help="Name of a model.")]
AliasName = Annotated[str, typer.Argument(help="Name of the alias, such as production.")]


def alias(
    model: Model,
    alias: AliasName,
    version: Annotated[int, typer.Argument(min=1, help="Version that it is to point to.")],
    keep_loaded: Annotated[
        bool | None,
        typer.Option(
            "--keep-loaded/--no-keep-loaded",
            help="Whether its version is to be in memory at any time; if left out, that stays as it is.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Let an alias point to a version; `graft predict MODEL:ALIAS` takes that one from now on."""
    with told_plainly(), Client(url) as client:
        _print(model, client.put_alias(model, alias, version, keep_loaded=keep_loaded))


def aliases(model: Model, url: Url = DEFAULT_URL) -> None:
    """List the aliases of a model."""
    with told_plainly(), Client(url) as client:
        console.print(show.aliases(model, client.aliases(model)))


def rollback(model: Model, alias: AliasName, url: Url = DEFAULT_URL) -> None:
    """Let an alias point to where it did before."""
    with told_plainly(), Client(url) as client:
        _print(model, client.roll_back(model, alias))


def _print(model: str, alias: Alias) -> None:
    console.print(f"{model}:{alias.name} is {model}@{alias.version}", highlight=False, soft_wrap=True)
