"""Routes that answer as values for programs and as a page for browsers: the query `format` decides, or `Accept`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response

from app.backbones import pages

_MEDIA_TYPES = {"json": pages.JSON, "csv": pages.CSV, "html": pages.HTML, "markdown": pages.MARKDOWN}

FORMAT: Any = Query(alias="format", description="Left out, the header `Accept` decides; JSON if that does not.")
PageFormat = Annotated[Literal["json", "html"] | None, FORMAT]
AS_PAGE: dict[int | str, dict[str, Any]] = {200: {"content": {pages.HTML: {"schema": {"type": "string"}}}}}
"""For the documentation of a route with `PageFormat`, beside its model."""


def chosen(request: Request, wanted: str | None, offered: Iterable[str]) -> str:
    """The media type of `offered` to answer with."""
    return _MEDIA_TYPES[wanted] if wanted else pages.preferred(request.headers.get("accept", ""), offered)


def answered(content: str, media_type: str) -> Response:
    """The answer, which is another one for whoever accepts another type."""
    return Response(content, media_type=media_type, headers={"Vary": "Accept"})


def answer(request: Request, wanted: str | None, contents: Mapping[str, Callable[[], str]]) -> Response:
    """What `contents` has for the media type to answer with."""
    media_type = chosen(request, wanted, contents)
    return answered(contents[media_type](), media_type)
