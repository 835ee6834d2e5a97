"""Small true things for tests: images that can be told apart, archives of them, and rows of the database."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.backbones import catalogue, classifier, export, networks
from app.db import Database, new_id, utc_now
from app.jobs.tables import Job
from app.models import artifact
from app.models import service as models
from app.models.artifact import Artifact, Calibration
from app.models.service import NewModelVersion
from app.runtimes import in_onnx, in_torch
from app.runtimes.form import Files

Pack = Callable[[Path, Mapping[str, bytes]], Path]

ROOM = 10**9
"""Bytes of activations, more than small images make."""

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}


def image(
    colour: tuple[int, int, int], *, seed: int = 0, size: tuple[int, int] = (48, 40), kind: str = "JPEG"
) -> bytes:
    """A picture of one colour with noise; each seed gives another one."""
    noise = np.random.default_rng(seed).integers(-30, 30, (size[1], size[0], 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def photos(*, classes: int = 2, each: int = 10, first_seed: int = 0) -> dict[str, bytes]:
    """Files of an archive with a folder per class, of classes that any network tells apart."""
    return {
        f"{name}/{number:03}.jpg": image(colour, seed=first_seed + 1000 * place + number)
        for place, (name, colour) in enumerate(list(COLOURS.items())[:classes])
        for number in range(each)
    }


def zip_of(folder: Path, files: Mapping[str, bytes]) -> Path:
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def tar_of(folder: Path, files: Mapping[str, bytes]) -> Path:
    path = folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def write_artifact(
    folder: Path,
    *,
    calibration: Calibration | None = None,
    labels: tuple[str, ...] = ("ants", "bees"),
    always: str | None = None,
) -> None:
    """An untrained classifier, which says `always` of whatever it is shown if that is one of its labels."""
    built = classifier.build(catalogue.find("tinynet"), len(labels), state=None, seed=0)
    if always is not None:
        with torch.no_grad():
            built.head.bias[labels.index(always)] += 100
    plain = Artifact("tinynet", labels, built.preprocessing, {}, {}, {}, built.state())
    artifact.write(folder, replace(plain, calibration=calibration))


def onnx_of(artifact: Path) -> bytes:
    """The classifier of `write_artifact` as the file that an optimisation has."""
    return export.to_onnx(
        in_torch.whole(Files(artifact)),
        torch.zeros(1, 64, 64, 3),
        inputs=[in_onnx.INPUT],
        outputs=list(in_onnx.OUTPUTS),
        dynamic={name: {0: "n"} for name in (in_onnx.INPUT, *in_onnx.OUTPUTS)},
    )


def job_of(dataset_id: str, *, kind: str, queue: str, state: str, job_id: str | None = None) -> Job:
    """A row in the first attempt of one."""
    return Job(
        id=job_id or new_id("job"),
        kind=kind,
        queue=queue,
        state=state,
        dataset_id=dataset_id,
        spec={},
        attempt=1,
        max_attempts=1,
        last_event=0,
        created_at=utc_now(),
    )


def register_version(
    database: Database,
    version_id: str,
    dataset_id: str,
    *,
    labels: Sequence[str],
    backbone: str = "tinynet",
    provenance: Mapping[str, object] | None = None,
    model: str = "insects",
) -> None:
    """The next version of `model`, its first one as a rule, and the job that made it, ended well."""
    job = job_of(dataset_id, kind="train", queue="gpu", state="succeeded")
    with database.write() as session:
        session.add(job)
        session.flush()
        wanted = NewModelVersion(
            version_id=version_id,
            model_name=model,
            job_id=job.id,
            dataset_id=dataset_id,
            dataset_version=1,
            backbone=backbone,
            strategy="full",
            labels=tuple(labels),
            evaluation={},
            provenance=provenance or {},
        )
        models.register(session, wanted, now=job.created_at)


SMALL = "timm:test_resnet"
"""A network of timm with five stages and half a million values, for which weights are published."""


def unreadable(parent: Path) -> Path:
    """A folder that the system refuses to read, also to one who may read all: its name is too long."""
    return parent / ("x" * 300)


def write_weights(folder: Path, backbone: str = SMALL, *, named: str = "") -> str:
    """A weights file of drawn values in `folder`, named as an operator would, maybe as the weights called `named`; its
    sha256."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = networks.make(catalogue.find(backbone), auxiliary=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "drawn.pth"
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.rename(folder / f"{backbone.replace(':', '-')}{named and f'.{named}'}-{digest[:8]}.pth")
    return digest
