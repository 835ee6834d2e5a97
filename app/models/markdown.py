"""Markdown as HTML for pages: tables can be scrolled, and no HTML comes through."""

import functools
from collections.abc import MutableMapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import OptionsDict


def as_html(text: str) -> str:
    """`text` as HTML that can be put into a page; what looks like HTML in it is shown as it stands."""
    return str(_parser().render(text))


@functools.cache
def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable("table")
    made.core.ruler.push("scope", _scope)
    made.add_render_rule("table_open", _table_open)
    made.add_render_rule("table_close", _table_close)
    return made


def _scope(state: StateCore) -> None:
    """Headings of columns say that they are."""
    for token in state.tokens:
        if token.type == "th_open":
            token.attrSet("scope", "col")


def _table_open(
    renderer: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    opened = renderer.renderToken(tokens, place, options, env)
    return f'<div class="wide" tabindex="0" role="region" aria-label="Table">{opened}'


def _table_close(
    renderer: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    return f"{renderer.renderToken(tokens, place, options, env)}</div>\n"
