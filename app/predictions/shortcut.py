"""The shortest way to the predict route: FastAPI's own, through all its layers, takes longer than the request itself.

The route is also where it belongs, for the documentation and for whatever is not quite this request.
"""

import re
from collections.abc import Callable, Mapping

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.predictions import routes

_PREDICT = re.compile(r"/v1/models/([^/]+)/predict")

Handlers = Mapping[type[Exception], Callable[[Request, Exception], Response]]
"""What to answer for an error, by its class."""


class Shortcut:
    """Middleware that answers predictions itself, errors as `handlers` say, and passes everything else on."""

    def __init__(self, app: ASGIApp, handlers: Handlers) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PREDICT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["path_params"] = {"reference": found[1]}
        request = Request(scope, receive, send)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await routes.predict(request)
        except Exception as error:
            # What nobody foresaw goes on to the middleware outside, which logs it.
            kinds = (kind for kind in type(error).__mro__ if kind is not Exception)
            handle = next((self._handlers[kind] for kind in kinds if kind in self._handlers), None)
            if handle is None:
                raise
            return handle(request, error)
