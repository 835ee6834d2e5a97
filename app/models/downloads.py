"""The files of a model version, for whoever takes it elsewhere: as it was trained and, once optimised, as ONNX."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app import errors, optimisation
from app import files as kept
from app.models import artifact

_ABOUT = {
    artifact.MANIFEST: "The list of the others with their sha256, the backbone, and where it was cut.",
    "weights.safetensors": "All values of the network, by the names that its layers have in torch.",
    "labels.json": "What output i of the classifier means.",
    "preprocessing.json": "How an image file becomes the pixels that the network sees.",
    "calibration.json": "The temperature that logits are divided by, the threshold of what is unknown, and those of "
    "sets of labels.",
    "calibration.safetensors": "The mean direction of the features of each label, by which unknown images are told.",
    "plan.json": "How it was trained, and why so.",
    "evaluation.json": "All that was measured of it.",
    "provenance.json": "The data, weights, seed and libraries that it was made from.",
    "fp32.onnx": "The whole classifier as ONNX: images (N, H, W, 3), values 0-255, to features and logits.",
    "int8.onnx": "The same, quantised after training.",
}
_PICTURE = "A small picture of one of its worst mistakes."
_ONNX = ".onnx"


@dataclass(frozen=True)
class Stored:
    """A file of a model version."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def about(self) -> str:
        return _ABOUT.get(self.name, _PICTURE)


def of(version: Path, optimisations: Iterable[Path]) -> Mapping[str, Stored]:
    """The files of the artifact in the folder `version`, and the networks of the first of its optimisations that has
    any, by name. Raises `Unavailable` as `artifact.describe`."""
    found = [Stored(version / name, digest) for name, digest in artifact.digests(version).items()]
    manifest = version / artifact.MANIFEST
    whole = {stored.name: stored for stored in (Stored(manifest, kept.sha256(manifest)), *found)}
    for folder in optimisations:
        networks = _networks(folder)
        if networks:
            return {**whole, **networks}
    return whole


def find(files: Mapping[str, Stored], name: str) -> Stored:
    """Raises `NotFound`, and `Unavailable` where it is not on the disk any more."""
    if name not in files:
        hint = "; networks as ONNX come with its optimisation" if name.endswith(_ONNX) else ""
        raise errors.NotFound(
            f"the version has no file {name!r}; it has {', '.join(files)}{hint}",
            code="model_file_not_found",
            detail={"nearest": [*errors.nearest_names(name, list(files))]},
        )
    if not files[name].path.is_file():
        raise errors.Unavailable(f"the version's file {name} is missing on the service's disk")
    return files[name]


def _networks(folder: Path) -> dict[str, Stored]:
    """Empty where the optimisation cannot be read, or was removed meanwhile."""
    try:
        listed: Mapping[str, str] = kept.read_json(folder / optimisation.MANIFEST)["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {name: Stored(folder / name, digest) for name, digest in listed.items() if name.endswith(_ONNX)}
