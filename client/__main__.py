"""`python -m client` is `graft`."""

from client.cli import app

app()
