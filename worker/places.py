"""Where the networks and features that a job works with are found, and how large its images may be."""

from dataclasses import dataclass
from pathlib import Path

from app import errors
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.settings import Settings
from app.storage import Storage


@dataclass(frozen=True)
class Places:
    """Where weights are looked for and features are kept."""

    feature_cache: Path
    weights_dir: Path | None
    download_weights: bool
    max_image_pixels: int

    def obtain(self, backbone: Backbone, choice: str) -> WeightsFile:
        """The weights of `backbone` called `choice`. Raises as `weights.obtain`."""
        return weights.obtain(
            backbone,
            choice=choice,
            weights_dir=self.weights_dir,
            cache_dir=weights.default_cache_dir(),
            download=self.download_weights,
        )

    def obtain_chosen(self, backbone: Backbone, choice: str) -> WeightsFile:
        """As `obtain`, for whoever may choose another backbone instead: `WeightsUnavailable` names those at hand."""
        try:
            return self.obtain(backbone, choice)
        except errors.WeightsUnavailable as error:
            error.add_at_hand(self.weights_at_hand())
            raise

    def weights_at_hand(self) -> dict[str, str]:
        """By the name of each backbone of the catalogue whose first weights are on this machine, what
        `weights.identify` tells of their file."""
        found = {
            entry.name: weights.identify(
                entry,
                entry.weights[0],
                weights_dir=self.weights_dir,
                cache_dir=weights.default_cache_dir(),
                hub_cache_dir=weights.default_hub_cache_dir(),
            )
            for entry in catalogue.backbones().values()
            if entry.weights
        }
        return {name: file for name, file in found.items() if file is not None}


def of(settings: Settings, files: Storage) -> Places:
    """Those of this machine."""
    return Places(
        feature_cache=files.features(),
        weights_dir=settings.weights_dir,
        download_weights=settings.download_weights,
        max_image_pixels=settings.max_image_pixels,
    )
