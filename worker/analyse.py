"""The work of an analysis: a version measured with a backbone, ending in a profile."""

from pathlib import Path

import torch

from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.profile import Profile
from worker.splits import splits_of
from worker.training import profile
from worker.training.data import Splits
from worker.training.events import Emit
from worker.works import AnalyseWork

_SEED = 0
"""The same for all, so that profiles can be compared with one another."""


def analyse(work: AnalyseWork, emit: Emit) -> Profile:
    """Carry out `work`. Raises `WeightsUnavailable`, `Invalid` where there are too few images, and `BadImage`."""
    backbone = catalogue.find(work.backbone)
    places = work.places
    file = places.obtain_chosen(backbone, work.weights)
    splits = splits_of(work.table, work.tag)
    return measure(
        splits, backbone, file, feature_cache=places.feature_cache, max_pixels=places.max_image_pixels, emit=emit
    )


def measure(
    splits: Splits, backbone: Backbone, file: WeightsFile, *, feature_cache: Path, max_pixels: int, emit: Emit
) -> Profile:
    """The profile of `splits` on this machine. Raises `Invalid` where there are too few images, and `BadImage`."""
    return profile.measure(
        splits,
        backbone=backbone,
        weights=file,
        feature_cache=feature_cache,
        max_pixels=max_pixels,
        seed=_SEED,
        emit=emit,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
