"""What a prediction or a search may take: parts of a recipe."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from app.contradictions import refuse
from app.numbers import Integer, Number


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Budget:
    """What a prediction of one image may take at most; what is left out does not matter."""

    latency_ms: Annotated[
        Number | None,
        Field(gt=0, lt=2**53, description="Milliseconds on the device of the worker, one image at a time."),
    ] = None
    macs: Annotated[Integer | None, Field(gt=0, lt=2**53, description="Multiply-adds.")] = None
    size_bytes: Annotated[Integer | None, Field(gt=0, lt=2**53, description="Of all values of the network.")] = None


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Search:
    """How long to look for a better way to train than the plan's own; with both limits, whichever comes first."""

    seconds: Annotated[
        Number | None,
        Field(
            gt=0,
            le=30 * 86400,
            description="For the whole job but the time that it is paused. Where they are too few for the first trial, "
            "the plan's own defaults, that ends with what it has learnt by then.",
            examples=[300],
        ),
    ] = None
    trials: Annotated[
        Integer | None,
        Field(ge=2, le=1000, description="Trainings, the first of which is that of the plan's own defaults."),
    ] = None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.seconds is None and self.trials is None:
            refuse({"seconds": (None, "a search needs an end: seconds, trials, or both")})
        return self
