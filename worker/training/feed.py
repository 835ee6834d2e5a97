"""Where the batches of a training come from: image files, or activations that a frozen part of the network has given.

With a frozen part an epoch costs only the layers that train: what comes out of the frozen ones is computed once for
each view of an image, and kept in half precision in files that are mapped into memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.augmentation import Augmentation
from app.backbones import classifier as classifiers
from app.backbones import crops
from app.backbones.classifier import Classifier, InferenceForm, Outputs
from app.backbones.preprocess import Pixels, Preprocessing
from worker.training import augment, data, evaluate, features, table, transfer
from worker.training.data import Images, Splits
from worker.training.evaluate import Gathered
from worker.training.events import Emit, FeaturesNotKept, Progress
from worker.training.runtime import Frozen
from worker.training.table import Rows

Batch = transfer.Batch
"""What a network takes, and targets as the loss takes them."""

_LARGEST_HALF = 65504
_BYTES_AT_ONCE = 8 * 2**20
"""Of activations on a CPU, where several batches of them wait to be written."""
_MIXING = 1
"""Sets the random numbers for a batch apart from those for its first image."""


class Feed(Protocol):
    """The training and validation images of a training, as its network takes them."""

    def batches(self, epoch: int, order: NDArray[np.int64], parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """A batch for each of `parts`, which are places in `order`, the training images' positions in this epoch."""

    def elsewhere(self, device: torch.device) -> "Feed | None":
        """The same for another process and its device; None where it stays with this one."""

    def forward(self, network: Classifier, inputs: Tensor) -> Outputs:
        """What `network` gives for the inputs of a batch."""

    def features(self, network: Classifier, *, folder: Path, emit: Emit) -> Rows:
        """What the head of `network` gets for each training image, seen as in serving, `(N, D)`, in `folder` as long as
        anyone has it, or in memory where the disk has no room."""

    def probabilities(self, network: Classifier, emit: Emit) -> NDArray[np.float64]:
        """What `network` gives for each validation image `(N, K)`."""


@dataclass(frozen=True)
class ImageFeed:
    """Image files, decoded and changed anew in every epoch."""

    splits: Splits
    preprocessing: Preprocessing
    augmentation: Augmentation
    seed: int
    max_pixels: int
    device: torch.device

    def batches(self, epoch: int, order: NDArray[np.int64], parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Raises `BadImage`."""
        ordered = _Ordered(self.splits.train, order)
        pixels = data.batches(ordered, parts, self.view(epoch), threads=torch.get_num_threads())

        def made(source: tuple[Tensor, Sequence[int]]) -> list[Batch]:
            batch, part = source
            return [self.mixed(transfer.send(batch, self.device), order, part, epoch)]

        return transfer.ahead(zip(pixels, parts, strict=True), made, self.device)

    def mixed(self, images: Tensor, order: NDArray[np.int64], part: Sequence[int], epoch: int) -> Batch:
        """`images (N, 3, H, W) uint8` on the device with their targets, mixed as wanted, as the batch of `part`."""
        labels = transfer.send_array(self.splits.train.targets[order[list(part)]], self.device)
        rng = np.random.default_rng([self.seed, epoch, part[0], _MIXING])
        return augment.mix(images, labels, self.augmentation, classes=len(self.splits.labels), rng=rng)

    def elsewhere(self, device: torch.device) -> "ImageFeed":
        return replace(self, device=device)

    def forward(self, network: Classifier, inputs: Tensor) -> Outputs:
        outputs: Outputs = network(inputs)
        return outputs

    def features(self, network: Classifier, *, folder: Path, emit: Emit) -> Rows:
        """Raises `BadImage`."""
        form = classifiers.inference_form(network).to(self.device)
        parts = data.parts_of(len(self.splits.train), features.batch_size(self.device))
        batches = data.batches(self.splits.train, parts, self.plain(), threads=torch.get_num_threads())
        passed = (
            found for batch in batches for found in transfer.in_pieces(form.features, transfer.send(batch, self.device))
        )
        return _gathered(passed, len(self.splits.train), folder, emit)

    def probabilities(self, network: Classifier, emit: Emit) -> NDArray[np.float64]:
        """Raises `BadImage`."""
        return evaluate.predict(
            classifiers.inference_form(network),
            self.splits.validation,
            self.preprocessing,
            max_pixels=self.max_pixels,
            phase="validate",
            emit=emit,
            device=self.device,
        )

    def plain(self) -> Callable[[int, bytes], Pixels]:
        """How an image file becomes the pixels that serving makes of it."""

        def unchanged(_place: int, file: bytes) -> Pixels:
            return crops.load(file, self.preprocessing, max_pixels=self.max_pixels)

        return unchanged

    def view(self, epoch: int) -> Callable[[int, bytes], Pixels]:
        """How the image file at a place of this epoch becomes pixels."""

        def changed(place: int, file: bytes) -> Pixels:
            image = crops.decode(file, max_pixels=self.max_pixels, target=self.preprocessing.resize)
            rng = np.random.default_rng([self.seed, epoch, place])
            if self.augmentation.policy == "none":
                pixels = crops.centre_crop(image, self.preprocessing)
            else:
                pixels = crops.random_crop(image, self.preprocessing, rng)
            return augment.view(pixels, self.augmentation, rng)

        return changed


@dataclass(frozen=True)
class ActivationFeed:
    """Activations behind a stage: `train (V, N, …) float16` for V views of each image, `validation (N, …) float16`."""

    splits: Splits
    stage: str
    train: NDArray[np.float16]
    validation: NDArray[np.float16]
    device: torch.device

    def batches(self, epoch: int, order: NDArray[np.int64], parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Each epoch has the next view of every image."""
        views = self.train[(epoch - 1) % len(self.train)]
        targets = self.splits.train.targets

        def read(part: Sequence[int]) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
            positions = order[list(part)]
            return views[positions], targets[positions]

        def sent(batch: tuple[NDArray[np.float16], NDArray[np.int64]]) -> list[Batch]:
            return [(self._input(batch[0]), transfer.send_array(batch[1], self.device))]

        return transfer.ahead(map(read, parts), sent, self.device)

    def elsewhere(self, device: torch.device) -> None:
        # What is left to compute is little, and sending the activations around would take longer.
        return None

    def forward(self, network: Classifier, inputs: Tensor) -> Outputs:
        return network.onward(inputs, self.stage)

    def features(self, network: Classifier, *, folder: Path, emit: Emit) -> Rows:
        network.eval().to(self.device)
        parts = data.parts_of(len(self.splits.train), features.batch_size(self.device))

        def behind(values: Tensor) -> Tensor:
            return network.walk.onward(network.body, values, self.stage, auxiliary=False).features

        inputs = (self._input(self.train[0, part.start : part.stop]) for part in parts)
        passed = (found for batch in inputs for found in transfer.in_pieces(behind, batch))
        return _gathered(passed, len(self.splits.train), folder, emit)

    def probabilities(self, network: Classifier, emit: Emit) -> NDArray[np.float64]:
        was_training = network.training
        network.eval()
        count = len(self.validation)
        found = Gathered(count)
        with torch.inference_mode():
            for part in data.parts_of(count, features.batch_size(self.device)):
                inputs = self._input(self.validation[part.start : part.stop])
                pieces = transfer.in_pieces(lambda values: network.onward(values, self.stage).logits, inputs)
                for logits in pieces:
                    found.add(logits.double().softmax(dim=1).cpu().numpy())
                emit(Progress("validate", part.stop, count))
        network.train(was_training)
        return found.rows

    def _input(self, values: NDArray[np.float16]) -> Tensor:
        tensor = transfer.send_array(values, self.device).float()
        return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def activations(
    images: ImageFeed, network: Classifier, stage: str, *, views: int, half: bool, folder: Path, emit: Emit
) -> ActivationFeed:
    """The feed of what `network` makes of `images` up to `stage`, in files of `folder` that go with the feed.

    The first view of an image is what serving sees; the others are changed as the training images are to be. With
    `half`, those of the training images are computed in bf16, as in a training of all layers. Raises `OSError` where
    the disk has no room, and `BadImage`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits, plain = images.splits, images.plain()
    form = classifiers.inference_form(network).to(images.device)
    total = views * len(splits.train) + len(splits.validation)
    frozen = Frozen(_UpTo(form, stage), images.preprocessing.crop, images=total, device=images.device, rounds=True)
    at_once = features.batch_size(images.device)
    if images.device.type == "cpu":
        at_once = max(1, min(at_once, _BYTES_AT_ONCE // (4 * values_behind(network, stage))))
    store = _Store(frozen, at_once, folder, emit, total=total)
    changed = [plain, *(images.view(number) for number in range(1, views))]
    return ActivationFeed(
        splits=splits,
        stage=stage,
        train=store.write(splits.train, changed, half=half),
        validation=store.write(splits.validation, [plain], half=False)[0],
        device=images.device,
    )


class _Store:
    """Passes images through the frozen part of a network and keeps what comes out."""

    def __init__(self, frozen: Frozen, at_once: int, folder: Path, emit: Emit, *, total: int) -> None:
        self._frozen = frozen
        self._at_once = at_once
        self._folder = folder
        self._emit = emit
        self._done = 0
        self._total = total

    def write(
        self, images: Images, views: Sequence[Callable[[int, bytes], Pixels]], *, half: bool
    ) -> NDArray[np.float16]:
        """What comes out for each view of each image `(V, N, …)`, in a file that is mapped into memory."""
        kept: NDArray[np.float16] | None = None
        for number, view in enumerate(views):
            start = 0
            for values in self._passed(images, view, half=half):
                if kept is None:
                    kept = table.nameless(self._folder, (len(views), len(images), *values.shape[1:]), np.float16)
                kept[number, start : start + len(values)] = values
                start += len(values)
                self._done += len(values)
                self._emit(Progress("activations", self._done, self._total))
        assert kept is not None
        kept.flags.writeable = False
        return kept

    def _passed(
        self, images: Images, view: Callable[[int, bytes], Pixels], *, half: bool
    ) -> Iterator[NDArray[np.float16]]:
        parts = data.parts_of(len(images), self._at_once)
        batches = data.batches(images, parts, view, threads=torch.get_num_threads())
        for (values,) in self._frozen.outputs(batches, half=half):
            # Beyond the range of half precision a value would be infinite.
            yield values.float().clamp(-_LARGEST_HALF, _LARGEST_HALF).half().cpu().numpy()


class _UpTo(nn.Module):
    """The part of a network that ends with `stage`; of `form`, which is of no use afterwards, it keeps no more."""

    def __init__(self, form: InferenceForm, stage: str) -> None:
        super().__init__()
        self.normalisation = form.normalisation
        self.body = form.body
        self.walk = form.walk.cut(form.body, stage)
        self.stage = stage

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.walk.activations(self.body, self.normalisation(images), self.stage),)


def _gathered(batches: Iterable[Tensor], count: int, folder: Path, emit: Emit) -> Rows:
    """`batches` of features, of `count` images in all, as a table in `folder` where there is room."""
    found: NDArray[np.float32] | None = None
    start = 0
    with torch.inference_mode():
        for batch in batches:
            if found is None:
                found = _table(folder, (count, batch.shape[1]), emit)
            found[start : start + len(batch)] = batch.float().cpu().numpy()
            start += len(batch)
            emit(Progress("features", start, count))
    assert found is not None
    return found


def _table(folder: Path, shape: tuple[int, int], emit: Emit) -> NDArray[np.float32]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return table.nameless(folder, shape, np.float32)
    except OSError as error:
        emit(FeaturesNotKept(reason=str(error)))
        return np.empty(shape, np.float32)


def values_behind(classifier: Classifier, stage: str) -> int:
    """How many activations one image has behind `stage`."""
    crop = classifier.preprocessing.crop
    with torch.inference_mode():
        image = torch.zeros(1, 3, crop, crop, dtype=torch.uint8)
        return classifier.eval().activations(image, stage).numel()


@dataclass(frozen=True)
class _Ordered:
    """The training images in the order of an epoch."""

    images: Images
    order: NDArray[np.int64]

    def read(self, places: Sequence[int]) -> list[bytes]:
        return self.images.read(self.order[list(places)].tolist())


def cut(batches: list[Batch], pieces: int, *, fewest: Sequence[int]) -> list[Batch]:
    """Each batch in so many pieces, or in fewer, for BatchNorm wants two images of each: the same number for all peers,
    that of the one with the `fewest` images of it."""
    found: list[Batch] = []
    for (images, targets), least in zip(batches, fewest, strict=True):
        count = max(1, min(pieces, least // 2))
        found += zip(images.tensor_split(count), targets.tensor_split(count), strict=True)
    return found
