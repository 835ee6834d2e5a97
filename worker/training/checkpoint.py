"""Where a training stands, on disk: tensors as safetensors and a small JSON file that says which of them count.

The JSON file is written last and in one step, so a training that ends at any moment leaves the state before or after,
never a mixture.
"""

import io
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
from torch import Tensor

logger = logging.getLogger(__name__)

_INDEX = "checkpoint.json"
_TRIES = 5


@dataclass(frozen=True)
class Best:
    """The epoch (from 1; 0 for the network before the first step) whose values are kept besides the last ones, and its
    figures on the validation images."""

    epoch: int
    accuracy: float
    loss: float
    tempered_loss: float

    def beats(self, other: "Best | None") -> bool:
        """Whether it is right more often, or as often and surer."""
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclass(frozen=True)
class Position:
    """How far a training is: `epochs` finished, and `steps` of the next one with this loss, summed over its images."""

    epochs: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next step depends on.

    Random numbers are not among it: those of a step follow from the seed and its place.
    """

    position: Position
    best: Best | None
    tensors: Mapping[str, Tensor]
    """The network's values and whatever else changes from step to step, by name."""
    pieces: int = 1
    """In how many each batch is cut, as the memory has turned out to need."""


def save(folder: Path, checkpoint: Checkpoint, *, fingerprint: str, best: Mapping[str, Tensor] | None = None) -> None:
    """Make `checkpoint` the state of `folder`. `best` are the network's values where its last epoch is the best one
    now; otherwise those of the best one stay. So does the state after the last finished epoch, if it was kept. Raises
    `OSError` where the disk has no room, and the state stays the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    names = _names(checkpoint.position, checkpoint.best)
    index = {
        "fingerprint": fingerprint,
        "position": asdict(checkpoint.position),
        "best": None if checkpoint.best is None else asdict(checkpoint.best),
        "pieces": checkpoint.pieces,
    }
    files = {folder / names[0]: checkpoint.tensors} | ({} if best is None else {folder / names[1]: best})
    new = [path for path in files if not path.exists()]
    try:
        for path, tensors in files.items():
            _write_tensors(path, tensors)
        write(folder / _INDEX, json.dumps(index).encode())
    except OSError:
        for path in new:  # of no use without the others, and in the way of the next state
            path.unlink(missing_ok=True)
        raise
    kept = {*names, _last(checkpoint.position.epochs)}
    for path in folder.glob("*.safetensors*"):
        if path.name not in kept:
            path.unlink()


def copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values that stay as they are, in the memory of this machine."""
    return {name: value.detach().to("cpu", copy=True) for name, value in values.items()}


def most_bytes(*, state: int, values: int) -> int:
    """The room that a folder takes at most, with states of so many bytes and the network's values: the last state, that
    after the last finished epoch and a new one beside them, the best values and new ones."""
    return 3 * state + 2 * values


def bytes_in(folder: Path) -> int:
    """The room that the states in `folder` take now."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def take_over(folder: Path, others: Iterable[Path]) -> None:
    """Make the furthest state among `others` that of the new folder `folder`, too; nothing where they have none.

    Whoever wrote them may still be at it, so their files may go while this looks at them, but never change.
    """
    for other in sorted(others, key=reach, reverse=True):
        for _ in range(_TRIES):
            try:
                _link(other, folder)
            except FileNotFoundError:
                continue  # a newer state took the place of the one that was read about
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("the state of %s cannot be gone on with: %s", other, error)
                break
            return


def hand_on(source: Path, target: Path) -> None:
    """Have the file `source`, which never changes, as `target`, too: without any room for it where the file system has
    links, and as a copy on shares that have none. Raises `FileNotFoundError` where it is gone, and `OSError`."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        with source.open("rb") as file:
            _write(target, file)


def reach(folder: Path) -> tuple[int, int]:
    """How many epochs, and steps of the next one, the state of `folder` has behind it; (-1, 0) where there is none."""
    try:
        position, _ = _read(json.loads((folder / _INDEX).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return -1, 0
    return position.epochs, position.steps


def load(folder: Path, *, fingerprint: str) -> Checkpoint | None:
    """The state of `folder`; None where there is none, it is damaged, or it is that of another training."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        if index["fingerprint"] != fingerprint:
            return None
        position, best = _read(index)
        last, *others = _names(position, best)
        tensors = safetensors.torch.load_file(folder / last)
        for name in others:  # of no use now, but without it the training could not be finished
            with safetensors.safe_open(folder / name, framework="pt"):
                pass
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    return Checkpoint(position, best, tensors, index.get("pieces", 1))  # those of before have none


def load_best(folder: Path, best: Best) -> dict[str, Tensor]:
    """The network's values after the best epoch."""
    return safetensors.torch.load_file(folder / _best(best))


def load_epoch(folder: Path, epoch: int) -> dict[str, Tensor] | None:
    """The tensors of the state after this epoch, the last finished one; None where they are not there."""
    try:
        return safetensors.torch.load_file(folder / _last(epoch))
    except (OSError, safetensors.SafetensorError):
        return None


def _link(source: Path, folder: Path) -> None:
    index = (source / _INDEX).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    position, best = _read(json.loads(index))
    for name in _names(position, best):
        hand_on(source / name, folder / name)
    if position.steps:
        with suppress(OSError):  # it was not kept
            hand_on(source / _last(position.epochs), folder / _last(position.epochs))
    write(folder / _INDEX, index)


def _read(index: Mapping[str, Any]) -> tuple[Position, Best | None]:
    return Position(**index["position"]), None if index["best"] is None else Best(**index["best"])


def _names(position: Position, best: Best | None) -> list[str]:
    """The files that make up a state."""
    last = _last(position.epochs, position.steps)
    return [last] if best is None else [last, _best(best)]


def _last(epochs: int, steps: int = 0) -> str:
    return f"last-{epochs:04}-{steps:06}.safetensors"


def _best(best: Best) -> str:
    return f"best-{best.epoch:04}.safetensors"


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write(path, safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()}))


def write(path: Path, content: bytes) -> None:
    """Make `content` that of the file, durably and in one step."""
    _write(path, io.BytesIO(content))


def _write(path: Path, content: IO[bytes]) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk, half of it would be in the way
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
