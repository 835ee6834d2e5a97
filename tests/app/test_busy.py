"""A model whose queue is full, over HTTP: who comes then is told so, and when to come again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.settings import Settings
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.scheduling import until
from tests.app.serving import Listening, Passes
from tests.app.test_bad_input import PHOTO, ROUTES, b64, body
from tests.problems import problem


@pytest.fixture(scope="module")
def passes() -> Iterator[Passes]:
    with serving.watched() as found:
        yield found


@pytest.fixture(scope="module")
def here(passes: Passes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("serving")
    given = Settings(
        data_dir=folder / "data", database_url=sqlite_url(folder), threads=1, batch_size=1, max_queued_images=1
    )
    with serving.listening(given) as found:
        yield found


@pytest.mark.parametrize("route", ROUTES)
def test_who_finds_the_queue_full_is_told_when_to_come_again_and_the_others_are_answered(
    here: Listening, passes: Passes, route: str
) -> None:
    url, content = here.url + route.format("insects"), body(route, [b64(PHOTO)])

    def post() -> httpx.Response:
        return httpx.post(url, json=content, timeout=60)

    assert post().is_success  # which loads it
    with ThreadPoolExecutor(3) as callers:
        with passes.held():
            taken = []
            for _ in range(2):  # no more threads pass images here
                taken.append(callers.submit(post))
                until(lambda: len(passes.sizes) == len(taken))
            taken.append(callers.submit(post))
            until(lambda: serving.metric(here.url, "graft_queued_images") == 1)
            document = problem(post(), 429)
        answers = [caller.result() for caller in taken]

    assert (document["code"], document["title"]) == ("model_busy", "Too much is waiting")
    assert document["detail"] == "1 images wait for this model, and it takes no more than 1"
    assert [answer.status_code for answer in answers] == [200] * 3
    assert post().is_success
    outcome = serving.metric(here.url, 'graft_predictions_total{model="insects",outcome="model_busy"}')
    assert outcome == ROUTES.index(route) + 1
