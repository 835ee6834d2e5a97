"""Reading problem documents in tests."""

from typing import Any, Protocol


class Answer(Protocol):
    """What httpx and the test client answer with."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Any: ...
    def json(self) -> Any: ...


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document of an answer, which must be complete, and say when to come again where that may help."""
    assert answer.status_code == status, answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "instance"} <= document.keys()
    assert document["status"] == status
    assert document["type"] == f"urn:graft:problem:{document['code']}"
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return document
