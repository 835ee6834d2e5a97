"""What the service has measured of a version with a network, as values; see `client.values`."""

import msgspec


class Probe(msgspec.Struct, frozen=True):
    """A linear classifier in cross-validation: accuracy 0-1 and its standard error, log-loss in nats."""

    accuracy: float
    log_loss: float
    error: float


class Depth(msgspec.Struct, frozen=True):
    """The features at one depth of a network; `neighbours` is a share of images, 0-1."""

    name: str
    features: int
    probe: Probe
    log_me: float
    h_score: float
    neighbours: float


class CurvePoint(msgspec.Struct, frozen=True):
    """The probe at the head with so many images."""

    images: int
    probe: Probe


class Costs(msgspec.Struct, frozen=True):
    """Of one image, in seconds."""

    decode: float
    forward: float
    step: float
    device: str
    threads: int


class Figures(msgspec.Struct, frozen=True):
    """What was measured of a version with a backbone; `random` is the same network untrained."""

    backbone: str
    weights: str
    classes: int
    images: int
    measured: int
    depths: list[Depth]
    together: Probe
    curve: list[CurvePoint]
    random: list[Depth]
    costs: Costs
    measured_labels: int | None = None
    random_together: Probe | None = None
    random_curve: list[CurvePoint] = []


class Profile(msgspec.Struct, frozen=True):
    """Figures that are kept."""

    id: str
    figures: Figures
