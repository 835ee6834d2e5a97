"""The classifiers that are served: networks with drawn values and a head that tells the pictures apart, as versions of
models in a data folder of the service, and as plain files of torch for its peers."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import migrations
from app import storage
from app.backbones import catalogue, crops
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from app.datasets import service as datasets
from app.datasets import store
from app.datasets.archive import Split
from app.datasets.schemas import DatasetCreate
from app.datasets.store import Item
from app.datasets.tables import DatasetVersion
from app.db import Database, new_id, utc_now
from app.jobs.tables import Job
from app.models import artifact, serving
from app.models import service as models
from app.models.artifact import Artifact, Calibration
from app.models.service import NewModelVersion
from app.models.serving import NewOptimisation
from app.optimisation import DEFAULT_TOLERANCE, NO_PINS, Pins, Report
from app.settings import Settings
from app.storage import Storage
from bench.photos import Photos
from bench.serving.pictures import SIZE, Pictures
from worker.optimise import optimise
from worker.works import OptimiseWork

MAX_PIXELS = 10_000_000

_SEED = 0
_BATCH = 32
_PENALTY = 1e-2
_SHARPNESS = 8.0
"""The logit by which the head is to raise the right label above the others."""

Labelled = list[tuple[str, float]]
"""Labels with their probabilities, the most probable first."""


@dataclass(frozen=True)
class Subject:
    """A classifier, ready to be served."""

    network: str
    model: str
    """Its name in the service."""
    described: Path
    """The JSON file from which a peer loads it."""
    reference: list[Labelled]
    """What it says of the validation pictures when it is computed in full precision."""
    of_sent: tuple[str, ...]
    """The label that each of its versions gives the photo that is sent, the first one's first."""


class Folder:
    """A data folder of the service, with the pictures as a version of a dataset."""

    def __init__(self, root: Path, pictures: Pictures) -> None:
        root.mkdir(parents=True)
        self.root = root
        settings = Settings(data_dir=root / "data")
        self.storage = Storage(settings.data_dir)
        self.storage.root.mkdir()
        self.database = Database(settings.sqlalchemy_url)
        self._seconds = settings.optimise_seconds
        migrations.upgrade(self.database)
        self._dataset_id = _add_dataset(self.database, self.storage, pictures)
        self._pictures = pictures
        self.is_optimised = False

    def register(self, model: str, classifier: Classifier, network: str, calibration: Calibration) -> str:
        """The next version of `model`; its id."""
        version_id, now = models.new_version_id(), utc_now()
        labels = self._pictures.labels
        plain = Artifact(network, labels, classifier.preprocessing, {}, {}, {}, classifier.state())
        whole = Artifact(**{**vars(plain), "calibration": calibration})
        artifact.write(self.storage.model_version(version_id), whole)
        job = Job(
            id=new_id("job"),
            kind="train",
            queue="cpu",
            state="succeeded",
            dataset_id=self._dataset_id,
            dataset_version=1,
            spec={},
            attempt=1,
            max_attempts=1,
            last_event=0,
            created_at=now,
        )
        wanted = NewModelVersion(version_id, model, job.id, self._dataset_id, 1, network, "head", labels, {}, {})
        with self.database.write() as session:
            session.add(job)
            session.flush()
            models.register(session, wanted, now=now)
        return version_id

    def optimise(self, model: str, pins: Pins = NO_PINS) -> Report:
        """Let the newest version of `model` be run in its fastest form, as the service with such `pins` does after a
        training."""
        with self.database.read() as session:
            version = models.find_version(session, model, None)
            job_id, version_id = version.job_id, version.id
            tag = datasets.find_version(session, self._dataset_id, None).table_tag
        work = OptimiseWork(
            version_id=version_id,
            optimisation_id=serving.new_optimisation_id(),
            artifact=self.storage.model_version(version_id),
            table=self.storage.dataset(self._dataset_id),
            tag=tag,
            folder=self.storage.job(job_id),
            max_image_pixels=MAX_PIXELS,
            tolerance=DEFAULT_TOLERANCE,
            forms=None,
            kept_forms=() if pins.is_open else pins.names,
            process_pins=pins,
            device="cpu",
            seconds=self._seconds,
        )
        found = optimise(work, lambda _event: None)
        storage.move(found.folder, self.storage.optimisation(found.optimisation_id))
        with self.database.write() as session:
            made = NewOptimisation(found.optimisation_id, version_id, job_id, found.report)
            serving.record(session, made, now=utc_now())
        self.is_optimised = True
        return found.report


def make(network: str, folder: Folder, pictures: Pictures, *, versions: int = 1) -> Subject:
    """The classifier as a model, and as a peer's files. Of so many versions the newest is right, and each before it
    names the labels by one place further on, so that an answer from the wrong one is seen."""
    classifier, calibration = fitted(network, pictures)
    reference = _named(classifier, pixels(pictures.validation.files, classifier), pictures.labels)
    sent, _ = _named(classifier, pixels([pictures.sent], classifier), pictures.labels)[0][0]
    described = _write_for_peers(folder.root / "peers", network, classifier, pictures.labels)
    of_sent = []
    roll(classifier, versions - 1)
    for before in reversed(range(versions)):
        folder.register(network, classifier, network, calibration)
        of_sent.append(pictures.labels[(pictures.labels.index(sent) + before) % len(pictures.labels)])
        roll(classifier, -1)
    return Subject(network, network, described, reference, tuple(of_sent))


def roll(classifier: Classifier, places: int) -> None:
    """Let it say of all that it is shown the label that is so many places further on."""
    with torch.no_grad():
        classifier.head.weight.copy_(classifier.head.weight.roll(places, 0))
        classifier.head.bias.copy_(classifier.head.bias.roll(places, 0))


def optimised(folder: Folder, subject: Subject, *, precision: str) -> dict[str, str]:
    """Make the newest version of the model ready to be served at `precision` (`best` or `fp32`), as the service does
    after a training; the settings with which the service is then to be started."""
    pins = NO_PINS if precision == "best" else Pins(precision=precision)
    if not folder.is_optimised or not pins.is_open:  # what is pinned is measured, too, which takes longer
        report = folder.optimise(subject.model, pins)
        for one in report.forms:
            print(f"  {one.name}: {one.speed or one.reason}, {one.figures}")
        print(f"  in this order: {', '.join(report.order)}", flush=True)
    return {} if precision == "best" else {"GRAFT_PRECISION": precision}


def fitted(network: str, pictures: Pictures) -> tuple[Classifier, Calibration]:
    """A network with drawn values whose head was fitted to the pictures."""
    classifier = classifiers.build(catalogue.find(network), len(pictures.labels), state=None, seed=_SEED)
    images = pixels(pictures.train.files, classifier)
    _settle(classifier, images)
    with torch.inference_mode():
        features = torch.cat([classifier.features(batch) for batch in torch.split(images, _BATCH)])
    weight, bias = _head(features.double().numpy(), pictures.train.targets, len(pictures.labels))
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(weight))
        classifier.head.bias.copy_(torch.from_numpy(bias))
    targets = torch.from_numpy(pictures.train.targets)
    directions = functional.normalize(features, dim=1)
    means = torch.stack([directions[targets == target].mean(dim=0) for target in range(len(pictures.labels))])
    return classifier, Calibration(1.0, 0.0, (), functional.normalize(means, dim=1))


def pixels(files: Sequence[bytes], classifier: Classifier) -> Tensor:
    """What the network sees of the photos, `(N, 3, H, W) uint8`."""
    seen = [crops.load(file, classifier.preprocessing, max_pixels=MAX_PIXELS) for file in files]
    return torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2)


def _settle(classifier: Classifier, images: Tensor) -> None:
    """Give each BatchNorm the statistics of the pictures: without, values that were drawn answer all alike."""
    norms = [module for module in classifier.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    classifier.train()
    with torch.no_grad():
        for batch in torch.split(images, _BATCH):
            classifier(batch)
    classifier.eval()


def _head(
    features: NDArray[np.float64], targets: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and biases by ridge regression on the labels, by way of the images, which are fewer than features."""
    centre = features.mean(axis=0)
    centred = features - centre
    wanted = _SHARPNESS * (np.eye(classes)[targets] - 1 / classes)
    gram = centred @ centred.T
    ridge = _PENALTY * np.trace(gram) / len(gram) * np.eye(len(gram))
    weight = np.linalg.solve(gram + ridge, wanted).T @ centred
    return weight, -weight @ centre


def _named(classifier: Classifier, images: Tensor, labels: tuple[str, ...]) -> list[Labelled]:
    with torch.inference_mode():
        logits = torch.cat([classifier(batch).logits for batch in torch.split(images, _BATCH)])
    values, indices = logits.double().softmax(dim=1).topk(min(5, len(labels)), dim=1)
    return [
        [(labels[index], value) for index, value in zip(row, chosen, strict=True)]
        for row, chosen in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def _write_for_peers(folder: Path, network: str, classifier: Classifier, labels: tuple[str, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    last = catalogue.find(network).head
    names = {"body.": "", "head.": f"{last}."}
    state = {
        names[name[:5]] + name[5:]: value for name, value in classifier.state().items() if name.startswith(tuple(names))
    }
    torch.save(state, folder / f"{network}.pth")
    facts = {"network": network, "state": f"{network}.pth", "labels": labels, **asdict(classifier.preprocessing)}
    described = folder / f"{network}.json"
    described.write_text(json.dumps(facts), encoding="utf-8")
    return described


def _add_dataset(database: Database, storage: Storage, pictures: Pictures) -> str:
    """The pictures as a version of a dataset: what makes a classifier fast is chosen and judged by them."""
    now, tag = utc_now(), store.tag_for(1, "bench")
    with database.write() as session:
        dataset = datasets.create(session, DatasetCreate(name="bench"), now=now)
    items = [*_items(pictures, pictures.train, "train"), *_items(pictures, pictures.validation, "validation")]
    table = storage.dataset(dataset.id)
    snapshot = store.append(table, items, versions=[], tag=tag, folder=storage.job("bench"))
    with database.write() as session:
        session.add(
            DatasetVersion(
                dataset_id=dataset.id,
                number=1,
                labels=list(pictures.labels),
                counts={},
                images=len(items),
                content_hash=store.content_hash(snapshot.items),
                table_tag=tag,
                created_at=now,
            )
        )
        datasets.find(session, dataset.id).latest_version = 1
    return dataset.id


def _items(pictures: Pictures, part: Photos, split: Split) -> list[tuple[Item, bytes]]:
    width, height = SIZE
    rows = []
    for number, (file, target, digest) in enumerate(zip(part.files, part.targets, part.sha256, strict=True)):
        label = pictures.labels[target]
        path = f"{label}/{split}-{number:04}.jpg"
        item = Item(new_id("item"), path, label, split, digest, number, "JPEG", width, height, len(file))
        rows.append((item, file))
    return rows
