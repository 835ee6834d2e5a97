"""Swaps over HTTP: several callers ask for an alias without pause, and each answer is one of the version it names."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import httpx
import pytest

from app.datasets import service as datasets
from app.datasets.schemas import DatasetCreate
from app.db import Database, utc_now
from app.models import service as models
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.scheduling import until

MIB = 1024 * 1024
ONE, TWO = 24 * MIB, 128 * MIB
"""Memory for one of the versions, and for two of them while one is being loaded."""
CALLERS = 3
PHOTO = factories.image(factories.COLOURS["red"])
PREDICT, ALIAS = "/v1/models/insects:production/predict", "/v1/models/insects/aliases/production"
LOADS = 'graft_model_loads_total{{form="{}-fp32"}}'


class Registry:
    """Versions of the model `insects`, put there as a worker does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.sqlalchemy_url)
        self._ids: list[str] = []
        with self._database.write() as session:
            self._dataset_id = datasets.create(session, DatasetCreate(name="photos"), now=utc_now()).id

    def add(self) -> int:
        """The number of one more version, which has labels of its own, and one answer to whatever it is shown."""
        number, version_id = len(self._ids) + 1, models.new_version_id()
        labels = (f"ants-{number}", f"bees-{number}")
        folder = Storage(self._settings.data_dir).model_version(version_id)
        factories.write_artifact(folder, labels=labels, always=answer_of(number))
        factories.register_version(self._database, version_id, self._dataset_id, labels=labels)
        self._ids.append(version_id)
        return number

    def publish(self, number: int) -> None:
        """Have the version run by ONNX Runtime from now on."""
        serving.optimise(self._database, self._settings, self._ids[number - 1], "onnxruntime")

    def close(self) -> None:
        self._database.close()


def answer_of(number: int) -> str:
    return f"{('ants', 'bees')[number % 2]}-{number}"


@dataclass(frozen=True)
class Seen:
    """One answer; when it was asked for and when it came, by `time.monotonic`."""

    sent: float
    came: float
    version: int
    label: str


@dataclass(frozen=True)
class Turn:
    """From when the alias is moved to a version, and from when that is known to answer: maybe at once."""

    version: int
    began: float
    was_there: float
    at_once: bool


def ask(http: httpx.Client) -> Seen:
    sent = time.monotonic()
    answer = http.post(PREDICT, content=PHOTO, headers={"Content-Type": "image/jpeg"})
    came = time.monotonic()
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return Seen(sent, came, document["version"], document["predictions"][0]["labels"][0]["label"])


def ask_until(url: str, is_over: threading.Event) -> list[Seen]:
    seen = []
    with httpx.Client(base_url=url, timeout=60) as http:
        while not is_over.is_set():
            seen.append(ask(http))
    return seen


def move(http: httpx.Client, number: int) -> Turn:
    """Move the alias, and return once its new target has answered."""
    began = time.monotonic()
    condition = {"If-Match": "*"} if http.get(ALIAS).is_success else {}
    moved = http.put(ALIAS, json={"version": number}, headers=condition)
    assert moved.is_success, moved.text
    at_once = is_there = ask(http).version == number
    while not is_there:
        is_there = ask(http).version == number
    was_there = time.monotonic()
    assert ask(http).version == number
    return Turn(number, began, was_there, at_once)


def is_of(turn: Turn, following: Turn | None, seen: Seen) -> bool:
    """Whether the version whose turn it was may have given the answer: until the next one is known to do so."""
    is_in_time = seen.came >= turn.began and (following is None or seen.sent <= following.was_there)
    return is_in_time and (seen.version, seen.label) == (turn.version, answer_of(turn.version))


@pytest.mark.parametrize("memory", [ONE, TWO], ids=["room for one", "room for two"])
def test_each_answer_during_swaps_is_one_of_the_version_that_it_names(tmp_path: Path, memory: int) -> None:
    given = Settings(
        data_dir=tmp_path / "data",
        database_url=sqlite_url(tmp_path),
        threads=1,
        model_memory_bytes=memory,
        predict_timeout_seconds=60,
    )
    registry, is_over = Registry(given), threading.Event()
    first, second = registry.add(), registry.add()
    with (
        serving.started(given) as here,
        httpx.Client(base_url=here.url, timeout=60) as http,
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        turns = [move(http, first)]
        calling = [callers.submit(ask_until, here.url, is_over) for _ in range(CALLERS)]
        try:
            turns += [move(http, number) for number in (second, first, second)]
            third = registry.add()
            turns.append(move(http, third))
            registry.publish(third)
            until(lambda: serving.metric(here.url, LOADS.format("onnxruntime")) > 0)
            turns += [move(http, number) for number in (first, third)]
        finally:
            is_over.set()
        seen = [answer for caller in calling for answer in caller.result()]
        loads = [serving.metric(here.url, LOADS.format(runtime)) for runtime in ("torch", "onnxruntime")]
        there = serving.metric(here.url, "graft_loaded_models")
    registry.close()

    pairs = [*zip_longest(turns, turns[1:])]
    assert [answer for answer in seen if not any(is_of(*pair, answer) for pair in pairs)] == []
    assert {answer.version for answer in seen} == {first, second, third}
    if memory == ONE:  # none was there when its turn came
        assert there == 1
        assert loads[0] >= 6
        assert loads[1] >= 2
    else:
        again = turns[2:4]
        assert all(turn.at_once for turn in again), again
