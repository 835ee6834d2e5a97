"""The templates of pictures, page and card, and how values look in them."""

import functools
import re

import jinja2

from app.backbones import pages
from app.wording import size

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~$&])")
"""Characters that mean something in Markdown."""


@functools.cache
def environment() -> jinja2.Environment:
    """The templates beside this module, with those that all pages share."""
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader("app.models"), jinja2.PackageLoader("app")])
    made = pages.environment().overlay(
        loader=loader, autoescape=lambda name: name is None or not name.endswith((".md", ".txt"))
    )
    made.filters = {**made.filters, "percent": percent, "md": as_markdown, "size": size}
    return made


def percent(share: float | None) -> str:
    """A share for people: `97.3 %`."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.1f} %"


def as_markdown(text: object) -> str:
    """`text` as Markdown that shows it as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))
