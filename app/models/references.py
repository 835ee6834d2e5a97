"""How a model version is addressed: `name`, `name@version` or `name:alias`; and what is said where there is none."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from pydantic import JsonValue

from app import errors

MAX_LENGTH = 127
"""Characters: those of the longest name, those of the longest alias, and one between them."""
ALIAS = r"^[0-9]*([a-z]|[0-9][_-])[a-z0-9_-]*$"
"""What an alias looks like: never like the number of a version."""
MAX_ALIAS = 63
NAME = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
"""What the name of a new model looks like."""
COMPARED = 200
"""Names that a wrong one is compared with: each takes some thirty microseconds, and rubbish shall cost little."""

_REFERENCE = re.compile(r"(?P<name>[^@:]+)(?:@(?P<number>[0-9]+)|:(?P<alias>[a-z0-9][a-z0-9_-]{0,62}))?")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Reference:
    """A model, and which of its versions: the one with this number, the one of this alias, or else the newest."""

    name: str
    number: int | None
    alias: str | None


def check_name(name: str) -> str:
    """`name`, where a new model can be called so. Raises `ValueError`, which says what such names are."""
    looks = (
        "63 characters at the most, lower-case letters, digits, dots, dashes and underscores, and begin and end with a "
        "letter or a digit"
    )
    return _checked(name, NAME, "a model", looks)


def check_alias(name: str) -> str:
    """`name`, where it can be one of an alias. Raises `ValueError`, which says what such names are."""
    looks = "lower-case letters, digits, dash and underscore, begin with a letter or a digit, and are not digits alone"
    return _checked(name, ALIAS, "an alias", looks)


def parse(text: str) -> Reference:
    """What `text` addresses. Raises `NotFound` for what addresses nothing."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise errors.NotFound(
            f"no model {text!r}; write a name, or a name and a version as in 'ants-and-bees@2', or a name and an alias "
            "as in 'ants-and-bees:production'",
            code="model_not_found",
        )
    number = match["number"]
    if number is not None and _NUMBER.fullmatch(number) is None:
        raise errors.NotFound(
            f"model {match['name']!r} has no version {number[:50]!r}: they are numbered 1, 2, 3 …",
            code="model_version_not_found",
        )
    return Reference(match["name"], None if number is None else int(number), match["alias"])


def no_model(name: str, known: Iterable[str]) -> errors.NotFound:
    """There is no model of that name; `known` are those there are, the likeliest to be meant first."""
    return _missing(f"no model {name!r}", "model_not_found", errors.nearest_names(name, islice(known, COMPARED)))


def no_version(name: str, number: int, *, newest: int) -> errors.NotFound:
    """The model has versions up to `newest`, and not that one."""
    message = f"model {name!r} has no version {number}; its newest is {newest}"
    return _missing(message, "model_version_not_found", [f"{name}@{newest}"], is_told=True)


def as_version(name: str, alias: str) -> str | None:
    """What somebody may have meant who wrote the number of a version as an alias; None where it is none."""
    return f"{name}@{int(alias)}" if alias.isascii() and alias.isdecimal() else None


def no_alias(name: str, alias: str, known: Iterable[str], *, meant: str | None) -> errors.NotFound:
    """The model has the aliases `known`; `meant` is the version that was, where there is one (`as_version`)."""
    nearest = [f"{name}:{one}" for one in errors.nearest_names(alias, known)]
    if meant is not None:
        nearest = [meant]
    return _missing(f"model {name!r} has no alias {alias!r}", "alias_not_found", nearest)


def _checked(name: str, pattern: str, what: str, looks: str) -> str:
    if re.fullmatch(pattern, name) is None:
        raise ValueError(f"{name!r} is no name of {what}: those have {looks}")
    return name


def _missing(message: str, code: str, nearest: list[str], *, is_told: bool = False) -> errors.NotFound:
    hint = "" if is_told else errors.did_you_mean(nearest)
    listed: list[JsonValue] = [*nearest]
    return errors.NotFound(f"{message}{hint}", code=code, detail={"nearest": listed})
