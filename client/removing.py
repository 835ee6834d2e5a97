"""The commands that delete: models, their versions, aliases, and data sets."""

from typing import Annotated

import typer

from client import references
from client.api import Client
from client.connection import DEFAULT_URL
from client.terminal import Url, console, told_plainly


def delete(
    what: Annotated[
        str, typer.Argument(help="name@version for one version, name:alias for an alias, name for a whole model.")
    ],
    url: Url = DEFAULT_URL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether a whole model is meant.")] = False,
) -> None:
    """Delete a model version, an alias (its version stays), or a model with all its versions."""
    with told_plainly(), Client(url) as client:
        wanted = references.parse(what)
        if wanted.alias is not None:
            client.remove_alias(wanted.name, wanted.alias)
        elif wanted.number is not None:
            client.delete_model_version(wanted.name, wanted.number)
        else:
            model = client.model(wanted.name)
            asked = f"Delete {model.name} with all its versions, the newest of which is {model.latest_version}?"
            if not yes:
                typer.confirm(asked, abort=True)
            client.delete_model(model.name, revision=model.revision)
        console.print(f"{what} is deleted", highlight=False, soft_wrap=True)


def delete_dataset(
    dataset: Annotated[str, typer.Argument(help="Name or id of a data set.")],
    url: Url = DEFAULT_URL,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
) -> None:
    """Delete a data set with its images; models that were made from it stay."""
    with told_plainly(), Client(url) as client:
        if not yes:
            name = client.dataset(dataset).name
            typer.confirm(f"Delete data set {name} with all its versions and images?", abort=True)
        client.delete_dataset(dataset)
        console.print(f"{dataset} is deleted", highlight=False, soft_wrap=True)
