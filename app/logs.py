"""Logging of a process: one line a record, to standard error, with the time in UTC."""

import logging
import re
import time

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
    logging.getLogger("uvicorn.access").addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """All requests but predictions that went well: there may be thousands in a second, and `/metrics` counts them."""
    if not isinstance(record.args, tuple) or len(record.args) != 5:
        return True
    _client, _method, path, _version, status = record.args
    return status != 200 or _PREDICTION.search(str(path)) is None
