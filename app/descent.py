"""How trained layers go from their first values to their last, decided where a recipe leaves it open."""

import math
from collections.abc import Iterator
from dataclasses import field, replace
from typing import Literal

from pydantic.dataclasses import dataclass

from app.augmentation import Augmentation
from app.described import described
from app.facts import NetworkFacts, VersionFacts
from app.recipe import Balance, Optimizer, Precision, Recipe, Unfreeze
from app.wording import counted

_SCRATCH_STEPS = 2000
_SCRATCH_EPOCHS = (30, 120)
_FULL_STEPS = 1500
_FULL_EPOCHS = (10, 30)
_EPOCHS = 10

_UNNORMALISED, _UNNORMALISED_SCRATCH = 0.3, 0.1
"""What a network without normalisation bears of the learning rate of one that has it, with SGD. From random values the
published AlexNet, VGG and SqueezeNet were trained at 0.01, ResNets at 0.1; from where they ended gradients are smaller.
AdamW measures each step by the gradients themselves."""

_MOST_FOR_RATE = 512
"""Images of a step that the learning rate grows with, and no more than there are to learn from: for very large steps
the rule of Goyal et al. 2017 does not hold."""

AUXILIARY_WEIGHT = 0.3
"""Of each auxiliary head's loss ("Going Deeper with Convolutions", Szegedy et al. 2014, section 5)."""

PRE_LOGITS = {
    True: "the layers between the last stage and the head",
    None: "any layers between the last stage and the head",
    False: "",
}
"""By whether there are such that learn."""

CROPPED = (
    "Of images random parts are shown, mirrored every other time; stronger changes are for trainings from random "
    "values, which learn by heart sooner."
)
"""How training images are changed by default."""

_STRONG = Augmentation(policy="trivial", erasing=0.1)
"""What is learnt from nothing is learnt by heart unless the images look different each time."""


@described
@dataclass(frozen=True, kw_only=True)
class Descent:
    """How the trained layers go from their first values to their last."""

    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images of a batch."""
    learning_rate: float
    """At its peak."""
    weight_decay: float
    """L2 penalty of the weights, or of their distance from a base."""
    accumulate: int = 1
    """Batches that make one step."""
    optimizer: Optimizer = "sgd"
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises to its peak."""
    warm_up_epochs: int = 1
    """It takes no more of them."""
    layer_decay: float = 1.0
    """The learning rate of a stage is the peak times this to the power of how many stages it lies below the head."""
    unfreeze: Unfreeze = "at_once"
    """Whether stages are trained from the first step on, or join one by one."""
    decay_to: Literal["zero", "start"] = "zero"
    """Where `weight_decay` pulls the weights to."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all labels."""
    balance: Balance = "none"
    """What evens out labels with few images."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How training images are changed."""
    ema: float = 0.0
    """Decay of the moving average of the weights; 0 for none."""
    patience: int | None = None
    """Epochs without a better one after which it stops; None for never."""
    precision: Precision = "auto"
    """Of the computation."""
    devices: int | None = None
    """How many GPUs may share each batch; None for all that the worker has. On CPUs it is always one process."""


def of(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Descent:
    """As `recipe` has it, and for what it leaves open what suits the version and the network."""
    scratch = recipe.from_random
    batch_size, accumulate = _batch(recipe, version)
    optimizer: Optimizer = recipe.optimizer or "sgd"
    return Descent(
        epochs=recipe.epochs or usual_epochs(recipe, version),
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=recipe.learning_rate or _peak(recipe, version, network, scratch=scratch),
        weight_decay={"sgd": 1e-4, "adamw": 0.05}[optimizer] if recipe.weight_decay is None else recipe.weight_decay,
        warm_up=0.1 if scratch else 0.05,
        warm_up_epochs=5 if scratch else 1,
        layer_decay=recipe.layer_decay or 1.0,
        unfreeze=recipe.unfreeze or "at_once",
        label_smoothing=recipe.label_smoothing or 0.0,
        balance=recipe.balance or "none",
        augmentation=recipe.augmentation or (_STRONG if scratch else Augmentation()),
        ema=recipe.ema or 0.0,
        patience=recipe.patience,
        precision=recipe.precision or "auto",
        devices=recipe.devices,
    )


def leaving(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Recipe:
    """`recipe`, whose training is to leave first values behind that are hardly better than random ones: where it leaves
    them open, with the steps and the learning rate of a training from such."""
    return replace(
        recipe,
        epochs=recipe.epochs or _passes(version, math.prod(_batch(recipe, version)), _SCRATCH_STEPS, _SCRATCH_EPOCHS),
        learning_rate=recipe.learning_rate or _peak(recipe, version, network, scratch=True),
    )


def about_leaving(recipe: Recipe) -> Iterator[str]:
    """The sentence about what `leaving` makes of `recipe`; none where that leaves nothing open."""
    open_ways = {"as many": recipe.epochs is None, "as long": recipe.learning_rate is None}
    ways = " and ".join(way for way, is_open in open_ways.items() if is_open)
    if ways:
        yield f"So steps are {ways} as from random values."


def _batch(recipe: Recipe, version: VersionFacts) -> tuple[int, int]:
    """Images of a batch, and batches of a step."""
    return recipe.batch_size or max(2, min(32, version.train_images // 8)), recipe.accumulate or 1


def usual_epochs(recipe: Recipe, version: VersionFacts) -> int:
    """Those of a training that begins with published weights or random values, where `recipe` leaves them open: what it
    takes to change all layers is steps, of which few images give few in an epoch; and more of them from random values.
    """
    needed = _needed(recipe)
    return _passes(version, math.prod(_batch(recipe, version)), *needed) if needed else _EPOCHS


def _needed(recipe: Recipe) -> tuple[int, tuple[int, int]] | None:
    """The steps that a training of all layers takes, and its fewest and most epochs; None where some stay, or are not
    to be left far behind."""
    if recipe.from_random:
        return _SCRATCH_STEPS, _SCRATCH_EPOCHS
    if recipe.strategy == "full" and recipe.base is None:
        return _FULL_STEPS, _FULL_EPOCHS
    return None


def _passes(version: VersionFacts, images: int, steps: int, epochs: tuple[int, int]) -> int:
    """Over all images that make so many `steps` of so many `images`, but no fewer and no more than `epochs`."""
    fewest, most = epochs
    return min(most, max(fewest, math.ceil(steps / math.ceil(version.train_images / images))))


def _peak(recipe: Recipe, version: VersionFacts, network: NetworkFacts, *, scratch: bool) -> float:
    """The peak learning rate, which goes by the images of a step."""
    optimizer: Optimizer = recipe.optimizer or "sgd"
    images = min(math.prod(_batch(recipe, version)), version.train_images, _MOST_FOR_RATE)
    borne = 1.0
    if optimizer == "sgd" and not network.normalises:
        borne = _UNNORMALISED_SCRATCH if scratch else _UNNORMALISED
    if scratch:
        # By the root, as in proportion steps over few images would be so short that nothing is learnt in time.
        return {"sgd": 0.05, "adamw": 1e-3}[optimizer] * math.sqrt(images / 32) * borne
    # Steps over more images may be longer: in proportion for SGD (Goyal et al. 2017), by the root for AdamW.
    return {"sgd": 0.01 * images / 32, "adamw": 1e-4 * math.sqrt(images / 32)}[optimizer] * borne


def told(
    descent: Descent, recipe: Recipe, version: VersionFacts, network: NetworkFacts, *, freeze: str | None = None
) -> Iterator[str]:
    """The sentences that say what it is and why; `descent` comes from the others, and the stages up to `freeze` stay as
    they are."""
    yield from _about_steps(descent, version)
    yield from _about_epochs(descent, recipe, version)
    yield from _about_labels(recipe)
    yield from _about_rate(recipe, descent, network)
    yield from _about_stages(descent, network)
    yield from _about_auxiliary(network, freeze)


def _about_steps(descent: Descent, version: VersionFacts) -> Iterator[str]:
    name = {"sgd": "SGD with momentum", "adamw": "AdamW"}[descent.optimizer]
    several = f", {descent.accumulate} to a step" if descent.accumulate > 1 else ""
    yield (
        f"{counted(descent.epochs, 'epoch')} of {counted(version.train_images, 'image')} in batches of "
        f"{descent.batch_size}{several}, "
        f"{name}, cosine learning rate with a peak of {descent.learning_rate:g}."
    )
    if descent.devices is not None:
        yield f"Each batch is shared by {descent.devices} GPUs at most."
    if descent.balance != "none":
        how = {"weights": "count more", "sampler": "are shown more often"}[descent.balance]
        yield f"Images of labels that have few {how}, so that each label counts the same."
    if descent.ema:
        yield f"The network that is kept is the moving average of its weights, with a decay of {descent.ema:g} a step."
    if descent.patience is not None:
        patience = counted(descent.patience, "epoch")
        since = " once all stages are trained" if descent.unfreeze == "gradual" else ""
        yield f"Training ends early after {patience} without a better one{since}, and the best is kept."


def _about_epochs(descent: Descent, recipe: Recipe, version: VersionFacts) -> Iterator[str]:
    if recipe.epochs is not None:
        return
    if needed := _needed(recipe):
        steps, (fewest, most) = needed
        what = "Learning from random values" if recipe.from_random else "Training all layers"
        given = math.ceil(version.train_images / math.prod(_batch(recipe, version)))
        bounds = {
            most: ", the most, as images that are seen more often are learnt by heart",
            fewest: ", the fewest, so that each image is seen in several ways",
        }
        yield (
            f"{what} takes about {steps} steps, of which {counted(version.train_images, 'image')} give {given} an "
            f"epoch: hence {descent.epochs} epochs{bounds.get(descent.epochs, '')}."
        )
    elif recipe.base is not None:
        yield f"What the base has learnt is not to be left far behind: hence {descent.epochs} epochs."
    else:
        yield f"The lower stages stay, so that little has to change: hence {descent.epochs} epochs."


def _about_labels(recipe: Recipe) -> Iterator[str]:
    if recipe.label_smoothing is None:
        yield "Labels are not smoothed: how sure the network is will be calibrated on the validation images anyway."


def about_images(descent: Descent, recipe: Recipe, version: VersionFacts) -> Iterator[str]:
    """The sentence about how training images are changed, where `recipe` leaves that open."""
    if recipe.augmentation is not None:
        return
    if descent.augmentation == _STRONG:
        yield (
            "Images are changed in shape or colour (TrivialAugment), and a part of every tenth is blotted out: from "
            f"random values {counted(version.train_images, 'image')} would be learnt by heart otherwise."
        )
    else:
        yield CROPPED


def _about_rate(recipe: Recipe, descent: Descent, network: NetworkFacts) -> Iterator[str]:
    if recipe.learning_rate is None and descent.optimizer == "sgd" and not network.normalises:
        yield (
            f"Nothing in {recipe.backbone} normalises what its layers pass on, so its learning rate is lower than that "
            "of other networks."
        )


def _about_stages(descent: Descent, network: NetworkFacts) -> Iterator[str]:
    stages, between = network.stages, PRE_LOGITS[network.pre_logits]
    if descent.layer_decay < 1:
        lowest = descent.learning_rate * descent.layer_decay ** len(stages)
        yield (
            f"The learning rate shrinks by {descent.layer_decay:g} from stage to stage, from "
            f"{descent.learning_rate:g} at the head to {lowest:g} at {stages[0]}: earlier stages need to change less."
        )
    if descent.unfreeze == "gradual":
        besides = f", and with it {between}" if between else ""
        yield (
            f"At first only the head is trained; in the first half of the training the {len(stages)} stages join it "
            f"one by one, the last one first{besides} (ULMFiT, Howard and Ruder 2018). Until then each stays as it is."
        )


def _about_auxiliary(network: NetworkFacts, freeze: str | None) -> Iterator[str]:
    trained = network.stages[0 if freeze is None else network.stages.index(freeze) + 1 :]
    stages = [stage for stage in network.auxiliary if stage in trained]
    if stages:
        heads = "An auxiliary head" if len(stages) == 1 else f"{len(stages)} auxiliary heads"
        yield (
            f"{heads} at {' and '.join(stages)} {'helps' if len(stages) == 1 else 'help'} to train what comes before: "
            f"the loss there counts {AUXILIARY_WEIGHT:g} times as much (Szegedy et al. 2014). What is served has none."
        )
