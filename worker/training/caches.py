"""What a training keeps on the disk to be quicker: no more than it may, nor than there is room for besides its
checkpoints, and no longer than it lasts."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from app import room
from app.backbones.classifier import Classifier
from app.descent import Descent
from app.plan import Plan
from worker.training import checkpoint, keptfeed, learner, precision
from worker.training import feed as feeds
from worker.training.events import Emit, ImagesNotKept, NotKept, ViewsLimited
from worker.training.feed import Feed, ImageFeed

_IMAGES = "images"


@dataclass(frozen=True)
class Caches:
    """The caches of a training of `network` by `plan`, which has a `folder` of its own for these and for its
    checkpoints."""

    network: Classifier
    plan: Plan
    folder: Path
    max_bytes: int
    emit: Emit

    def activations(self, images: ImageFeed) -> Feed:
        """What the frozen stages make of `images`, if there is room for that, else the images themselves."""
        plan = self.plan
        assert plan.freeze is not None
        if not self.network.walk.can_enter:
            self.emit(NotKept(reason="the network cannot be entered between stages"))
            return self.decoded(images)
        values = feeds.values_behind(self.network, plan.freeze)
        count = len(images.splits.train) + len(images.splits.validation)
        views = room.views_that_fit(plan.views, values=values, images=count, max_bytes=self._room)
        if views == 0:
            self.emit(NotKept(reason=self._why_none(2 * values * count)))
            return self.decoded(images)
        if views < plan.views:
            self.emit(ViewsLimited(views=views, wanted=plan.views))
        half = precision.is_half(self._descent.precision, images.device, self.emit)
        try:
            return feeds.activations(
                images, self.network, plan.freeze, views=views, half=half, folder=self.folder, emit=self.emit
            )
        except OSError as error:
            self.emit(NotKept(reason=str(error)))
            return self.decoded(images)

    def decoded(self, images: ImageFeed) -> ImageFeed:
        """`images`, each decoded once where a GPU would wait for them and there is room to keep them."""
        if images.device.type != "cuda":
            return images
        size = keptfeed.kept_bytes(images.splits, images.preprocessing)
        if size > self._room:
            self.emit(ImagesNotKept(reason=self._why_none(size)))
            return images
        discard(self.folder)
        try:
            return keptfeed.kept(images, folder=self.folder / _IMAGES)
        except OSError as error:
            discard(self.folder)
            self.emit(ImagesNotKept(reason=str(error)))
            return images

    @property
    def _descent(self) -> Descent:
        assert self.plan.descent is not None
        return self.plan.descent

    @property
    def _room(self) -> int:
        """Bytes that may be kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state, values = learner.sizes(self.network, self._descent)
        # What an earlier attempt has left is among what checkpoints take, so that all attempts have the same room.
        free = shutil.disk_usage(self.folder).free + checkpoint.bytes_in(self.folder)
        return max(0, min(self.max_bytes, free - checkpoint.most_bytes(state=state, values=values)))

    def _why_none(self, size: int) -> str:
        return "no room" if size > self.max_bytes else "the disk has room for the checkpoints, and no more"


def discard(folder: Path) -> None:
    """Remove what trainings in `folder`, or in folders of it, have kept besides checkpoints."""
    # Activations have no name, and go with the process.
    for path, folders, _ in os.walk(folder):  # which does not mind what another process removes meanwhile
        if _IMAGES in folders:
            folders.remove(_IMAGES)
            shutil.rmtree(Path(path, _IMAGES), ignore_errors=True)
