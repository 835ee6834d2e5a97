"""A connection to the service: what is sent again, page by page, and how what comes back is read."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Generic, Self, TypeVar

import httpx
import msgspec

from client import answers
from client.answers import Answer
from client.errors import Refused, Unreachable

DEFAULT_URL = "http://127.0.0.1:8000"
_ATTEMPTS = 4
CHANGED_SINCE = httpx.codes.PRECONDITION_FAILED
_PAGE = 100
_ROUND_PROXIES: Mapping[str, httpx.BaseTransport | None] = {
    "all://localhost": None,
    "all://127.0.0.1": None,
    "all://[::1]": None,
}
"""A service on this machine is reached directly: a proxy that the environment names would look for it on its own."""

T = TypeVar("T")


class Connection:
    """A connection to the service at `url`, which may be given with the `/v1` that all its routes begin with.

    Every method raises `Problem` where the service refuses, `Unreachable` where it does not answer, or something else
    does, and `Refused` for what makes no address; so does the class itself. What creates or changes something is tried
    again after a lost connection, and done once.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_seconds: float = 60.0, attempts: int = _ATTEMPTS) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout_seconds, mounts=_ROUND_PROXIES)
        except httpx.InvalidURL as error:
            raise _no_address(self.url, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _change(
        self,
        send: Callable[[], httpx.Response],
        kind: type[T],
        made: Callable[[], T | None],
        *,
        refusal: int = CHANGED_SINCE,
    ) -> T:
        """What a change of one state of a thing has made. After a lost answer its repeat may be refused, with this
        status, because it was carried out: then `made` tells what is there, or None where that is the work of somebody
        else."""
        answer = self._tried(send)
        found = made() if answer.may_be_done and answer.response.status_code == refusal else None
        return read(answer.response, kind) if found is None else found

    def _remove(self, send: Callable[[], httpx.Response]) -> None:
        """What is not there is what was asked for where an earlier try may have come through."""
        answer = self._tried(send)
        if not (answer.may_be_done and answer.response.status_code == httpx.codes.NOT_FOUND):
            answers.checked(answer.response)

    def _get(self, path: str, kind: type[T]) -> T:
        return read(self._again(lambda: self._http.get(path)), kind)

    def _create(self, path: str, wanted: Mapping[str, object], kind: type[T]) -> T:
        return read(self._send(path, wanted), kind)

    def _send(self, path: str, wanted: Mapping[str, object]) -> httpx.Response:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._again(lambda: self._http.post(path, json=wanted, headers=headers))

    def _pages(
        self, path: str, kind: type[T], cursor: Callable[[T], object], only: Mapping[str, str] | None = None
    ) -> Iterator[T]:
        """All of a list, or what of it the parameters `only` leave."""
        after: dict[str, str] = {}
        while True:
            page = read(self._listing(path, {**(only or {}), **after}), Page[kind])  # type: ignore[valid-type]
            yield from page.data
            if not page.has_more:
                return
            after = {"after": str(cursor(page.data[-1]))}

    def _listing(self, path: str, after: dict[str, str]) -> httpx.Response:
        return self._again(lambda: self._http.get(path, params={"limit": str(_PAGE), **after}))

    def _again(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        return self._tried(send).response

    def _tried(self, send: Callable[[], httpx.Response]) -> Answer:
        try:
            return answers.again(send, attempts=self._attempts)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise _no_address(self.url, error) from error

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        if _is_refusal(error):
            return Unreachable(
                f"nothing answers at {self.url}; start the service with `graft up`, or say where it is with --url"
            )
        return Unreachable(f"no answer from {self.url} ({error or type(error).__name__})")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list."""

    data: list[T]
    has_more: bool


def read(response: httpx.Response, kind: type[T]) -> T:
    """What the service answered. Raises `Problem` where that is one, and `Unreachable` where something else answers."""
    try:
        return msgspec.json.decode(answers.checked(response).content, type=kind)
    except msgspec.DecodeError as error:
        raise Unreachable(f"what answers at {response.url} is not Graft, or another version of it ({error})") from error


def _is_refusal(error: BaseException | None) -> bool:
    """Whether nobody listens there, as far as the machine says."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _no_address(url: str, error: httpx.InvalidURL) -> Refused:
    return Refused(f"this makes no address of a service, such as {DEFAULT_URL}: {url} ({error})")
