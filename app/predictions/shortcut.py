"""The shortest way to the predict route: FastAPI's own, through all its layers, takes longer than the request itself.

The route is also where it belongs, for the documentation and for whatever is not quite this request.
"""

import re
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from app.predictions import routes

_PREDICT = re.compile(r"/v1/models/([^/]+)/predict")

Handlers = Mapping[type[Exception], Callable[[Request, Exception], Response]]
"""What to answer for an error, by its class."""


class Shortcut:
    """Around all of `app`: answers predictions itself, any error as `handlers` say, and passes everything else on."""

    def __init__(self, app: FastAPI, handlers: Handlers) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PREDICT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["app"], scope["path_params"] = self._app, {"reference": found[1]}
        response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await routes.predict(request)
        except Exception as error:  # what nobody foresaw has a handler as well
            handle = next(self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers)
            return handle(request, error)
