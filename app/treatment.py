"""What a plan does with each stage of a network: where its values come from, and how fast they change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.described import described
from app.profile import HEAD
from app.recipe import Reinit

PRE_LOGITS = "pre_logits"
"""The layers between the last stage and the head."""

Values = Literal["pretrained", "base", "random", "fitted"]


@described
@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Of one stage, of the head, or of the layers between the two, which are called `pre_logits`."""

    stage: str
    values: Values
    """That it begins with; `fitted` is a head that is the best linear classifier on the features as they are. `base`
    are those of the model version that the training starts from: of a head, its rows for the labels that are kept."""
    learning_rate: float | None
    """At its peak; None for a stage that stays as it is, and for a head that is fitted to the features at once."""


def treatments(
    stages: Sequence[str],
    *,
    cut: str | None,
    freeze: str | None,
    reinit: Reinit,
    peak: float | None,
    decay: float,
    pre_logits: bool = False,
) -> tuple[Treatment, ...]:
    """One for each of `stages` up to `cut`, which end the network where it is one of them, one for the head, and with
    `pre_logits` one for what learns between the last stage and the head.

    `peak` is the learning rate of the head and of what lies right before it, None where nothing is trained, and a stage
    has it times `decay` for every step down from the head. Those up to `freeze` stay as they are.
    """
    used = stages[: stages.index(cut) + 1] if cut in stages else stages
    frozen = len(used) if peak is None else used.index(freeze) + 1 if freeze else 0
    found = []
    for place, stage in enumerate(used):
        is_trained = peak is not None and place >= frozen
        found.append(
            Treatment(
                stage=stage,
                values="random" if is_trained and reinit == "retrained" else "pretrained",
                learning_rate=peak * decay ** (len(used) - place) if peak is not None and is_trained else None,
            )
        )
    if pre_logits and cut not in stages:
        values: Values = "random" if peak is not None and reinit == "retrained" else "pretrained"
        found.append(Treatment(stage=PRE_LOGITS, values=values, learning_rate=peak))
    head: Values = "fitted" if reinit == "none" else "random"
    return (*found, Treatment(stage=HEAD, values=head, learning_rate=peak))
