"""The peers, each at its best: a few layouts and ways to run the network are tried once on this machine, and the
quickest is kept in the user's cache."""

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from bench.serving import environments, servers
from bench.serving.peers.task import FAST_QUEUE, FULL_PRECISION, HALF_PRECISION, IN_THREADS, Layout, Task
from bench.serving.servers import Posting, Server
from bench.serving.subjects import Subject


@dataclass(frozen=True)
class Peer:
    """A way to serve that people use."""

    name: str
    posting: Posting
    layouts: tuple[Layout, ...]
    options: Callable[[int], tuple[str, ...]] = lambda _port: ()
    """On its command line."""


@dataclass(frozen=True)
class Choice:
    """How a peer is run."""

    forward: str
    layout: Layout

    def __str__(self) -> str:
        return f"{self.forward}, {self.layout}"


Rate = Callable[[Server], float]
"""Photos per second of a server, measured briefly."""


def peers(cores: int) -> dict[str, Peer]:
    """All, with layouts that make sense on so many cores."""
    spread, joint = Layout(processes=cores), Layout(threads=cores)
    batched = Layout(processes=cores, batch=8, wait_ms=5)
    found = (
        Peer("plain", Posting("/predict", "file"), (spread, joint, Layout(variant=IN_THREADS))),
        Peer(
            "litserve",
            Posting("/predict", "request"),
            (spread, joint, Layout(processes=cores, variant=FAST_QUEUE), batched),
        ),
        Peer(
            "mosec",
            Posting("/inference"),
            (
                spread,
                joint,
                batched,
                Layout(processes=cores, decoders=1),
                Layout(threads=cores, batch=8, wait_ms=5, decoders=cores),
            ),
            # A second of waiting for the network is no error here, and ours is not held to that either.
            options=lambda port: ("--address", servers.HOST, "--port", str(port), "--timeout", "60000"),
        ),
    )
    return {peer.name: peer for peer in found}


def server(peer: Peer, choice: Choice, subject: Subject) -> Server:
    """The peer with the subject."""
    port = servers.free_port()
    module = f"bench.serving.peers.{peer.name}_server"
    command = (str(environments.python(peer.name)), "-m", module, *peer.options(port))
    task = Task(str(subject.described), choice.forward, choice.layout, port)
    compiled = environments.cache() / "compiled"
    environment = {**task.environment(), "TORCHINDUCTOR_CACHE_DIR": str(compiled), "TORCHINDUCTOR_FREEZING": "1"}
    return Server(peer.name, command, peer.posting, port, environment)


def best(peer: Peer, subject: Subject, rate: Rate, *, precision: str, again: bool) -> Choice:
    """The choice with which the peer serves the subject quickest: the one that is kept, or else, or to do it `again`,
    the best of those that are tried."""
    forwards = FULL_PRECISION if precision == "fp32" or not _has_half() else (*FULL_PRECISION, *HALF_PRECISION)
    key = "/".join(
        (
            peer.name,
            subject.network,
            environments.fingerprint(peer.name),
            str(peer.layouts[0]),
            platform.processor() or platform.machine(),
            torch.backends.cpu.get_cpu_capability(),
            *forwards,
        )
    )
    kept = _Kept()
    found = None if again else kept.get(key)
    if found is None:
        tried = dict(_tried(peer, subject, rate, forwards))
        found = max(tried, key=lambda choice: tried[choice])
        kept.put(key, found, tried)
    return found


def _tried(peer: Peer, subject: Subject, rate: Rate, forwards: tuple[str, ...]) -> Iterator[tuple[Choice, float]]:
    """Every way to run the network in the first layout, then the best of them in every other layout."""
    first, *others = peer.layouts
    fastest, most = Choice(forwards[0], first), 0.0
    for forward in forwards:
        choice = Choice(forward, first)
        reached = _reached(peer, choice, subject, rate)
        fastest, most = (choice, reached) if reached > most else (fastest, most)
        yield choice, reached
    for layout in others:
        choice = Choice(fastest.forward, layout)
        yield choice, _reached(peer, choice, subject, rate)


def _reached(peer: Peer, choice: Choice, subject: Subject, rate: Rate) -> float:
    try:
        reached = rate(server(peer, choice, subject))
    except servers.DidNotStart as error:
        print(f"  {error}", flush=True)
        reached = 0.0
    print(f"  tried {peer.name} for {subject.network}: {choice}: {reached:.0f}/s", flush=True)
    return reached


class _Kept:
    """The choices of earlier runs, with what was measured."""

    def __init__(self) -> None:
        self._path = environments.cache() / "choices.json"
        self._found = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}

    def get(self, key: str) -> Choice | None:
        found = self._found.get(key)
        return None if found is None else Choice(found["forward"], Layout(**found["layout"]))

    def put(self, key: str, choice: Choice, tried: dict[Choice, float]) -> None:
        rates = {str(one): round(reached, 1) for one, reached in tried.items()}
        self._found[key] = {**asdict(choice), "tried": rates}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=2) + "\n", encoding="utf-8")


def _has_half() -> bool:
    """Whether the CPU has instructions for bf16: others only act as if, which takes longer than full precision."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
