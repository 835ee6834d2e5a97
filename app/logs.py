"""Logging of a process: one line a record, to standard error, with the time in UTC."""

import logging
import re
import time
from http import HTTPStatus

_PREDICTION = re.compile(r"/v1/models/[^/]+/predict\b|:predict\b|/v2/models/.+/infer\b")


def configure(level: str, *, process: str) -> None:
    """Send every record of `level` and above to standard error, marked with the name of the process."""
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03dZ %(levelname)s {process} %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class Requests:
    """A log of requests without predictions that went well: there may be thousands in a second, and `/metrics` counts
    them. As uvicorn calls it; records are not made to be thrown away."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, message: str, client: str, method: str, path: str, version: str, status: int) -> None:
        """A line for a request, if it is worth one."""
        if status != HTTPStatus.OK or _PREDICTION.search(path) is None:
            self._logger.info(message, client, method, path, version, status)
