"""A problem document for people: what is wrong, in a browser."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import jinja2

MEDIA_TYPE = "text/html"


def is_wanted(method: str, accept: str) -> bool:
    """Whether a browser's window asks, and no program: which takes what it gets, or says that it reads JSON."""
    return method in ("GET", "HEAD") and MEDIA_TYPE in accept and "json" not in accept


def page(problem: Mapping[str, Any], path: str) -> str:
    """Of a problem with what was asked for at `path`."""
    return _template().render(
        problem=problem,
        document=json.dumps(problem, indent=2, ensure_ascii=False),
        root="../" * (path.count("/") - 1),
    )


@functools.cache
def _template() -> jinja2.Template:
    """Among those that all pages share."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("app"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return made.get_template("problem.html")
