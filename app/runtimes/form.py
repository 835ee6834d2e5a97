"""The forms in which a classifier can be executed, and what all of them can do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.optimisation import PRECISIONS, RUNTIMES, Precision, Runtime

Images = NDArray[np.uint8] | NDArray[np.float32]
"""RGB images `(N, H, W, 3)` of the size that the classifier takes, with values 0-255, before any normalisation."""


@dataclass(frozen=True)
class Form:
    """A runtime, and the precision that it computes in."""

    runtime: Runtime
    precision: Precision

    @property
    def name(self) -> str:
        """Such as `openvino-int8`."""
        return f"{self.runtime}-{self.precision}"


def named(name: str) -> Form:
    """The form with this name."""
    return next(
        Form(runtime, precision)
        for runtime in RUNTIMES
        for precision in PRECISIONS
        if Form(runtime, precision).name == name
    )


PLAIN = Form("torch", "fp32")
"""What every artifact can be run in, and what the others are compared with."""


@dataclass(frozen=True)
class Passed:
    """What a classifier makes of N images."""

    features: NDArray[np.float32]
    """`(N, D)`: what the head gets."""
    logits: NDArray[np.float32]
    """`(N, K)`."""


@dataclass(frozen=True)
class Files:
    """Where the files of one classifier lie."""

    artifact: Path
    """The folder of the model version."""
    optimised: Path | None = None
    """The folder with the network in the forms that an optimisation made; None where there was none."""


BATCH = 32
"""Images that are passed together at most where nobody asks for more."""
SIDE_BY_SIDE = 4
"""Images that are passed together where several threads do so at the same time; with eight none gained more."""


@dataclass(frozen=True)
class Machine:
    """What a runtime may use."""

    threads: int
    """Images that are passed side by side on the CPU, each in one thread."""
    device: str = "cpu"
    """As torch names it."""
    batch: int = BATCH
    """Images that are passed together at most."""


class Network(Protocol):
    """A classifier, ready to run; any number of threads may call it."""

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        """Pass `images`; on all threads of the machine after `widen`, if nobody else wants them: `alone`."""
        ...

    def widen(self) -> None:
        """Make ready to pass images on all threads of the machine, too, which may take its memory twice."""
        ...

    def settle(self) -> None:
        """Let go of memory that was needed for more images at once than most passes have; nobody may call it
        meanwhile."""
        ...
