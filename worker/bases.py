"""The model version that a training starts from, and the images that it was made from, as they lie on disk."""

from app import errors
from app.models import artifact
from app.warmstart import WarmStart
from worker.splits import splits_of
from worker.training.data import Splits
from worker.training.warm import Base
from worker.works import BaseWork


def read(work: BaseWork, start: WarmStart) -> Base:
    """The base of `start`. Raises `Unavailable` where it is not what it was, or its images are wanted and gone."""
    try:
        found = artifact.read(work.artifact)
    except errors.Unavailable as error:
        raise errors.Unavailable(
            f"{start.base}, which the training starts from, cannot be read: {error.message}", code="base_unavailable"
        ) from error
    splits = _splits(work)
    if splits is None and start.replay:
        raise errors.Unavailable(
            f"the images that {start.base} was made from are to be trained on besides, and are gone",
            code="base_images_gone",
        )
    learned = found.provenance.get("learned") or {}
    return Base(found.labels, found.preprocessing, found.state, found.outlet, splits, learned)


def _splits(work: BaseWork) -> Splits | None:
    # Its data set may have been deleted since the job was prepared.
    return None if work.table is None or not work.table.exists() else splits_of(work.table, work.tag)
