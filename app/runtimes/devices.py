"""The device that a process answers on, and how exactly: of several GPUs, each takes one that no other has."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from app import cores
from app.optimisation import DeviceKind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """What a process computes on, until it is released."""

    name: str
    """As torch names it: `cpu`, `cuda:1`."""
    lock: FileLock | None = None
    """Held as long as the device is in use; the system lets go of it when the process ends, however it does."""

    @property
    def kind(self) -> DeviceKind:
        return "cpu" if self.name == "cpu" else "cuda"

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()


def compute_exactly() -> None:
    """What is in fp32 is computed so on GPUs, too, for the whole process. Newer ones would round what convolutions
    multiply to TF32 (11 significant bits), and no two kinds of devices would give the same answers."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def compute_in(threads: int) -> None:
    """Let torch compute in so many threads from now on; for 0 in as many as it would by itself, which knows cores and
    `OMP_NUM_THREADS`, but in no more than there are cores to use."""
    torch.set_num_threads(threads or min(torch.get_num_threads(), cores.usable()))


def trouble(name: str) -> str | None:
    """Why the device of this name does not compute for this process any more: after some errors a GPU never does, until
    the process is started anew. None where it does, or has only no memory to spare."""
    if name == "cpu":
        return None
    try:
        with torch.cuda.stream(torch.cuda.Stream(name)):  # type: ignore[no-untyped-call]
            (torch.ones(1, device=name) + 1).cpu()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def take(folder: Path) -> Device:
    """The first GPU that no other process with this `folder` has taken; where all are taken, one that the fewest have.
    The CPU where torch sees no GPU, as with an empty `CUDA_VISIBLE_DEVICES`."""
    if not torch.cuda.is_available():
        return Device("cpu")
    numbers = range(torch.cuda.device_count())
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in numbers]
    try:
        number, lock = first_free(folder, names)
    except (OSError, NotImplementedError) as error:  # not every file system has locks
        logger.warning("no GPU can be kept from other processes (%s); predictions are computed on the first", error)
        return shared()
    return Device(f"cuda:{number}", lock)


def shared() -> Device:
    """A GPU without asking who has it, for a process that computes on it only now and then; the CPU where there is
    none."""
    return Device("cuda:0" if torch.cuda.is_available() else "cpu")


def first_free(folder: Path, names: Sequence[str]) -> tuple[int, FileLock]:
    """The place of the first of `names` that no process holds, or that the fewest do, and the lock that holds it.
    Names are those of the machine, not of the process: two containers may number the same GPUs differently."""
    folder.mkdir(parents=True, exist_ok=True)
    for share in itertools.count():
        for place, name in enumerate(names):
            lock = FileLock(folder / f"{name}.{share}.lock", thread_local=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            logger.info("predictions are computed on GPU %d, %s", place, name)
            if share:
                logger.warning(
                    "%d processes that answer predictions share GPU %s: there are more than GPUs", share + 1, name
                )
            return place, lock
    raise AssertionError("there is always another lock")
