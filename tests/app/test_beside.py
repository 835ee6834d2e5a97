"""A large body that is being read costs those who ask meanwhile nothing that they would have to wait for."""

import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import Request

from app import errors
from app.predictions import asking, texts
from app.settings import Settings
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.scheduling import until
from tests.app.serving import Listening
from tests.app.test_bad_input import PHOTO, ROUTES, body
from tests.problems import problem

PATIENCE = 60.0
CHARACTERS = 40 * 1024 * 1024
SOME = 8
"""Of the tens that there are; one or two are answered also where the large one keeps the interpreter to itself."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("serving")
    given = Settings(data_dir=folder / "data", database_url=sqlite_url(folder), threads=2)
    with serving.listening(given) as found, httpx.Client(timeout=PATIENCE) as http:
        assert post_photo(found, http).is_success  # which loads the model
        yield found


def post_photo(here: Listening, http: httpx.Client) -> httpx.Response:
    return http.post(f"{here.url}/v1/models/insects/predict", content=PHOTO, headers={"Content-Type": "image/jpeg"})


class Reading:
    """When a large body is being read."""

    def __init__(self) -> None:
        self.has_begun, self.has_ended = threading.Event(), threading.Event()
        self.errors: list[weakref.ref[errors.GraftError]] = []
        """Those by which bodies were refused, as long as they are in memory: with each its body is."""

    def noted(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            self.has_begun.set()
            try:
                return read(*given)
            except errors.GraftError as error:
                self.errors.append(weakref.ref(error))
                raise
            finally:
                self.has_ended.set()

        return noted


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    found, parsed = Reading(), asking.parsed

    async def noted(request: Request, read: Callable[..., Any], *body: Any) -> Any:
        return await parsed(request, found.noted(read), *body)

    monkeypatch.setattr(asking, "parsed", noted)
    return found


@pytest.mark.parametrize(
    ("route", "code", "count", "end"),
    [
        *((route, "not_an_image", 1, "") for route in ROUTES),
        (ROUTES[0], "not_an_image", 64, ""),
        (ROUTES[0], "not_base64", 1, "%%%%"),
    ],
    ids=[*ROUTES, "many texts", "no base64 at its end"],
)
def test_small_requests_are_answered_while_a_large_one_is_read(
    here: Listening, reading: Reading, route: str, code: str, count: int, end: str
) -> None:
    texts = ["A" * (CHARACTERS // count) + end] * count
    url, large = here.url + route.format("insects"), json.dumps(body(route, texts)).encode()
    answered = 0
    with httpx.Client(timeout=PATIENCE) as http, ThreadPoolExecutor(1) as other:
        refused = other.submit(
            httpx.post, url, content=large, headers={"Content-Type": "application/json"}, timeout=PATIENCE
        )
        assert reading.has_begun.wait(PATIENCE)
        while not reading.has_ended.is_set():
            assert post_photo(here, http).status_code == 200
            answered += not reading.has_ended.is_set()
    assert problem(refused.result(), 422)["code"] == code
    assert answered >= SOME


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is freed that refers to itself."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("route", ROUTES)
def test_a_large_body_that_is_refused_is_in_memory_no_longer(here: Listening, reading: Reading, route: str) -> None:
    large = json.dumps(body(route, ["A" * texts.INLINE_BYTES + "%%%%"])).encode()
    headers = {"Content-Type": "application/json"}
    refused = httpx.post(here.url + route.format("insects"), content=large, headers=headers, timeout=PATIENCE)
    assert problem(refused, 422)["code"] == "not_base64"
    (error,) = reading.errors
    until(lambda: error() is None)  # whoever tells it forgets it then
