"""Where the networks and features that a job works with are found, and how large its images may be."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Where weights are looked for and features are kept."""

    feature_cache: Path
    weights_dir: Path | None
    download_weights: bool
    max_image_pixels: int
