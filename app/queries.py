"""Query parameters: each route takes those that it has, and refuses others, which somebody has misspelt."""

from collections.abc import Collection, Iterator
from typing import Any, get_args, get_origin

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams

from app import errors


def check(given: QueryParams, names: Collection[str], *, many: Collection[str] = ()) -> None:
    """Raise `UnknownName` for a parameter that is none of `names`, and `Invalid` for one that comes again and is none
    of `many`."""
    seen: set[str] = set()
    for name, _ in given.multi_items():
        if name not in names:
            raise errors.UnknownName("query parameter", name, names)
        if name in seen and name not in many:
            raise errors.Invalid(f"query parameter {name!r} is there more than once", code="parameter_twice")
        seen.add(name)


def check_for(route: APIRoute, given: QueryParams) -> None:
    """The same for what `route` declares. Raises as `check`."""
    found = dict(_declared(route.dependant))
    check(given, found, many=[name for name, annotation in found.items() if _is_list(annotation)])


def _declared(dependant: Dependant) -> Iterator[tuple[str, Any]]:
    """Names and types of query parameters, also of what a route depends on."""
    for field in dependant.query_params:
        yield field.alias, field.field_info.annotation
    for other in dependant.dependencies:
        yield from _declared(other)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_is_list, get_args(annotation)))
