"""How a model version is addressed: `name`, `name@version` or `name:alias`."""

import re
from dataclasses import dataclass

from client.errors import Refused

_REFERENCE = re.compile(r"(?P<name>[^@:]+)(?:@(?P<number>[1-9][0-9]{0,8})|:(?P<alias>[^@:]+))?")


@dataclass(frozen=True)
class Reference:
    """A model, and which of its versions: the one with this number, the one of this alias, or else the newest."""

    name: str
    number: int | None
    alias: str | None


def parse(text: str) -> Reference:
    """What `text` addresses. Raises `Refused` for what addresses nothing, so that it is never taken for the newest."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise Refused(
            f"{text!r} addresses no model version; write a name for the newest, a name and a number as in 'flowers@2', "
            "or a name and an alias as in 'flowers:production'"
        )
    number = match["number"]
    return Reference(match["name"], None if number is None else int(number), match["alias"])


def alias_path(model: str, alias: str) -> str:
    """Below the address of the service."""
    return f"/v1/models/{model}/aliases/{alias}"
