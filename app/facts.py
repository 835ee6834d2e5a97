"""What a plan needs to know of what it is for."""

from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What a plan needs to know of a dataset version."""

    classes: int
    train_images: int
    validation_images: int
    smallest_class: int
    """Training images of the class that has fewest."""
    max_activation_bytes: int | None = None
    """That may be kept of what frozen layers make of its images; None for any number."""


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What a plan needs to know of a backbone."""

    stages: tuple[str, ...]
    normalises: bool = True
    """Whether its layers normalise what they pass on (BatchNorm, LayerNorm and their kin)."""
    pre_logits: bool | None = False
    """Whether layers that learn lie between the last stage and the head, such as the dense ones of VGG; None where that
    is not known."""
    can_enter: bool = True
    """Whether one can go on from what came out of a stage."""
    auxiliary: tuple[str, ...] = ()
    """For each classifier on an inner layer that only helps in training, the stage that it looks at."""
    values: tuple[int, ...] = ()
    """Activations that come out of each stage for one image; empty where that is not known."""
