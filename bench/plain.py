"""The training loop that a tutorial writes: torchvision's network and transforms, a `DataLoader`, every layer computed
anew in every epoch. What `bench.training` compares with."""

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import models
from torchvision.transforms import v2

from app.backbones import classifier as classifiers
from app.backbones.preprocess import Preprocessing
from app.backbones.weights import WeightsFile
from app.descent import Descent
from bench.photos import Photos
from worker.training import schedule

_WORKERS = 2


@dataclass(frozen=True)
class Epoch:
    """What an epoch took, validation aside, and the accuracy on the validation images behind it, 0-1."""

    seconds: float
    accuracy: float


class _Opened(Dataset[tuple[Tensor, int]]):
    def __init__(self, photos: Photos, transform: Any) -> None:
        self._photos = photos
        self._transform = transform

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        image = Image.open(io.BytesIO(self._photos.files[place])).convert("RGB")
        return self._transform(image), int(self._photos.targets[place])


def network(name: str, file: WeightsFile, *, classes: int, frozen: Sequence[str]) -> nn.Module:
    """torchvision's network with a new last layer; the modules named in `frozen` do not learn."""
    made: nn.Module = models.get_model(name, num_classes=classes)
    own = made.state_dict()
    state = {key: value for key, value in classifiers.read_state(file.path).items() if key in own}
    made.load_state_dict({**own, **{key: value for key, value in state.items() if value.shape == own[key].shape}})
    for module in frozen:
        made.get_submodule(module).requires_grad_(requires_grad=False)
    return made


def train(
    network: nn.Module, train: Photos, validation: Photos, preprocessing: Preprocessing, descent: Descent
) -> Iterator[Epoch]:
    """Train as `descent` says, in full precision, one `Epoch` after the other."""
    learning, judged = _loaders(train, validation, preprocessing, descent.batch_size)
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        learnt, lr=descent.learning_rate, momentum=0.9, nesterov=True, weight_decay=descent.weight_decay
    )
    steps, done = descent.epochs * len(learning), 0
    warm_up = schedule.warm_up_steps(steps, steps_per_epoch=len(learning))
    for _ in range(descent.epochs):
        started = time.perf_counter()
        network.train()
        for images, targets in learning:
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate(done, steps=steps, warm_up=warm_up, peak=descent.learning_rate)
            optimizer.zero_grad()
            functional.cross_entropy(network(images), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
        seconds = time.perf_counter() - started
        yield Epoch(seconds, _accuracy(network, judged))


def _loaders(
    train: Photos, validation: Photos, preprocessing: Preprocessing, batch_size: int
) -> tuple[DataLoader[tuple[Tensor, int]], DataLoader[tuple[Tensor, int]]]:
    scaled = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=list(preprocessing.mean), std=list(preprocessing.std)),
    ]
    changed = v2.Compose([v2.RandomResizedCrop(preprocessing.crop), v2.RandomHorizontalFlip(), *scaled])
    plain = v2.Compose([v2.Resize(preprocessing.resize), v2.CenterCrop(preprocessing.crop), *scaled])
    return (
        # A last batch of a single image would stop BatchNorm.
        DataLoader(
            _Opened(train, changed),
            batch_size,
            shuffle=True,
            num_workers=_WORKERS,
            drop_last=len(train) % batch_size == 1,
        ),
        DataLoader(_Opened(validation, plain), batch_size, num_workers=_WORKERS),
    )


def _accuracy(network: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    network.eval()
    right = count = 0
    with torch.inference_mode():
        for images, targets in loader:
            right += int((network(images).argmax(dim=1) == targets).sum())
            count += len(targets)
    return right / count
