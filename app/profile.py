"""What was measured of a dataset version with a backbone: how much data there is, and how close it is to what the
backbone knows. Values only, shared by the API, the stored profile, the policy and the measuring."""

from collections.abc import Sequence
from dataclasses import dataclass

from app import errors
from app.described import described

HEAD = "head"
"""The depth in front of the network's own classifier, behind its last stage."""

LABELS_NEEDED, IMAGES_NEEDED = 2, 2
"""Labels, and training images of each of them, without which nothing can be measured: a classifier is judged by images
that it has not seen, and could not know the label of one that has no other."""

IMAGES_OF_EACH = 20
"""A sample of the images is of so many labels only that each may have as many in it: a classifier that has seen one or
two of each tells of how few they were, not of the features."""

_WITHOUT_SAMPLE = 2_000
"""Of so many images all were measured."""


def check_measurable(images: Sequence[int]) -> None:
    """Raise `Invalid` where so many training `images` of each label are too few to measure anything."""
    enough = sum(count >= IMAGES_NEEDED for count in images)
    if enough < LABELS_NEEDED:
        raise errors.Invalid(
            f"nothing can be measured: that takes {IMAGES_NEEDED} training images of each of {LABELS_NEEDED} labels at "
            f"least, and {enough or 'none'} of {len(images)} labels {'has' if enough == 1 else 'have'} as many",
            code="too_few_images",
            detail={
                "labels": len(images),
                "labels_with_enough_images": enough,
                "labels_needed": LABELS_NEEDED,
                "images_needed": IMAGES_NEEDED,
            },
        )


def is_thin(*, classes: int, images: int, measured: int) -> bool:
    """Whether `measured` of all `images`, where they are a sample of all labels, are fewer than `IMAGES_OF_EACH`."""
    return images > _WITHOUT_SAMPLE and measured < IMAGES_OF_EACH * classes


@described
@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier on frozen features, each image judged by one that has not seen it (cross-validation)."""

    accuracy: float
    """Share of images, 0-1."""
    log_loss: float
    """In nats an image."""
    error: float
    """Standard error of the accuracy, for as many images as there are."""


@described
@dataclass(frozen=True, kw_only=True)
class Depth:
    """The pooled features at one depth of a network."""

    name: str
    """A stage, or `HEAD`."""
    features: int
    """How many there are."""
    probe: Probe
    log_me: float
    """Mean log evidence in nats an image (LogME)."""
    h_score: float
    """How much of the features' spread lies between the labels: from 0 to the number of labels less one."""
    neighbours: float
    """Share of images, 0-1, that have the label of most of their nearest ones."""


@described
@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The probe at the head with so many images."""

    images: int
    """How many it was given, of which each fold holds some out."""
    probe: Probe


@described
@dataclass(frozen=True, kw_only=True)
class StageCosts:
    """What one image costs as far as a stage and behind it, in seconds."""

    name: str
    forward: float
    """From the pixels to what comes out of it, without gradients."""
    step_before: float
    """The part of a training step that lies before it and in it, forward alone; in bf16 where that is quicker."""
    step_behind: float
    """... and the part behind it, forward and back. An auxiliary head is behind the stage that it looks at."""


@described
@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one image costs on the machine that measured, in seconds."""

    decode: float
    """From the file to pixels at the network's input size, on all threads together."""
    forward: float
    """Through the whole network without gradients."""
    step: float
    """Through the whole network and back, as in a training of all layers; measured on a small batch."""
    device: str
    """`cpu` or `cuda`."""
    threads: int
    gain: float = 1.0
    """How many times as fast a step is on a GPU where it is not asked for operation by operation."""
    full_precision: float = 1.0
    """How many times as long a step takes in fp32, where it was measured in bf16."""
    full_gain: float | None = None
    """... and the gain of steps in fp32; None where it is the same, and in profiles that were made before it was
    measured."""
    stages: tuple[StageCosts, ...] = ()
    """In order; empty where they were not measured, as for networks that cannot be entered between stages."""
    measured: int = 0
    """Images that the times of probes are about."""
    labels: float = 1.0
    """How many times as many labels the version has as these images."""
    probe: float = 0.0
    """For all of these together: to cross-validate the linear classifier at the head."""
    probes: float = 0.0
    """... those at every depth."""
    together: float = 0.0
    """... and the one on all depths side by side."""
    load: float = 0.0
    """For all images together: to read the network's values and to make it; 0 in profiles that were made before it was
    measured."""
    kept_bytes_per_pixel: float | None = None
    """What a training of all layers in single precision keeps of an image on its way to the loss, for the way back;
    None in profiles that were made before it was counted."""
    memory_bytes: int | None = None
    """That the device has, or the machine where it is a CPU."""
    devices: int | None = None
    """GPUs that the machine has; None where it is a CPU, and in profiles that were made before they were counted."""


@described
@dataclass(frozen=True, kw_only=True)
class Profile:
    """All that a policy needs to decide how to train this backbone on this version."""

    backbone: str
    weights: str
    """Name of the weights."""
    weights_sha256: str
    classes: int
    """Labels of the version."""
    images: int
    """Training images; nothing here has seen the validation images."""
    smallest_class: int
    """Training images of the label that has fewest."""
    largest_class: int
    measured: int
    """Training images that the figures come from: without those of labels that have a single one, and of very many
    only a stratified sample."""
    measured_labels: int | None = None
    """Where these are of labels that were drawn from all, how many: of very many labels a sample would have one or two
    images of each."""
    depths: tuple[Depth, ...]
    """Every stage in order, `HEAD` last; a last stage whose pooled features are those at the head is not there."""
    together: Probe
    """On the features of all depths side by side."""
    curve: tuple[CurvePoint, ...]
    """With a quarter, a half, and all of the `measured` images, as far as every label keeps two."""
    random: tuple[Depth, ...]
    """As `depths`, for the network with random values, on `random_images` of the `measured` images."""
    random_images: int
    random_labels: int | None = None
    """Where those are of labels that were drawn from the `measured` ones, how many."""
    reference: tuple[Depth, ...]
    """As `depths`, on those same images: what `random` is to be compared with. Empty where they are all of them."""
    random_together: Probe | None = None
    """As `together`, for the network with random values; None in profiles that were made before it was measured."""
    random_curve: tuple[CurvePoint, ...] = ()
    """As `curve`, for the network with random values, with shares of the `random_images`; empty in such profiles."""
    costs: Costs

    @property
    def gain_of_doubling(self) -> float | None:
        """What the last doubling of the images gave, None where they are too few to be halved."""
        if len(self.curve) < 2:
            return None
        return self.curve[-1].probe.accuracy - self.curve[-2].probe.accuracy

    @property
    def more_labels(self) -> float:
        """How many times as many labels an image can be taken for as those that were measured. Errors grow by no
        more."""
        return 1.0 if self.measured_labels is None else (self.classes - 1) / (self.measured_labels - 1)

    def depth(self, name: str) -> Depth:
        """The depth called `name`. Raises `KeyError`."""
        return {depth.name: depth for depth in self.depths}[name]
