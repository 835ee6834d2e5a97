"""Artifacts whose files are not as they were written, or cannot be read."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app import errors
from app import files as kept
from app.models import artifact
from app.models.artifact import Calibration
from tests import factories

Damage = Callable[[Path], object]
CALIBRATION = Calibration(temperature=1.0, unknown_below=0.5, conformal=((0.1, 0.5),), means=torch.ones(2, 128))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact with a calibration."""
    factories.write_artifact(tmp_path / "mv_1", calibration=CALIBRATION)
    return tmp_path / "mv_1"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def make_unreadable(path: Path) -> None:
    """In a way that holds for every user: it is no file any more."""
    path.unlink()
    path.mkdir()


def sign(path: Path) -> None:
    """Have the manifest agree with what is in the file now."""
    manifest = json.loads((path.parent / "artifact.json").read_text())
    manifest["files"][path.name] = kept.sha256(path)
    (path.parent / "artifact.json").write_text(json.dumps(manifest))


def truncate_and_sign(path: Path) -> None:
    truncate(path)
    sign(path)


def write(text: str) -> Damage:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("artifact.json", truncate),
        ("artifact.json", make_unreadable),
        ("artifact.json", Path.unlink),
        ("artifact.json", write("[]")),
        ("artifact.json", write('{"backbone": "tinynet"}')),
        ("artifact.json", write('{"backbone": "tinynet", "files": null}')),
        ("labels.json", truncate),
        ("labels.json", make_unreadable),
        ("preprocessing.json", truncate_and_sign),
        ("calibration.json", truncate),
        ("calibration.json", truncate_and_sign),
        ("calibration.safetensors", truncate),
        ("calibration.safetensors", truncate_and_sign),
        ("calibration.safetensors", make_unreadable),
    ],
)
def test_whatever_is_wrong_with_a_file_is_told_with_its_name(folder: Path, name: str, damage: Damage) -> None:
    damage(folder / name)
    for use in (artifact.read, artifact.describe):
        with pytest.raises(errors.Unavailable) as told:
            use(folder)
        assert name in told.value.message
        assert "; " in told.value.message  # what can be done


def test_values_of_a_calibration_that_have_changed_are_seen_without_a_look_at_the_weights(folder: Path) -> None:
    path = folder / "calibration.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.Unavailable, match=r"changed since it was written: calibration\.safetensors"):
        artifact.describe(folder)


@pytest.mark.parametrize("damage", [truncate, make_unreadable])
def test_a_damaged_manifest_is_told_by_whoever_reads_a_part(folder: Path, damage: Damage) -> None:
    (folder / "mistake-0.jpg").write_bytes(b"a picture")
    damage(folder / "artifact.json")
    for use in (
        artifact.weights_sha256,
        lambda it: artifact.document(it, "plan"),
        lambda it: artifact.thumbnail(it, 0),
    ):
        with pytest.raises(errors.Unavailable, match=r"artifact\.json"):
            use(folder)


def test_a_part_that_was_not_written_is_told_by_its_name(folder: Path) -> None:
    (folder / "mistake-0.jpg").write_bytes(b"a picture")
    with pytest.raises(errors.Unavailable, match=r"the artifact has no mistake-0\.jpg"):
        artifact.thumbnail(folder, 0)
