"""Where a training stands, on disk: tensors as safetensors and a small JSON file that says which of them count.

The JSON file is written last and in one step, so a training that ends at any moment leaves the state before or after,
never a mixture.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

_INDEX = "checkpoint.json"
_TRIES = 5


@dataclass(frozen=True)
class Best:
    """The epoch (from 1) that did best on the validation images so far."""

    epoch: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next epoch depends on, after `epoch` epochs.

    Random numbers are not among it: those of an epoch follow from the seed and its number.
    """

    epoch: int
    best: Best
    network: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]
    """The optimizer's buffers, by the names of the parameters."""


def save(folder: Path, checkpoint: Checkpoint, *, fingerprint: str) -> None:
    """Make `checkpoint` the state of `folder`; where its epoch is the best one, its network is kept as the best."""
    folder.mkdir(parents=True, exist_ok=True)
    last, best = _last(checkpoint.epoch), _best(checkpoint.best.epoch)
    tensors = {f"network.{name}": value for name, value in checkpoint.network.items()}
    tensors |= {f"momentum.{name}": value for name, value in checkpoint.momentum.items()}
    _write_tensors(folder / last, tensors)
    if checkpoint.best.epoch == checkpoint.epoch:
        _write_tensors(folder / best, checkpoint.network)
    index = {"fingerprint": fingerprint, "epoch": checkpoint.epoch, "best": asdict(checkpoint.best)}
    _write(folder / _INDEX, json.dumps(index).encode())
    for path in folder.glob("*.safetensors*"):
        if path.name not in (last, best):
            path.unlink()


def take_over(folder: Path, others: Iterable[Path]) -> None:
    """Make the furthest state among `others` that of the new folder `folder`, too; nothing where they have none.

    Whoever wrote them may still be at it, so their files may go while this looks at them, but never change.
    """
    for other in sorted(others, key=_epoch, reverse=True):
        for _ in range(_TRIES):
            try:
                _link(other, folder)
            except FileNotFoundError:
                continue  # a newer state took the place of the one that was read about
            except (OSError, ValueError, KeyError):
                break
            return


def load(folder: Path, *, fingerprint: str) -> Checkpoint | None:
    """The state of `folder`; None where there is none, it is damaged, or it is that of another training."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        if index["fingerprint"] != fingerprint:
            return None
        tensors = safetensors.torch.load_file(folder / _last(index["epoch"]))
        best = Best(**index["best"])
        # Of no use now, but without it the training could not be finished.
        with safetensors.safe_open(folder / _best(best.epoch), framework="pt"):
            pass
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    return Checkpoint(index["epoch"], best, _under("network.", tensors), _under("momentum.", tensors))


def load_best(folder: Path, best: Best) -> dict[str, Tensor]:
    """The network's values after the best epoch."""
    return safetensors.torch.load_file(folder / _best(best.epoch))


def _epoch(folder: Path) -> int:
    try:
        return int(json.loads((folder / _INDEX).read_bytes())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _link(source: Path, folder: Path) -> None:
    index = (source / _INDEX).read_bytes()
    state = json.loads(index)
    folder.mkdir(parents=True, exist_ok=True)
    for name in {_last(state["epoch"]), _best(state["best"]["epoch"])}:
        (folder / name).unlink(missing_ok=True)
        os.link(source / name, folder / name)
    _write(folder / _INDEX, index)


def _last(epoch: int) -> str:
    return f"last-{epoch:04}.safetensors"


def _best(epoch: int) -> str:
    return f"best-{epoch:04}.safetensors"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    _write(path, safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()}))


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
