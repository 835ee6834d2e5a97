"""Which fields the body of a request may have, by place."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin


def names(body: Any, location: Sequence[str | int]) -> list[str]:
    """The fields at `location`, such as `("recipe", "search")`, in what is annotated as `body`; where it may be one of
    several things, those of each."""
    kinds = [*_kinds(body)]
    for step in location:
        if isinstance(step, str):
            kinds = [
                inner
                for kind in kinds
                if step in kind.__pydantic_fields__
                for inner in _kinds(kind.__pydantic_fields__[step].annotation)
            ]
    return [*dict.fromkeys(name for kind in kinds for name in kind.__pydantic_fields__)]


def _kinds(annotation: Any) -> Iterator[Any]:
    """The models and dataclasses of Pydantic that it is put together from."""
    if hasattr(annotation, "__pydantic_fields__"):
        yield annotation
    parts = get_args(annotation)
    for part in parts[:1] if get_origin(annotation) is Annotated else parts:
        yield from _kinds(part)
