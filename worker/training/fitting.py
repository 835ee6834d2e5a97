"""What a training of a whole network goes by, for the process that leads it and for those that share it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from app.backbones.classifier import Classifier
from app.descent import Descent
from worker.training.data import Splits
from worker.training.events import Emit, Event
from worker.training.feed import Feed


@dataclass(frozen=True)
class Fitting:
    """What stays the same from the first step to the last."""

    splits: Splits
    feed: Feed
    descent: Descent
    seed: int
    workdir: Path
    fingerprint: str
    """Of all that the result depends on; checkpoints of another training are not gone on with."""
    device: torch.device
    emit: Emit
    start_counts: bool = False
    """Whether the network before the first step may be what is kept, as it has been fitted already."""
    others: tuple[torch.device, ...] = ()
    """Devices besides `device`, of its type, that are to share the work."""
    pieces: int = 1
    """In how many each batch, or each share of it, is cut from the first step on, for want of memory; a GPU's is not
    meant."""


def shared(network: Classifier, fitting: Fitting) -> list[tuple[torch.device, tuple[Classifier, Fitting]]]:
    """What each further process is given; of so many that each has two images of a batch, as BatchNorm needs."""
    count = min(fitting.descent.batch_size, len(fitting.splits.train)) // 2
    works = []
    for device in fitting.others[: max(0, count - 1)]:
        feed = fitting.feed.elsewhere(device)
        if feed is not None:
            works.append((device, (network, replace(fitting, feed=feed, device=device, emit=_say_nothing, others=()))))
    return works


def _say_nothing(_event: Event) -> None:
    pass
