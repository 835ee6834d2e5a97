"""Logging of a process: one line a record, to standard error, with the time in UTC."""

import logging
import time


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
