"""What the service answers of the forms that a model can be run in, as values."""

import msgspec


class FormFigures(msgspec.Struct, frozen=True):
    """What a form makes of the validation images; shares 0-1, log-loss in nats."""

    accuracy: float
    agreement: float
    log_loss: float
    calibration_error: float
    refused: float | None = None


class FormSpeed(msgspec.Struct, frozen=True):
    """How fast a form is where it was measured."""

    latency_ms: float
    single_thread_ms: float
    images_per_second: float
    memory_bytes: int | None
    batch: int | None = None
    """Images passed together."""


class Form(msgspec.Struct, frozen=True):
    """A runtime in some precision; `reason` says why it is not `within` the tolerance or cannot be run."""

    runtime: str
    precision: str
    figures: FormFigures | None
    speed: FormSpeed | None
    within: bool
    reason: str | None

    @property
    def name(self) -> str:
        return f"{self.runtime}-{self.precision}"


class FormMachine(msgspec.Struct, frozen=True):
    """Where forms were measured."""

    device: str
    name: str
    threads: int


class FormReport(msgspec.Struct, frozen=True):
    """All forms of a model version."""

    machine: FormMachine
    images: int
    forms: list[Form]


class Optimisation(msgspec.Struct, frozen=True):
    """What one job has measured."""

    id: str
    report: FormReport


class Pins(msgspec.Struct, frozen=True):
    """What a version is run by; `auto` for what was measured."""

    runtime: str
    precision: str


class ServedBy(msgspec.Struct, frozen=True):
    """The forms that are tried on one kind of device, in order."""

    device: str | None
    forms: list[str]
    why: str


class Runtimes(msgspec.Struct, frozen=True):
    """The forms that a model version can be run in, and which of them it is."""

    model: str
    version: int
    pins: Pins
    revision: int
    served: list[ServedBy]
    optimisations: list[Optimisation]
