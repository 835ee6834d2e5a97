"""A service that listens on a port of this machine, with one model that has answers of its own to compare with."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from app import optimisation, server
from app.backbones import catalogue, classifier
from app.backbones.preprocess import Preprocessing
from app.datasets import service as datasets
from app.datasets.schemas import DatasetCreate
from app.db import Database, utc_now
from app.doorbell import SilentDoorbell
from app.main import assemble
from app.models import service as models
from app.models import serving
from app.models.artifact import Calibration
from app.models.service import Served
from app.models.serving import NewOptimisation
from app.models.tables import ModelVersion
from app.optimisation import Figures, Machine, MeasuredForm, Report, Runtime, Speed, Tolerance
from app.predictions.loaded import Loaded
from app.predictions.opener import FromStorage
from app.runtimes import in_onnx, optimised
from app.runtimes.form import Images, Network, Passed
from app.runtimes.opening import Check
from app.runtimes.optimised import Optimised
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.training.samples import CPU, MAX_PIXELS, MemoryImages, Recorder
from worker.training import calibrate, evaluate

LABELS = ("ants", "bees")
TEMPERATURE = 0.25
_START_SECONDS = 60
_HELD_SECONDS = 60.0


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
def listening(
    settings: Settings, runtime: Runtime | None = None, *, network: bytes | None = None, drain_seconds: int = 5
) -> Iterator[Listening]:
    """Such a service, over a database that is migrated already; see `register`. At the end it takes `drain_seconds` to
    answer what it has accepted."""
    register(settings, runtime, network=network)
    with started(settings, drain_seconds=drain_seconds) as here:
        yield here


def register(settings: Settings, runtime: Runtime | None = None, *, network: bytes | None = None) -> None:
    """Let there be the model, to be run as it was trained, or by `runtime` in fp32, with a file that holds `network` or
    for None the right one."""
    database = Database(settings.sqlalchemy_url)
    version_id = _register(database, settings)
    if runtime is not None:
        optimise(database, settings, version_id, runtime, network=network)
    database.close()


def optimise(
    database: Database, settings: Settings, version_id: str, runtime: Runtime, *, network: bytes | None = None
) -> None:
    """Have the version run by `runtime` in fp32 from now on, with a file that holds `network` or for None the right
    one."""
    storage, made = Storage(Path(settings.data_dir)), serving.new_optimisation_id()
    folder = storage.optimisation(made)
    folder.mkdir(parents=True)
    right = factories.onnx_of(storage.model_version(version_id))
    (folder / in_onnx.NAMES["fp32"]).write_bytes(right if network is None else network)
    rates: tuple[tuple[Runtime, float], ...] = (("torch", 1.0), (runtime, 2.0))
    forms = tuple(
        MeasuredForm(name, "fp32", Figures(1.0, 1.0, 0.1, 0.0), Speed(1.0, 1.0, rate, None), within=True, reason=None)
        for name, rate in rates
    )
    report = Report(Machine("cpu", "a CPU", 1), 1, TEMPERATURE, Tolerance(), forms, optimisation.order(forms))
    optimised.write(folder, Optimised(report, Check(np.zeros((1, 64, 64, 3), np.uint8), {})))
    with database.write() as session:
        job_id = session.get_one(ModelVersion, version_id).job_id
        serving.record(session, NewOptimisation(made, version_id, job_id, report), now=utc_now())


@contextmanager
def started(
    settings: Settings, *, keeps_loaded: bool = True, warm_seconds: float | None = None, drain_seconds: int = 5
) -> Iterator[Listening]:
    """A service with the models that its data folder has."""
    app = assemble(settings, SilentDoorbell(), keeps_loaded=keeps_loaded, warm_seconds=warm_seconds)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        running = server.build(app, drain_seconds=drain_seconds)
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


@dataclass
class Passes:
    """What networks are given, besides that by which they are made ready; `held` lets them wait."""

    sizes: list[int] = field(default_factory=list)
    """Of each pass that has begun, how many images it has."""
    _gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._gate.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no pass that begins comes to its end."""
        self.sizes.clear()
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def begin(self, size: int) -> None:
        self.sizes.append(size)
        assert self._gate.wait(_HELD_SECONDS)


@dataclass
class _Watched:
    """A network that tells of its passes."""

    network: Network
    passes: Passes

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self.passes.begin(len(images))
        return self.network.run(images, alone=alone)

    def widen(self) -> None:
        self.network.widen()

    def settle(self) -> None:
        self.network.settle()


@contextmanager
def watched() -> Iterator[Passes]:
    """The passes of all services that are started inside."""
    passes, open_version = Passes(), FromStorage.open

    def opened(source: FromStorage, version: Served) -> Loaded:
        loaded = open_version(source, version)
        loaded.network = _Watched(loaded.network, passes)
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FromStorage, "open", opened)
        yield passes


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


def metric(url: str, name: str) -> float:
    """The value of one of a service's metrics, by its name with its labels; 0 while there is none."""
    values = dict(line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines())
    return float(values.get(name, 0))


def _register(database: Database, settings: Settings) -> str:
    """Id of the version."""
    with database.write() as session:
        dataset_id = datasets.create(session, DatasetCreate(name="photos"), now=utc_now()).id
    version_id = models.new_version_id()
    means = functional.normalize(torch.randn(2, 128, generator=torch.Generator().manual_seed(1)), dim=1)
    calibration = Calibration(temperature=TEMPERATURE, unknown_below=0.0, conformal=(), means=means)
    folder = Storage(Path(settings.data_dir)).model_version(version_id)
    factories.write_artifact(folder, calibration=calibration)
    factories.register_version(database, version_id, dataset_id, labels=LABELS)
    return version_id
