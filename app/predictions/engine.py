"""Loaded classifiers, and labels for images from them. Knows artifacts, no database and no HTTP."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch.nn import functional

from app import errors
from app.backbones import classifier as classifiers
from app.backbones import preprocess
from app.backbones.classifier import InferenceForm
from app.backbones.preprocess import Preprocessing
from app.models import artifact as artifacts
from app.models.artifact import Calibration
from app.models.service import Served
from app.storage import Storage

# Measured on CPUs: small batches stay in the cache, and larger ones bring nothing.
_BATCH = 8


@dataclass(frozen=True)
class Ranked:
    """One label of one image; probability 0-1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What is said of one image."""

    labels: list[Ranked]
    """The most probable first."""
    similarity: float | None
    """Cosine of its features with the mean of the nearest label's; None for versions of old, which have no means."""
    is_unknown: bool | None
    """Whether that is below the version's threshold."""


@dataclass(frozen=True)
class Loaded:
    """A classifier ready to run."""

    network: InferenceForm
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    calibration: Calibration | None


class Engine:
    """Keeps the classifiers used last, and runs one batch at a time on all threads of the process."""

    def __init__(self, storage: Storage, *, loaded_models: int, max_image_pixels: int) -> None:
        self._storage = storage
        self._capacity = loaded_models
        self._max_image_pixels = max_image_pixels
        self._loaded: OrderedDict[str, Future[Loaded]] = OrderedDict()
        self._choosing = threading.Lock()
        self._running = threading.Lock()

    def classify(self, version: Served, images: Sequence[bytes], *, top_k: int) -> list[Answer]:
        """For each image (JPEG, PNG or WebP bytes) its `top_k` most probable labels, and whether it is unknown.

        Raises `BadImage`, whose detail tells which image it is.
        """
        loaded = self._get(version)
        answers: list[Answer] = []
        for start in range(0, len(images), _BATCH):
            batch = torch.stack(
                [
                    self._decoded(image, place, loaded)
                    for place, image in enumerate(images[start : start + _BATCH], start)
                ]
            )
            features, probabilities = self._passed(loaded, batch)
            ranked = _rank(probabilities, loaded.labels, top_k)
            answers += _answers(ranked, features, loaded.calibration)
        return answers

    def _get(self, version: Served) -> Loaded:
        """The classifier, loaded by whoever asks for it first; only those who want the same one wait for that."""
        with self._choosing:
            known = self._loaded.get(version.version_id)
            if known is not None:
                self._loaded.move_to_end(version.version_id)
            else:
                mine = self._loaded[version.version_id] = Future()
        if known is not None:
            return known.result()
        try:
            mine.set_result(self._load(version))
        except BaseException as error:
            with self._choosing:
                del self._loaded[version.version_id]
            mine.set_exception(error)
            raise
        self._make_room()
        return mine.result()

    def _make_room(self) -> None:
        with self._choosing:
            ready = [version_id for version_id, loaded in self._loaded.items() if loaded.done()]
            for version_id in ready[: max(0, len(ready) - self._capacity)]:
                del self._loaded[version_id]

    def _load(self, version: Served) -> Loaded:
        artifact = artifacts.read(self._storage.model_version(version.version_id))
        restored = classifiers.restore(
            artifact.backbone,
            len(artifact.labels),
            artifact.preprocessing,
            artifact.state,
            outlet=artifact.outlet,
        )
        form = classifiers.inference_form(restored)
        return Loaded(form, artifact.labels, artifact.preprocessing, artifact.calibration)

    def _decoded(self, image: bytes, place: int, loaded: Loaded) -> torch.Tensor:
        try:
            pixels = preprocess.load(image, loaded.preprocessing, max_pixels=self._max_image_pixels)
        except errors.BadImage as error:
            error.detail["image"] = place
            raise
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _passed(self, loaded: Loaded, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `(N, D)` and probabilities `(N, K)`."""
        with self._running, torch.inference_mode():
            features = loaded.network.features(batch)
            return features, loaded.network.head(features).double().softmax(dim=1)


def _answers(ranked: list[list[Ranked]], features: torch.Tensor, calibration: Calibration | None) -> list[Answer]:
    if calibration is None:
        return [Answer(labels, similarity=None, is_unknown=None) for labels in ranked]
    similar = functional.normalize(features.double(), dim=1) @ calibration.means.double().T
    nearest = similar.amax(dim=1).tolist()
    return [
        Answer(labels, similarity=value, is_unknown=value < calibration.unknown_below)
        for labels, value in zip(ranked, nearest, strict=True)
    ]


def _rank(probabilities: torch.Tensor, labels: tuple[str, ...], top_k: int) -> list[list[Ranked]]:
    values, indices = probabilities.topk(min(top_k, len(labels)), dim=1)
    return [
        [Ranked(labels[index], value) for value, index in zip(row_values, row_indices, strict=True)]
        for row_values, row_indices in zip(values.tolist(), indices.tolist(), strict=True)
    ]
