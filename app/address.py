"""Where a process listens, as options of its command."""

import argparse

HOST = "127.0.0.1"


def add_to(parser: argparse.ArgumentParser) -> None:
    """The options `--host` and `--port`."""
    parser.add_argument("--host", default=HOST, help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", default=8000, type=int, help="port to listen at (default: %(default)s)")


def url(host: str, port: int) -> str:
    """Where somebody who listens there is found."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"
