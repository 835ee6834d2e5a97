"""Values that go through the API as they are: the docstrings of their attributes are their description there."""

from typing import Any, TypeVar

from pydantic import ConfigDict

T = TypeVar("T", bound=type[Any])


def described(kind: T) -> T:
    """A dataclass whose attributes are described in the schemas that are made of it."""
    kind.__pydantic_config__ = ConfigDict(use_attribute_docstrings=True)
    return kind
