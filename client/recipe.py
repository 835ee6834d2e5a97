"""How to train, as a client asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a prediction of one image may take, where the backbone is `auto`; None for any."""

    latency_ms: float | None = None
    macs: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are changed: `policy` is none, crop, trivial or rand."""

    policy: str | None = None
    strength: float | None = None
    erasing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """How long to look for better settings than the plan's own."""

    seconds: float | None = None
    trials: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; what is None is decided by the service, which gives its reasons."""

    backbone: str
    strategy: str = "auto"
    weights: str | None = None
    base: str | None = None
    label_map: Mapping[str, str] | None = None
    replay: bool | None = None
    label_prior: str | None = None
    seed: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    balance: str | None = None
    augmentation: Augmentation | None = None
    ema: float | None = None
    patience: int | None = None
    l2: float | None = None
    stage: str | None = None
    freeze: str | None = None
    reinit: str | None = None
    views: int | None = None
    layer_decay: float | None = None
    unfreeze: str | None = None
    precision: str | None = None
    devices: int | None = None
    deterministic: bool | None = None
    budget: Budget | None = None
    search: Search | None = None
