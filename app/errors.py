"""The errors Graft raises on purpose. What HTTP makes of them is in `app.problems`; nothing here knows HTTP.

    GraftError
    ├── NotFound            no such thing
    ├── Invalid             the request cannot be carried out as it stands
    │   ├── UnknownName         a name that is in no list, with the nearest valid ones
    │   ├── BadArchive          an upload that is no usable archive of labelled images
    │   └── BadImage            bytes that are no usable image
    ├── TooLarge            over a limit that the message names
    ├── TooSlow             a request that did not arrive in the time it has
    ├── UnsupportedMedia    a media type that is not taken here
    ├── Conflict            against the present state of the thing
    │   └── PreconditionFailed  changed since the caller read it
    ├── PreconditionRequired    a change that must say what it is based on
    ├── Unavailable         cannot be done now, may work later
    │   ├── Overloaded          too much at once; the same request will do in a moment
    │   │   └── Busy                too much for one model
    │   └── WeightsUnavailable  no copy of the pre-trained weights could be had
    ├── NoRoom              the disk is full
    └── LeaseLost           the worker no longer holds the job it wants to write to

Each carries a machine-readable `code`, a `message` with the fact and the thing, and a `detail` mapping that goes
out as members of the problem document or of a failed job's `error`. Where one field of what was asked is to blame, it
is `at` that field, by its path (`recipe.base`).
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Self

from pydantic import JsonValue


def nearest_names(name: str, valid: Iterable[str]) -> list[str]:
    """Up to three of `valid` that somebody may have meant by `name`."""
    return difflib.get_close_matches(name, list(valid), n=3, cutoff=0.4)


def did_you_mean(nearest: Iterable[str]) -> str:
    """The end of a message that offers the `nearest` names, where there are any."""
    offered = ", ".join(nearest)
    return f"; did you mean {offered}?" if offered else ""


class GraftError(Exception):
    """Base of all errors meant for a caller."""

    title: ClassVar[str] = "Something went wrong"
    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None, detail: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.detail: dict[str, JsonValue] = dict(detail or {})
        self.field: str | None = None

    def at(self, field: str) -> Self:
        """This error, pointing at a field of what was asked."""
        self.field = field
        return self

    def anew(self) -> Self:
        """This error as one that was never raised, for one more caller: one that is raised again and again holds the
        frames of all who raised it, with whatever is in them."""
        fresh = type(self).__new__(type(self), *self.args)
        vars(fresh).update(vars(self), detail=dict(self.detail))
        return fresh


@contextmanager
def blaming(field: str) -> Iterator[None]:
    """An error raised within points at `field`, unless it points at one already."""
    try:
        yield
    except GraftError as error:
        error.field = error.field or field
        raise


@contextmanager
def renaming(field: str, *, to: str) -> Iterator[None]:
    """An error raised within that points at `field`, or at a part of it, points at the same of `to`: that is what the
    caller calls it."""
    try:
        yield
    except GraftError as error:
        if error.field is not None and f"{error.field}.".startswith(f"{field}."):
            error.at(to + error.field.removeprefix(field))
        raise


class NotFound(GraftError):
    title = "Not found"
    default_code = "not_found"


class Invalid(GraftError):
    title = "The request cannot be carried out"
    default_code = "invalid"


class UnknownName(Invalid):
    """A name that is in no list, or not in that of its `holder`; the message offers the nearest valid names."""

    title = "Unknown name"
    default_code = "unknown_name"

    def __init__(
        self, what: str, name: str, valid: Iterable[str], *, code: str | None = None, holder: str | None = None
    ) -> None:
        names = list(valid)
        nearest: list[JsonValue] = [*nearest_names(name, names)]
        valid_names = f"valid names are {', '.join(names)}" if names else "there is none"
        hint = f"did you mean {', '.join(map(str, nearest))}?" if nearest else valid_names
        missing = f"no {what} {name!r}" if holder is None else f"{holder} has no {what} {name!r}"
        super().__init__(
            f"{missing}; {hint}",
            code=code or f"unknown_{what.replace(' ', '_')}",
            detail={"name": name, "nearest": nearest},
        )


class BadArchive(Invalid):
    title = "The archive cannot be used"
    default_code = "bad_archive"


class BadImage(Invalid):
    title = "The image cannot be used"
    default_code = "bad_image"

    def of(self, place: int, *, count: int) -> Self:
        """This error, as that of the image at `place`, from 0 on, of the `count` that were sent together."""
        self.detail["image"] = place
        if count > 1:
            self.message = f"image {place}: {self.message}"
        return self


class TooLarge(GraftError):
    title = "Too large"
    default_code = "too_large"


class TooSlow(GraftError):
    title = "Too slow"
    default_code = "too_slow"


class UnsupportedMedia(GraftError):
    title = "Media type not taken here"
    default_code = "unsupported_media_type"


class Conflict(GraftError):
    title = "In conflict with the present state"
    default_code = "conflict"


class PreconditionFailed(Conflict):
    title = "Changed in the meantime"
    default_code = "precondition_failed"


class PreconditionRequired(GraftError):
    title = "If-Match is required"
    default_code = "precondition_required"


class Unavailable(GraftError):
    title = "Not available now"
    default_code = "unavailable"
    retry_after_seconds: int = 5
    """When another try may be worth it, where nothing is known of that."""


class Overloaded(Unavailable):
    """Too much at once; worth another try after `retry_after_seconds`."""

    title = "Overloaded"
    default_code = "overloaded"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail: Mapping[str, JsonValue] | None = None,
        retry_after_seconds: float = 1.0,
    ) -> None:
        super().__init__(message, code=code, detail=detail)
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        """As whole seconds, which is what HTTP has."""


class Busy(Overloaded):
    """More is waiting for one thing than it takes, whatever the others do."""

    title = "Too much is waiting"
    default_code = "model_busy"


class NoRoom(GraftError):
    title = "No room on the disk"
    default_code = "insufficient_storage"


class WeightsUnavailable(Unavailable):
    """No copy of a backbone's weights could be had; `tried` tells each place and what was wrong there."""

    title = "Pre-trained weights are not available"
    default_code = "weights_unavailable"

    def __init__(self, backbone: str, tried: Iterable[str]) -> None:
        places: list[JsonValue] = [*tried]
        super().__init__(
            f"no usable weights for {backbone}: {'; '.join(map(str, places))}",
            detail={"backbone": backbone, "tried": places},
        )

    def add_at_hand(self, backbones: Iterable[str]) -> None:
        """Say which other backbones have their weights on this machine; the message names the first ten."""
        names: list[JsonValue] = [*backbones]
        named, left = ", ".join(map(str, names[:10])), len(names) - 10
        if names:
            self.message += f"; those at hand are of {named}" + (f" and {left} more" if left > 0 else "")
        self.detail["at_hand"] = names


class LeaseLost(GraftError):
    title = "The lease is lost"
    default_code = "lease_lost"
