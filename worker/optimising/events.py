"""What an optimisation tells of its way, besides what a training does."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantised:
    """A network was written down in int8 in this way, and what is to be known of it on some of the validation images:
    accuracy and agreement with the plain form, 0-1."""

    way: str
    accuracy: float
    agreement: float
    within: bool
    """The tolerance."""


@dataclass(frozen=True)
class FormBegun:
    """A classifier is built and run in this form from now on: where its process is ended meanwhile, that is why."""

    name: str


@dataclass(frozen=True)
class FormMeasured:
    """A classifier was run in this form on all validation images: accuracy, agreement with the plain form and the share
    that is `refused` as unknown 0-1, log-loss in nats, and the time of one image by itself. `reason` says why it is not
    `within` the tolerance."""

    name: str
    accuracy: float
    agreement: float
    log_loss: float
    refused: float | None
    latency_ms: float
    images_per_second: float
    batch: int | None
    """Of so many images at once, the quickest of the sizes that were tried."""
    within: bool
    reason: str | None
    seconds: float
    """That all of this took."""


@dataclass(frozen=True)
class FormRefused:
    """A classifier cannot be run in this form here, for this reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class FormsRunInTurn:
    """The two fastest forms were close, so they were timed once more, in turn: in the same order, images a second."""

    names: tuple[str, ...]
    images_per_second: tuple[float, ...]


@dataclass(frozen=True)
class FormsOrdered:
    """All forms are measured; the order in which serving tries those that are good enough."""

    order: tuple[str, ...]
