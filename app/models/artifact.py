"""A model version on disk: a folder with weights, labels, preprocessing, plan, evaluation, calibration and provenance,
and thumbnails of its worst mistakes.

`artifact.json` lists the files with their sha256; a folder that does not agree with its list is not loaded.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from app import errors
from app import files as kept
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import WHOLE, Outlet

FORMAT = 1
_MANIFEST = "artifact.json"
_WEIGHTS = "weights.safetensors"
_CALIBRATION = "calibration.json"
_MEANS = "calibration.safetensors"
_DOCUMENTS = ("labels", "preprocessing", "plan", "evaluation", "provenance")


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
    kept.write_json(folder / _MANIFEST, facts)
    for path in (*folder.iterdir(), folder):
        kept.make_durable(path)


def read(folder: Path) -> Artifact:
    """The artifact in `folder`. Raises `Unavailable` where it is missing or not as it was written."""
    try:
        manifest = kept.read_json(folder / _MANIFEST)
        changed = [name for name, digest in manifest["files"].items() if kept.sha256(folder / name) != digest]
        if changed:
            raise errors.Unavailable(f"the artifact has changed since it was written: {', '.join(changed)}")
        documents = {name: kept.read_json(folder / f"{name}.json") for name in _DOCUMENTS}
        state = safetensors.torch.load_file(folder / _WEIGHTS)
        calibration = _read_calibration(folder) if _CALIBRATION in manifest["files"] else None
    except FileNotFoundError as error:
        raise errors.Unavailable(f"the artifact is incomplete: {error.filename} is missing") from error
    return Artifact(
        backbone=manifest["backbone"],
        labels=tuple(documents["labels"]),
        preprocessing=Preprocessing.from_json(documents["preprocessing"]),
        plan=documents["plan"],
        evaluation=documents["evaluation"],
        provenance=documents["provenance"],
        state=state,
        outlet=_outlet(manifest.get("outlet", {})),
        calibration=calibration,
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
    """Of the artifact in `folder`. Raises as `read`."""
    try:
        manifest = kept.read_json(folder / _MANIFEST)
        weights_bytes = (folder / _WEIGHTS).stat().st_size
        calibration = _read_calibration(folder) if _CALIBRATION in manifest["files"] else None
    except FileNotFoundError as error:
        raise errors.Unavailable(f"the artifact is incomplete: {error.filename} is missing") from error
    return Description(
        labels=tuple(document(folder, "labels")),
        preprocessing=Preprocessing.from_json(document(folder, "preprocessing")),
        calibration=calibration,
        backbone=manifest["backbone"],
        outlet=_outlet(manifest.get("outlet", {})),
        weights_bytes=weights_bytes,
    )


def document(folder: Path, name: str) -> Any:
    """One of the JSON documents of the artifact in `folder`, by its name without suffix. Raises as `read`."""
    return json.loads(_part(folder, f"{name}.json"))


def thumbnail(folder: Path, place: int) -> bytes:
    """The JPEG of the mistake at `place` of the evaluation. Raises as `read`, and `NotFound`."""
    if not (folder / _thumbnail(place)).is_file():
        raise errors.NotFound(f"the evaluation has no picture of a mistake {place}", code="mistake_not_found")
    return _part(folder, _thumbnail(place))


def _part(folder: Path, name: str) -> bytes:
    """A file of the artifact, checked by itself: the weights beside it may be large."""
    try:
        digest = kept.read_json(folder / _MANIFEST)["files"][name]
        content = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise errors.Unavailable(f"the artifact is incomplete: {error.filename} is missing") from error
    except KeyError as error:
        raise errors.Unavailable(f"the artifact has no {name}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise errors.Unavailable(f"the artifact has changed since it was written: {name}")
    return content


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


def _read_calibration(folder: Path) -> Calibration:
    plain = kept.read_json(folder / _CALIBRATION)
    return Calibration(
        temperature=plain["temperature"],
        unknown_below=plain["unknown_below"],
        conformal=tuple((alpha, least) for alpha, least in plain["conformal"]),
        means=safetensors.torch.load_file(folder / _MEANS)["means"],
    )


def weights_sha256(folder: Path) -> str:
    """Of the file with all values of the artifact in `folder`, which was read before."""
    return str(kept.read_json(folder / _MANIFEST)["files"][_WEIGHTS])


def _outlet(document: Mapping[str, Any]) -> Outlet:
    """Artifacts of old have none: they have the whole network."""
    return Outlet(stage=document.get("stage"), taps=tuple(document.get("taps", ())))
