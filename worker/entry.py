"""Where the process of a job begins."""

import importlib
from multiprocessing.connection import Connection
from typing import Any


def main(connection: Connection, kind: str, work: Any, *, threads: int, log_level: str) -> None:
    """`worker.child.main`, which is imported here and not where the process is started from: a worker would take four
    times the memory and the time to start if it imported what jobs compute with."""
    importlib.import_module("worker.child").main(connection, kind, work, threads=threads, log_level=log_level)
