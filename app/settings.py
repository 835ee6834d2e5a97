"""Settings of one process, read once at its entry point from `GRAFT_*` variables and passed on as a value."""

import logging
import sys
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

_MIB = 1024 * 1024
_PREFIX = "GRAFT_"
_WRONG_SETTINGS = 2
"""Exit code."""


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _log_level(name: str) -> str:
    known = logging.getLevelNamesMapping()
    if name.upper() not in known:
        raise ValueError(f"valid are {', '.join(known)}")
    return name.upper()


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """Every setting with its default; sizes in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, env_ignore_empty=True)

    data_dir: AbsolutePath = Field(default=Path("graft-data"), validate_default=True)
    """Folder for everything Graft keeps but downloaded weights; a shared volume when several machines work together."""
    database_url: str | None = None
    """SQLAlchemy URL; unset means a SQLite file inside `data_dir`."""
    broker_url: str | None = None
    """Redis URL of the Celery broker; unset, `app.server` rings nobody. `graft up` rings a worker of its own."""
    log_level: Annotated[str, AfterValidator(_log_level)] = "INFO"

    weights_dir: AbsolutePath | None = None
    """Folder looked at first for pre-trained weights: files named `<backbone>-<first 8 hex digits of sha256>.pth` or
    `.safetensors`."""
    download_weights: bool = True
    """Whether weights that are neither in `weights_dir` nor in the cache may be downloaded."""

    max_archive_bytes: PositiveInt = 20 * 1024 * _MIB
    max_archive_entries: PositiveInt = 250_000
    """Files and folders in one archive; while it is looked at, each costs 250 bytes of memory, and never over 1,000."""
    max_image_bytes: PositiveInt = 64 * _MIB
    max_image_pixels: PositiveInt = 80_000_000
    """Above a 64-megapixel phone photo, below what decompression bombs need."""
    max_predict_bytes: PositiveInt = 256 * _MIB
    """Largest body of one predict request, all its images together."""
    max_images_per_predict: PositiveInt = 64
    max_json_numbers: PositiveInt = 1_000_000
    """Numbers in the JSON of one predict request: while they are decoded, nothing else goes on in the process. An image
    of 577 pixels a side has as many; tensors behind the JSON know no such limit."""
    max_predict_bytes_in_flight: PositiveInt = 1024 * _MIB
    """Bodies of all predict requests at one moment; those beyond it are asked to come again."""

    max_feature_cache_bytes: PositiveInt = 10 * 1024 * _MIB
    """How much of what networks made of images is kept for later trainings, the least recently used going first."""

    max_activation_bytes: PositiveInt = 8 * 1024 * _MIB
    """How much one training may keep of what frozen layers made of its images; beyond, they are computed again."""

    registry_seconds: Positive = 0.2
    """How often a process that serves models looks whether versions or aliases have changed."""

    optimise_after_training: bool = True
    """Whether all forms of each new model version are measured, so that the fastest is served."""
    optimise_seconds: Positive = 1.0
    """For how long an optimisation times each form on all cores, and at the most image by image."""
    runtime: str = "auto"
    """Which of the forms that a version was built in this process runs, whatever was measured: torch, torch-winograd,
    torch-compiled, onnxruntime, openvino, tensorrt; `auto` leaves it to what was measured and pinned. Versions without
    such a form run in torch in fp32."""
    precision: str = "auto"
    """... and in which precision: fp32, bf16, fp16, int8."""

    lease_seconds: Positive = 30.0
    heartbeat_seconds: Positive = 2.0
    sweep_seconds: Positive = 10.0
    ring_again_seconds: Positive = 30.0
    """After how long workers are told again of a job that still waits."""
    cancel_grace_seconds: Positive = 10.0
    """How long a job's process may take to stop by itself before it is killed."""
    pause_grace_seconds: Positive = 120.0
    """How long it may take to come to a point where it can pause; then it is killed, and goes on from its last
    checkpoint."""
    silence_seconds: Positive = 1800.0
    """How long a job's process may give no sign of life, neither progress nor event, before it is killed as hung."""
    max_attempts: PositiveInt = 3

    threads: NonNegativeInt = 0
    """Threads for training and for inference, each; 0 means one per core that the process may use: a container's limit
    may leave few."""
    model_memory_bytes: PositiveInt = 2048 * _MIB
    """What the classifiers that the service keeps loaded may take together, the least recently used one going first."""
    predict_timeout_seconds: Positive = 10.0
    """How long a prediction may take where the request does not say (`X-Request-Timeout`); one that could not be
    answered in that time is told so at once."""
    predict_body_seconds: Positive = 60.0
    """How long a predict request, and any JSON, may take to arrive."""
    predict_stall_seconds: Positive = 5.0
    """How long a predict request of which more than a mebibyte is here may bring less than 64 KiB more."""
    request_head_seconds: Positive = 30.0
    """How long a connection may take to bring the head of a request, the first or the next one."""
    max_queued_images: PositiveInt = 1024
    """How many images may wait for one model."""
    batch_size: NonNegativeInt = 0
    """How many images are passed through a network together at most; 0 means what is best by measurement when a model
    is loaded."""
    batch_wait_seconds: NonNegative = 0.002
    """How long a decoded image waits for others to make up a batch, where a device passes one batch at a time."""

    @property
    def sqlalchemy_url(self) -> str:
        """URL of the database, the embedded SQLite file where none is set."""
        return self.database_url or f"sqlite:///{self.data_dir / 'graft.db'}"


def from_environment() -> Settings:
    """The settings of this process. Ends it where variables say what cannot be, with a line for each on standard
    error."""
    try:
        return Settings()
    except ValidationError as error:
        for wrong in error.errors():
            variable = f"{_PREFIX}{str(wrong['loc'][0]).upper()}"
            sys.stderr.write(f"{variable}={wrong['input']}: {wrong['msg'].removeprefix('Value error, ')}\n")
        sys.exit(_WRONG_SETTINGS)
