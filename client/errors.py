"""What can go wrong for a client.

GraftError
├── Problem       the service answered with a problem document
├── Unreachable   no answer came, or one of something else
├── Refused       what was asked for cannot be done from here
└── Interrupted   whoever waited for a job has stopped waiting
"""

from collections.abc import Mapping
from typing import Any


class GraftError(Exception):
    """Everything that this package raises on purpose; its text is a sentence for a person."""


class Problem(GraftError):
    """The service answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, document: Mapping[str, Any], *, come_again_seconds: float | None = None) -> None:
        self.status = status
        """The HTTP status."""
        self.code = str(document.get("code", "unknown"))
        """What the trouble is, for programs; stable."""
        self.document = dict(document)
        self.come_again_seconds = come_again_seconds
        """After how long the same request may do; None where the service does not say so."""
        super().__init__(str(document.get("detail") or document.get("title") or f"HTTP status {status}"))


class Unreachable(GraftError):
    """The service did not answer, or stopped in the middle of an answer, or something else answered in its place."""


class Refused(GraftError):
    """What was asked for cannot be done from here."""


class Interrupted(GraftError):
    """Whoever waited for a job has stopped waiting; the job goes on."""
