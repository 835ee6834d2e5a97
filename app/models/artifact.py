"""A model version on disk: a folder with weights, labels, preprocessing, plan, evaluation, calibration and provenance,
and thumbnails of its worst mistakes.

`artifact.json` lists the files with their sha256; a folder that does not agree with its list is not loaded.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from app import errors
from app import files as kept
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import WHOLE, Outlet

FORMAT = 1
MANIFEST = "artifact.json"
_WEIGHTS = "weights.safetensors"
_CALIBRATION = "calibration.json"
_MEANS = "calibration.safetensors"
_RESTORE = "restore it from a copy, or train the model again"


@dataclass(frozen=True)
class Calibration:
    """What makes of the answers of a classifier ones that can be relied on."""

    temperature: float
    """Divide the logits by it to get probabilities that can be taken at their word."""
    unknown_below: float
    """An image is like nothing that was learned where its features' greatest cosine with `means` is below this."""
    conformal: tuple[tuple[float, float], ...]
    """For each alpha the least probability, at the temperature, with which a label is in a set that holds the true one
    with a chance of 1 - alpha."""
    means: Tensor
    """The mean direction of each label's features `(K, D) float32`."""


@dataclass(frozen=True)
class Artifact:
    """Everything that makes a classifier: `labels[i]` is the meaning of output i."""

    backbone: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    plan: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    provenance: Mapping[str, Any]
    state: Mapping[str, Tensor]
    outlet: Outlet = WHOLE
    """Where in the backbone the features come from."""
    calibration: Calibration | None = None
    """Artifacts of old have none."""


def write(folder: Path, artifact: Artifact, *, thumbnails: Sequence[bytes] = ()) -> None:
    """Write `artifact` to the new folder `folder`, durable when this returns; with JPEGs of the mistakes of its
    evaluation, in their order."""
    folder.mkdir(parents=True)
    safetensors.torch.save_file({name: t.contiguous() for name, t in artifact.state.items()}, folder / _WEIGHTS)
    documents: dict[str, Any] = {
        "labels": artifact.labels,
        "preprocessing": asdict(artifact.preprocessing),
        "plan": artifact.plan,
        "evaluation": artifact.evaluation,
        "provenance": artifact.provenance,
    }
    for name, document in documents.items():
        kept.write_json(folder / f"{name}.json", document)
    if artifact.calibration is not None:
        _write_calibration(folder, artifact.calibration)
    for place, thumbnail in enumerate(thumbnails):
        (folder / _thumbnail(place)).write_bytes(thumbnail)
    files = {path.name: kept.sha256(path) for path in sorted(folder.iterdir())}
    facts = {"format": FORMAT, "backbone": artifact.backbone, "outlet": asdict(artifact.outlet), "files": files}
    kept.write_json(folder / MANIFEST, facts)
    for path in (*folder.iterdir(), folder):
        kept.make_durable(path)


def read(folder: Path) -> Artifact:
    """The artifact in `folder`. Raises `Unavailable` where it cannot be read, or is not as it was written."""
    stored = _stored(folder)
    changed = [name for name in stored.digests if stored.sha256(name) != stored.digests[name]]
    if changed:
        raise _changed(*changed)
    with _reading(folder / _WEIGHTS) as path:
        state = safetensors.torch.load_file(path)
    return Artifact(
        backbone=stored.backbone,
        labels=tuple(stored.document("labels")),
        preprocessing=stored.preprocessing(),
        plan=stored.document("plan"),
        evaluation=stored.document("evaluation"),
        provenance=stored.document("provenance"),
        state=state,
        outlet=stored.outlet,
        calibration=stored.calibration(),
    )


@dataclass(frozen=True)
class Description:
    """What the images and outputs of a classifier are, without its values."""

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    calibration: Calibration | None
    backbone: str
    outlet: Outlet
    weights_bytes: int


def describe(folder: Path) -> Description:
    """Of the artifact in `folder`. Raises as `read`, but for weights that have changed."""
    stored = _stored(folder)
    with _reading(folder / _WEIGHTS) as path:
        weights_bytes = path.stat().st_size
    return Description(
        labels=tuple(stored.document("labels")),
        preprocessing=stored.preprocessing(),
        calibration=stored.calibration(),
        backbone=stored.backbone,
        outlet=stored.outlet,
        weights_bytes=weights_bytes,
    )


def document(folder: Path, name: str) -> Any:
    """One of the JSON documents of the artifact in `folder`, by its name without suffix. Raises as `describe`."""
    return _stored(folder).document(name)


def thumbnail(folder: Path, place: int) -> bytes:
    """The JPEG of the mistake at `place` of the evaluation. Raises as `describe`, and `NotFound`."""
    with _reading(folder / _thumbnail(place)) as path:
        if not path.is_file():
            raise errors.NotFound(f"the evaluation has no picture of a mistake {place}", code="mistake_not_found")
    return _stored(folder).content(path.name)


def digests(folder: Path) -> Mapping[str, str]:
    """The sha256 of each file of the artifact in `folder`, as they were written. Raises as `describe`."""
    return _stored(folder).digests


def weights_sha256(folder: Path) -> str:
    """Of the file with all values of the artifact in `folder`, as it was written. Raises as `describe`."""
    return _stored(folder).digest(_WEIGHTS)


@dataclass(frozen=True)
class _Stored:
    """What lies in a folder by its manifest."""

    folder: Path
    backbone: str
    outlet: Outlet
    digests: Mapping[str, str]
    """By the names of the files."""

    def digest(self, name: str) -> str:
        if name not in self.digests:
            raise errors.Unavailable(f"the artifact has no {name}")
        return self.digests[name]

    def sha256(self, name: str) -> str:
        with _reading(self.folder / name) as path:
            return kept.sha256(path)

    def content(self, name: str) -> bytes:
        """Of a file, checked by itself: the weights beside it may be large."""
        digest = self.digest(name)
        with _reading(self.folder / name) as path:
            content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise _changed(name)
        return content

    def document(self, name: str) -> Any:
        with _reading(self.folder / f"{name}.json") as path:
            return json.loads(self.content(path.name))

    def preprocessing(self) -> Preprocessing:
        with _reading(self.folder / "preprocessing.json"):
            return Preprocessing.from_json(self.document("preprocessing"))

    def calibration(self) -> Calibration | None:
        if _CALIBRATION not in self.digests:
            return None
        with _reading(self.folder / _CALIBRATION) as path:
            plain = json.loads(self.content(path.name))
            conformal = tuple((alpha, least) for alpha, least in plain["conformal"])
            temperature, unknown_below = plain["temperature"], plain["unknown_below"]
        with _reading(self.folder / _MEANS) as path:
            means = safetensors.torch.load(self.content(path.name))["means"]
        return Calibration(temperature, unknown_below, conformal, means)


def _stored(folder: Path) -> _Stored:
    with _reading(folder / MANIFEST) as path:
        manifest = kept.read_json(path)
        outlet = manifest.get("outlet", {})  # artifacts of old have none: they have the whole network
        return _Stored(
            folder,
            manifest["backbone"],
            Outlet(stage=outlet.get("stage"), taps=tuple(outlet.get("taps", ()))),
            dict(manifest["files"]),
        )


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """`path`, which is read inside. Raises `Unavailable` for whatever is wrong with it, and what can be done."""
    try:
        yield path
    except FileNotFoundError as error:
        raise errors.Unavailable(f"the artifact is incomplete: {path} is missing; {_RESTORE}") from error
    except OSError as error:
        raise errors.Unavailable(
            f"the artifact cannot be read: {path}: {error.strerror}; see to the volume, and to who may read there"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise errors.Unavailable(f"the artifact is damaged: {path} ({error}); {_RESTORE}") from error


def _changed(*names: str) -> errors.Unavailable:
    return errors.Unavailable(f"the artifact has changed since it was written: {', '.join(names)}; {_RESTORE}")


def _thumbnail(place: int) -> str:
    return f"mistake-{place}.jpg"


def _write_calibration(folder: Path, calibration: Calibration) -> None:
    safetensors.torch.save_file({"means": calibration.means.contiguous()}, folder / _MEANS)
    plain = {
        "temperature": calibration.temperature,
        "unknown_below": calibration.unknown_below,
        "conformal": calibration.conformal,
    }
    kept.write_json(folder / _CALIBRATION, plain)
