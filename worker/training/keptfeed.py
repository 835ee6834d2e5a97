"""Batches of images that a GPU changes itself: quicker than the processor can decode them, it has each one decoded once
and kept in files that are mapped into memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import room
from app.backbones import classifier as classifiers
from app.backbones import crops
from app.backbones.classifier import Classifier
from app.backbones.preprocess import Pixels, Preprocessing
from app.runtimes import memory
from worker.training import batchviews, data, features, transfer
from worker.training.data import Splits
from worker.training.events import Emit, Progress
from worker.training.feed import Batch, ImageFeed
from worker.training.pixels import Decoded

Source = TypeVar("Source")
Result = TypeVar("Result")

_CHANGED_AT_ONCE = 256


@dataclass(frozen=True)
class _Taken:
    """The kept pixels of a batch, not changed yet."""

    pixels: Tensor
    ratios: NDArray[np.float32]
    part: Sequence[int]


@dataclass(frozen=True)
class KeptFeed(ImageFeed):
    """Image files, each decoded once and kept; changed anew in every epoch by the device itself."""

    train: Decoded
    """Whole, in more pixels than the network sees."""
    validation: Decoded
    """As serving sees them."""

    def batches(self, epoch: int, order: NDArray[np.int64], parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Raises `BadImage`."""

        def taken(part: Sequence[int]) -> _Taken:
            return _Taken(*self.train.take(order[list(part)].tolist(), self.device), part)

        @memory.told_alike()
        def changed(sources: list[_Taken]) -> list[Batch]:
            pixels = [transfer.send(taken.pixels, self.device) for taken in sources]
            images = batchviews.views(
                torch.cat(pixels),
                np.concatenate([taken.ratios for taken in sources]),
                np.concatenate([batchviews.draw(self.seed, epoch, taken.part) for taken in sources]),
                wanted=self.augmentation,
                preprocessing=self.preprocessing,
            )
            batches = torch.split(images, [len(taken.part) for taken in sources])
            return [self.mixed(batch, order, taken.part, epoch) for batch, taken in zip(batches, sources, strict=True)]

        def that_fit(sources: list[_Taken]) -> list[Batch]:
            try:
                return changed(sources)
            except torch.OutOfMemoryError:
                if len(sources) < 2:
                    raise
            # Not above, where the error still holds what was computed.
            torch.cuda.empty_cache()
            return [batch for source in sources for batch in changed([source])]

        return transfer.ahead(_together(_prefetched(parts, taken)), that_fit, self.device)

    def probabilities(self, network: Classifier, emit: Emit) -> NDArray[np.float64]:
        """Raises `BadImage`."""
        form = classifiers.inference_form(network)
        found: list[Tensor] = []
        count = self.validation.count
        parts = data.parts_of(count, features.batch_size(self.device))
        taken = _prefetched(parts, lambda part: self.validation.take(part, self.device)[0])
        with torch.inference_mode():
            for part, pixels in zip(parts, taken, strict=True):
                images = transfer.send(pixels, self.device).permute(0, 3, 1, 2)
                found += [logits.double().softmax(dim=1) for logits in transfer.in_pieces(form, images)]
                emit(Progress("validate", part.stop, count))
            return torch.cat(found).cpu().numpy()


def kept(images: ImageFeed, *, folder: Path) -> KeptFeed:
    """`images` with files in the new folder `folder`, where they are kept once they are decoded. Raises `OSError` where
    the disk has no room."""
    folder.mkdir(parents=True)
    preprocessing, max_pixels, splits = images.preprocessing, images.max_pixels, images.splits
    whole = partial(_whole, preprocessing=preprocessing, max_pixels=max_pixels)
    plain = partial(_plain, preprocessing=preprocessing, max_pixels=max_pixels)
    sides = _sides(preprocessing)
    train = Decoded(splits.train, len(splits.train), sides[0], whole, folder / "train.npy")
    validation = Decoded(splits.validation, len(splits.validation), sides[1], plain, folder / "validation.npy")
    for decoded in (train, validation):
        decoded.create()
    return KeptFeed(**vars(images), train=train, validation=validation)


def kept_bytes(splits: Splits, preprocessing: Preprocessing) -> int:
    """The size of the files that `kept` makes."""
    counts = len(splits.train), len(splits.validation)
    return sum(room.decoded_bytes(count, side) for count, side in zip(counts, _sides(preprocessing), strict=True))


def _sides(preprocessing: Preprocessing) -> tuple[int, int]:
    """Pixels of a kept training image, and of a validation image."""
    return room.kept_side(preprocessing.resize), preprocessing.crop


def _whole(file: bytes, preprocessing: Preprocessing, max_pixels: int) -> tuple[Pixels, float]:
    image = crops.decode(file, max_pixels=max_pixels, target=preprocessing.resize)
    side, _ = _sides(preprocessing)
    width, height = crops.size_of(image)
    return crops.squeezed(image, side, preprocessing.interpolation), width / height


def _plain(file: bytes, preprocessing: Preprocessing, max_pixels: int) -> tuple[Pixels, float]:
    return crops.load(file, preprocessing, max_pixels=max_pixels), 1.0


def _prefetched(parts: Iterable[Source], work: Callable[[Source], Result]) -> Iterator[Result]:
    threads = torch.get_num_threads()
    return data.prefetched(parts, work, threads=threads, window=threads + 1)


def _together(batches: Iterator[_Taken]) -> Iterator[list[_Taken]]:
    """Some at a time: to change few images takes a GPU, or whoever tells it what to do, as long as to change many."""
    group: list[_Taken] = []
    for batch in batches:
        group.append(batch)
        if sum(len(one.part) for one in group) >= _CHANGED_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
