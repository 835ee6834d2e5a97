"""What a peer is to serve and how, passed to its processes in one environment variable. Knows the standard library
alone: the benchmark writes it, the peers read it."""

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "GRAFT_BENCH_TASK"

CHANNELS_LAST = "channels_last"
FULL_PRECISION = ("eager", CHANNELS_LAST, "compiled")
HALF_PRECISION = ("channels_last bf16", "compiled bf16")
"""Ways to run a network; these only where the CPU has instructions for bf16."""

IN_THREADS = "handler in threads"
FAST_QUEUE = "fast queue"
"""Variants of layouts: of the plain handler, and of LitServe."""


@dataclass(frozen=True)
class Layout:
    """How a server is laid out over the cores."""

    processes: int = 1
    """That run the network."""
    threads: int = 1
    """Of torch, in each."""
    batch: int = 1
    """The most images of one forward pass."""
    wait_ms: int = 0
    """How long a batch is waited for."""
    decoders: int = 0
    """Processes that only decode; with none, those that run the network do that, too."""
    variant: str = ""
    """What else the peer has to choose from; empty is its default."""

    def __str__(self) -> str:
        told = f"{self.processes} x {self.threads} threads"
        if self.batch > 1:
            told += f", batches of {self.batch} within {self.wait_ms} ms"
        if self.decoders:
            told += f", {self.decoders} decoding"
        return f"{told}, {self.variant}" if self.variant else told


@dataclass(frozen=True)
class Task:
    """A classifier to be served at a port of this machine."""

    classifier: str
    """The JSON file that describes it."""
    forward: str
    layout: Layout
    port: int

    def environment(self) -> dict[str, str]:
        """Variables from which `given` reads the task."""
        return {VARIABLE: json.dumps(asdict(self))}


def given() -> Task:
    """The task of this process."""
    found = json.loads(os.environ[VARIABLE])
    return Task(**{**found, "layout": Layout(**found["layout"])})
