"""The processes that share the steps of one training: each has a device, a network with the same values, and its share
of every batch; their gradients are added up.

One of them leads: it is the only one that tells of the training, judges it and keeps it. The others do the steps of the
epochs that it names, and end with it, however that comes about.
"""

import copy
import logging
import multiprocessing
import os
import pickle
import queue
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from app import errors
from app.backbones.classifier import Classifier
from app.runtimes import memory
from worker.training import precision

logger = logging.getLogger(__name__)

Follow = Callable[["Peers", Any, Iterator[Any]], None]
"""What a process does that does not lead: with its place, its work, and the messages of the leading one, until they
end. A function of a module, so that it can be found from another process."""

_END = None
_READY = "ready"
_PATIENCE_SECONDS = 10.0
_SETTLING_SECONDS = 1.0
"""For each of the others to end after one of them has."""
_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@dataclass(frozen=True)
class Peers:
    """One process's place among all, counted from 0, which leads."""

    place: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.place == 0

    def share(self, part: Sequence[int]) -> Sequence[int]:
        """What falls to this process of a batch: a run of it, at most one longer than that of others."""
        start, stop = (len(part) * place // self.count for place in (self.place, self.place + 1))
        return part[start:stop]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Make each of `tensors` the sum over all processes, which must bring the same shapes in the same order."""
        if self.count == 1:
            return
        # As one: small messages take as long as large ones.
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view(tensor.shape))


ALONE = Peers()


class PeerLost(Exception):
    """One of the processes that share a training has ended without a word, killed or crashed; another attempt may well
    succeed."""

    def __init__(self) -> None:
        super().__init__("one of the processes that share the training is gone")


class ShareTooLarge(torch.OutOfMemoryError):
    """One of the devices has no memory for its share of a batch, cut in so many `pieces`; it can be cut in more."""

    def __init__(self, pieces: int) -> None:
        super().__init__(pieces)
        self.pieces = pieces


@dataclass(frozen=True)
class _Lost:
    """Message: this process cannot go on."""

    error: Exception


class Group:
    """All processes, as the leading one sees them."""

    def __init__(self, connections: Sequence[Connection], processes: Sequence[BaseProcess]) -> None:
        self.peers = Peers(0, 1 + len(connections))
        self._connections = connections
        self._processes = processes
        self._watches: list[threading.Thread] = []
        self._errors: list[Exception] = []
        self._is_lost = threading.Event()
        self._is_ending = False

    @classmethod
    def of_one(cls, peers: Peers) -> "Group":
        """What a process that does not lead knows of the others."""
        group = cls([], [])
        group.peers = peers
        return group

    def tell(self, message: Any) -> None:
        """Give the others `message`. Raises `PeerLost` where one of them is gone, or what made it go."""
        for connection in self._connections:
            try:
                connection.send(message)
            except OSError as error:
                raise self._reason() from error

    def await_ready(self) -> None:
        """Return once all others have what they need to begin; raises what keeps one of them from it."""
        for connection in self._connections:
            _hear(connection)
        for connection in self._connections:
            if connection.poll():  # the last words of one that was ready before the others
                _hear(connection)
        for connection in self._connections:
            watch = threading.Thread(target=self._watch, args=[connection], name="watch peer", daemon=True)
            watch.start()
            self._watches.append(watch)

    def check(self) -> None:
        """Raise what has made one of the others go, if one has."""
        if self._is_lost.is_set():
            raise self._reason()

    @contextmanager
    def in_common(self) -> Iterator[None]:
        """Inside, an operation that fails as one of the others is gone raises what made that one go."""
        try:
            yield
        except RuntimeError as error:
            # What says that there is too little memory is no consequence of another one's end.
            if memory.is_of_memory(error) or not self._is_lost.wait(_PATIENCE_SECONDS if self._connections else 0):
                raise
            raise self._reason() from error

    def end(self, *, at_once: bool) -> None:
        """Let the others finish, or with `at_once` end them where they are."""
        self._is_ending = True
        if not at_once:
            self.tell(_END)
        for process in self._processes:
            process.join(0 if at_once else _PATIENCE_SECONDS)
            process.kill()
            process.join()
        for watch in self._watches:
            watch.join()
        for connection in self._connections:
            connection.close()
        # They hold what was computed where they were raised, and that holds this group.
        self._errors.clear()

    def _watch(self, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = _Lost(PeerLost())
        if not isinstance(message, _Lost):
            return
        self._errors.append(message.error)
        self._is_lost.set()
        # With gloo the leading process notices by itself; NCCL would wait for as long as its own patience lasts.
        group = torch.distributed.group.WORLD
        if not self._is_ending and group is not None and torch.distributed.get_backend() == "nccl":
            group.abort()

    def _reason(self) -> Exception:
        self._is_lost.wait(_PATIENCE_SECONDS)
        # Where one is gone, the others fail as well, and may say so before that is noticed; but not that they have no
        # memory, or what is wrong with the work.
        for watch in self._watches:
            watch.join(_SETTLING_SECONDS)
        found = [*self._errors]
        own = [error for error in found if isinstance(error, errors.GraftError) or memory.is_of_memory(error)]
        lost = [error for error in found if isinstance(error, PeerLost)]
        return next(iter((*own, *lost, *found)), PeerLost())


def _hear(connection: Connection) -> None:
    """Return with the next message of another process; raises what keeps it from going on."""
    try:
        message = connection.recv()
    except (EOFError, OSError) as error:
        raise PeerLost from error
    if isinstance(message, _Lost):
        raise message.error


def with_common_norms(network: Classifier, place: Peers) -> Classifier:
    """A copy of a network that is shared, whose BatchNorm sees the whole batch where GPUs share it; one that is not
    shared as it is."""
    if place.count == 1:
        return network
    network = copy.deepcopy(network)
    if next(network.parameters()).device.type == "cuda":  # on CPUs each process has statistics of its own
        network.body = convert_sync_batchnorm(network.body)
    return network


@contextmanager
def gathered(follow: Follow, works: Sequence[tuple[torch.device, Any]], *, device: torch.device) -> Iterator[Group]:
    """One more process for each of `works`, where `follow` is run on it; inside, this process leads them, on `device`.

    They are gone afterwards, whatever happens inside, and when this process ends. `works` are pickled; nothing in them
    is shared. Their devices must be of one type. Raises what makes one of the others fail, and `PeerLost`.
    """
    if not works:
        yield Group([], [])
        return
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        group = _start(follow, works, Path(folder) / "store")
        failed = True
        try:
            group.await_ready()
            with group.in_common():
                _compute_on(device)
                _join(group.peers, Path(folder) / "store", device)
                # Who went before that was not noticed: with NCCL there was nothing yet to abort.
                group.check()
                yield group
            failed = False
        finally:
            group.end(at_once=failed)
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _start(follow: Follow, works: Sequence[tuple[torch.device, Any]], store: Path) -> Group:
    threads = max(1, torch.get_num_threads() // (1 + len(works)))
    connections: list[Connection] = []
    processes: list[BaseProcess] = []
    for place, (device, work) in enumerate(works, 1):
        ours, theirs = multiprocessing.Pipe()
        # As bytes, since tensors sent as such would be shared with this process.
        payload = pickle.dumps((follow, work))
        settings = _Settings(
            store,
            device,
            threads,
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.allow_tf32,
            os.nice(0),
        )
        processes.append(_process(f"peer {place}", theirs, Peers(place, 1 + len(works)), payload, settings))
        theirs.close()
        connections.append(ours)
    return Group(connections, processes)


def _process(name: str, *arguments: Any) -> BaseProcess:
    """A process that has begun with `_main`. Not forked from this one, as neither CUDA nor threads survive that, but
    from the forkserver that this one comes from; where that is not to be had, one that imports all anew."""
    try:
        forked = multiprocessing.get_context("forkserver").Process(target=_main, args=arguments, name=name)
        forked.start()
    except (OSError, EOFError) as error:
        logger.warning("the forkserver starts no process (%s), so one is started that imports all anew", error)
        spawned = multiprocessing.get_context("spawn").Process(target=_main, args=arguments, name=name)
        spawned.start()
        return spawned
    return forked


@dataclass(frozen=True)
class _Settings:
    store: Path
    device: torch.device
    threads: int
    deterministic: bool
    tf32: bool
    niceness: int


def _main(connection: Connection, peers: Peers, payload: bytes, settings: _Settings) -> None:
    os.nice(settings.niceness - os.nice(0))  # which only one that imported all anew has from the leading process
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.allow_tf32 = settings.tf32
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[connection, messages], name="listen", daemon=True).start()
    try:
        follow, work = pickle.loads(payload)  # noqa: S301 - the leading process made it a moment ago
        # Before the others wait for this one to join them.
        _compute_on(settings.device)
        connection.send(_READY)
        _join(peers, settings.store, settings.device)
        with precision.deterministic(wanted=settings.deterministic):
            follow(peers, work, iter(messages.get, _END))
        torch.distributed.destroy_process_group()
    except Exception as error:
        connection.send(_Lost(_plain(error)))
        # Without any farewell: the others are to notice.
        os._exit(1)


def _listen(connection: Connection, messages: "queue.SimpleQueue[Any]") -> None:
    """Hand on what the leading process says; when it is gone, so is this one."""
    try:
        while True:
            messages.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)


def _plain(error: Exception) -> Exception:
    """An error that gets through a pipe."""
    if isinstance(error, errors.GraftError) and type(error).__init__ is errors.GraftError.__init__:
        return error
    if isinstance(error, ShareTooLarge):
        return error
    plain = torch.OutOfMemoryError if memory.is_of_memory(error) else RuntimeError
    return plain(f"{type(error).__name__}: {error}")


def _compute_on(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _join(peers: Peers, store: Path, device: torch.device) -> None:
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, loopback)
    torch.distributed.init_process_group(
        _BACKENDS[device.type],
        init_method=f"file://{store}",
        rank=peers.place,
        world_size=peers.count,
    )
