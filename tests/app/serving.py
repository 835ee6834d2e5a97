"""A service that listens on a port of this machine, with one model that has answers of its own to compare with."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from app import server
from app.backbones import catalogue, classifier
from app.backbones.preprocess import Preprocessing
from app.db import Database
from app.doorbell import SilentDoorbell
from app.main import assemble
from app.models import service as models
from app.models.artifact import Calibration
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.training.samples import CPU, MAX_PIXELS, MemoryImages, Recorder
from worker.training import calibrate, evaluate

LABELS = ("ants", "bees")
TEMPERATURE = 0.25
_START_SECONDS = 60


@dataclass(frozen=True)
class Listening:
    """A service, with version 1 of the model `insects` unless it says something else."""

    address: str
    """Host and port."""
    settings: Settings

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@contextmanager
def listening(settings: Settings) -> Iterator[Listening]:
    """Such a service, over a database that is migrated already."""
    with started(settings) as here:
        _register(here)
        yield here


@contextmanager
def started(settings: Settings, *, keeps_loaded: bool = True, warm_seconds: float | None = None) -> Iterator[Listening]:
    """A service with the models that its data folder has."""
    app = assemble(settings, SilentDoorbell(), keeps_loaded=keeps_loaded, warm_seconds=warm_seconds)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        running = server.build(app, drain_seconds=5)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not running.started:
            assert thread.is_alive(), "the service ended at its start"
            assert time.monotonic() < deadline, "the service does not start"
            time.sleep(0.01)
        here = Listening(f"127.0.0.1:{taken.getsockname()[1]}", settings)
        try:
            yield here
        finally:
            running.should_exit = True
            thread.join()


def preprocessing() -> Preprocessing:
    """What the model's images go through."""
    return classifier.build(catalogue.find("tinynet"), 2, state=None, seed=0).preprocessing


def evaluated(photos: Sequence[bytes]) -> NDArray[np.float64]:
    """What the evaluation of a training says of photos `(N, K)`, at the temperature."""
    built = classifier.build(catalogue.find("tinynet"), 2, state=None, seed=0)
    files = MemoryImages(tuple(photos), np.zeros(len(photos), np.int64))
    found = evaluate.predict(
        classifier.inference_form(built.eval()),
        files,
        built.preprocessing,
        max_pixels=MAX_PIXELS,
        phase="evaluate",
        emit=Recorder(),
        device=CPU,
    )
    return calibrate.tempered(found, TEMPERATURE)


def _register(here: Listening) -> None:
    created = httpx.post(f"{here.url}/v1/datasets", json={"name": "photos"}, timeout=60)
    assert created.status_code == 201, created.text
    version_id = models.new_version_id()
    means = functional.normalize(torch.randn(2, 128, generator=torch.Generator().manual_seed(1)), dim=1)
    calibration = Calibration(temperature=TEMPERATURE, unknown_below=0.0, conformal=(), means=means)
    folder = Storage(Path(here.settings.data_dir)).model_version(version_id)
    factories.write_artifact(folder, calibration=calibration)
    database = Database(here.settings.sqlalchemy_url)
    factories.register_version(database, version_id, created.json()["id"], labels=LABELS)
    database.close()
