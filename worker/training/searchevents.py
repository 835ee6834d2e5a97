"""What a search tells of its trials, besides what each of them tells as a training."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrialStarted:
    """A search tries a training with these settings; the first trial is the plan as it would be without a search."""

    number: int
    settings: dict[str, Any]
    expected_seconds: float | None
    """None where nothing like it was measured yet."""


@dataclass(frozen=True)
class TrialFinished:
    """How a trial ended: `finished`; `pruned`, as it did worse than most after so much of its training; `out_of_time`;
    `stopped`, as the search was to end; or `failed`. Of what finished, the log-loss on the validation images in nats,
    at its best temperature, and the accuracy 0-1."""

    number: int
    outcome: str
    settings: dict[str, Any]
    loss: float | None
    accuracy: float | None
    seconds: float
    epochs: int
    """That were finished, or gone on from."""


@dataclass(frozen=True)
class SearchEnded:
    """The search has ended for this reason, and trial `kept` is what is kept. `best` is the one with the smallest loss;
    it is kept if the `chance` that the best of so many would beat the first one by as much, were none any better, is
    small enough."""

    reason: str
    trials: int
    finished: int
    kept: int
    best: int
    default_loss: float | None
    """None where the first trial failed."""
    default_accuracy: float | None
    best_loss: float
    best_accuracy: float
    chance: float | None
    """0-1; None where there was nothing to compare."""
    seconds: float
    reasons: tuple[str, ...] = ()
    """The same in words."""
