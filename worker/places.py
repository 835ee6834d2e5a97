"""Where the networks and features that a job works with are found, and how large its images may be."""

from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from app.storage import Storage


@dataclass(frozen=True)
class Places:
    """Where weights are looked for and features are kept."""

    feature_cache: Path
    weights_dir: Path | None
    download_weights: bool
    max_image_pixels: int


def of(settings: Settings, files: Storage) -> Places:
    """Those of this machine."""
    return Places(
        feature_cache=files.features(),
        weights_dir=settings.weights_dir,
        download_weights=settings.download_weights,
        max_image_pixels=settings.max_image_pixels,
    )
