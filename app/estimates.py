"""What a plan will take in time and memory, from what one image costs."""

import math
from collections.abc import Iterator
from dataclasses import replace

from app import room
from app.backbones.catalogue import Backbone
from app.backbones.preprocess import Preprocessing
from app.descent import Descent
from app.evaluation import COMPARED_EACH
from app.facts import VersionFacts
from app.limits import Search
from app.plan import MAX_COMPARED, MAX_CROSS_VALIDATED, Estimate, Plan
from app.profile import Costs, StageCosts
from app.recipe import ALL_STAGES, BEST_STAGE, Optimizer, Recipe

_FIT = 1.5
"""A classifier that is kept takes so many times what it takes to measure how good it would be."""
_SELECT = 6.0
"""... and a choice of features of all stages, made anew in each fold for several counts of them."""
_LAST_FIT, _LAST_FIT_OF_SELECTED = 0.3, 0.05
"""Of the time for a classifier, the share of the fit to all images in the end."""
_BETWEEN = 3
"""Networks between the start and the end of a training, that are judged before one is kept."""
_ROOM = 0.8
"""Share of the memory that network and batches may take."""
_FEWEST = 4
"""Batches of fewer images are not cut any more."""
_MOST_OF_A_CPU = 4 * 10**9
"""Bytes of a machine's memory that count, for others want the rest, as long as ..."""
_ENOUGH = 8
"""... so many images are computed at a time, of which BatchNorm still knows mean and variance."""
_PEAK = 1.5
"""Times what is kept for the way back that a step takes: on that way there are gradients, and room to compute in."""
_BYTES = 4
_READ_AND_WRITTEN = 2
"""Times that a network's values go through the disk, as long as it takes to load them."""
_AROUND = 0.7
"""Seconds that a job takes besides its training, as was measured on two cores: its process begins, reads what there is
of the images, reports, writes the model and ends. Nothing tells them of another machine, where they are not much else.
"""
_REPORTED = 6e-7
"""... and for each validation image and label, of which the report compares all with all, on a core of that machine."""
_BESIDES: dict[Optimizer, int] = {"sgd": 2, "adamw": 3}
"""Values for each parameter that is trained besides itself: its gradient, and its momentum or both of its moments."""


def of(
    plan: Plan, version: VersionFacts, backbone: Backbone, costs: Costs, *, is_batch_by_hand: bool = False
) -> Estimate:
    """The time of a training by `plan` on the machine whose `costs` were measured, which has the features of all images
    from then, and the memory that network and batches take, of which a CPU computes those in `pieces` whose size is not
    set by hand."""
    rival = 0.0 if plan.rival is None else _seconds(plan.rival, version, backbone, costs)
    cut = pieces(
        plan, backbone, device=costs.device, memory_bytes=costs.memory_bytes, is_batch_by_hand=is_batch_by_hand
    )
    images = None if plan.descent is None else _of_each(plan.descent, cut * sharing(plan, costs))
    memory = _memory(plan, backbone, images, per_pixel=costs.kept_bytes_per_pixel)
    seconds = rival + _exact_features(plan, version, costs) + _seconds(plan, version, backbone, costs)
    return Estimate(seconds=seconds, memory_bytes=memory)


def sharing(plan: Plan, costs: Costs) -> int:
    """How many devices of the machine that was measured have a part in each batch, as far as they were counted: no
    fewer than two images each, and a single one where what frozen stages give is kept."""
    if plan.descent is None or costs.device != "cuda" or _keeps_activations(plan):
        return 1
    counted = costs.devices or 1
    return max(1, min(counted, plan.descent.devices or counted, plan.descent.batch_size // 2))


def about_sharing(plan: Plan, costs: Costs) -> Iterator[str]:
    """The sentence about the GPUs that the estimate goes by, where there may be several."""
    count = sharing(plan, costs)
    if count > 1:
        yield f"The estimate is for {count} GPUs, which share each batch; what they tell one another is not counted."
    elif costs.devices is None and sharing(plan, replace(costs, devices=2)) > 1:
        yield "The estimate is for one GPU: how many the machine has was not noted when it was measured."


def of_job(training: Estimate, version: VersionFacts, search: Search | None = None) -> Estimate:
    """What a job takes that is this `training`, or a `search` whose first trial it is: as long as it may, or by the
    number of its trials, each as the first one."""
    seconds = training.seconds
    if search is not None:
        limits = [search.seconds, None if search.trials is None else search.trials * seconds]
        seconds = min(limit for limit in limits if limit is not None)
    return replace(training, seconds=seconds + around(version))


def around(version: VersionFacts) -> float:
    """Seconds from a job's start to its end, its training aside."""
    return _AROUND + _REPORTED * version.validation_images * version.classes


def fitted(plan: Plan, recipe: Recipe, backbone: Backbone, costs: Costs) -> Plan:
    """`plan`, where `recipe` does not say how many images make a batch, with batches that the memory of the device has
    room for; more of them make a step, so that it stays the same, unless the recipe says how many do."""
    descent, memory = plan.descent, costs.memory_bytes
    if descent is None or memory is None or recipe.batch_size is not None:
        return plan
    smaller = plan
    while (
        _takes_too_much(smaller, backbone, costs, memory) and smaller.descent and smaller.descent.batch_size >= _FEWEST
    ):
        whole = smaller.descent
        accumulate = recipe.accumulate or 2 * whole.accumulate
        smaller = replace(smaller, descent=replace(whole, batch_size=whole.batch_size // 2, accumulate=accumulate))
    if smaller is plan or smaller.descent is None:
        return plan
    said = (
        f"Batches of {descent.batch_size} would not fit the {memory / 1e9:.1f} GB of the {costs.device} that was "
        f"measured: {smaller.descent.batch_size} images at a time, {smaller.descent.accumulate} times for a step."
    )
    return replace(smaller, reasons=(*smaller.reasons, said))


def pieces(
    plan: Plan, backbone: Backbone, *, device: str, memory_bytes: int | None, is_batch_by_hand: bool = False
) -> int:
    """In how many pieces a device with so much memory is to compute each batch. A CPU takes no longer for several: as
    many as it takes to stay below 4 GB or, with few images in each, within its memory. What a GPU takes is told by
    itself when it is too much, and batches whose size is set by hand stay whole."""
    if plan.descent is None or device != "cpu" or memory_bytes is None or is_batch_by_hand:
        return 1
    count = 1
    while (images := _of_each(plan.descent, count)) >= _FEWEST:
        most = min(memory_bytes, _MOST_OF_A_CPU) if images > _ENOUGH else memory_bytes
        if (_memory(plan, backbone, images) or 0) <= _ROOM * most:
            break
        count *= 2
    return count


def _of_each(descent: Descent, pieces: int) -> int:
    """Images of a piece of a batch."""
    return math.ceil(descent.batch_size / pieces)


def _takes_too_much(plan: Plan, backbone: Backbone, costs: Costs, memory: int) -> bool:
    images = None if plan.descent is None else _of_each(plan.descent, sharing(plan, costs))
    return (_memory(plan, backbone, images, per_pixel=costs.kept_bytes_per_pixel) or 0) > _ROOM * memory


def _keeps_activations(plan: Plan) -> bool:
    return plan.freeze is not None and plan.views > 0


def _seconds(plan: Plan, version: VersionFacts, backbone: Backbone, costs: Costs) -> float:
    train, loaded = version.train_images, _READ_AND_WRITTEN * costs.load
    if plan.strategy == "head":
        return loaded + _fit(costs.probe, train, costs)
    judged = version.validation_images + min(train, COMPARED_EACH * version.classes)
    judging = judged * (costs.decode + costs.forward)
    if plan.descent is None:
        return loaded + _classifiers(plan, train, costs) + judging
    first_head = _fit(costs.probe, train, costs) if plan.reinit == "none" else 0.0
    return loaded + first_head + _descending(plan, plan.descent, version, backbone, costs) + judging


def _exact_features(plan: Plan, version: VersionFacts, costs: Costs) -> float:
    """The time to pass the training images anew for a classifier on features that `plan` wants in fp32: CPUs that are
    quicker with bf16 have left them in that. (GPUs have not, nor have those whose images are not worth compiling the
    network for, which are soon passed.)"""
    wants_features = plan.rival is not None or (plan.strategy == "full" and plan.reinit == "none")
    is_exact = plan.descent is not None and plan.descent.precision == "fp32"
    is_rounded = costs.device == "cpu" and costs.full_precision != 1
    return version.train_images * (costs.decode + costs.forward) if wants_features and is_exact and is_rounded else 0.0


def _descending(plan: Plan, descent: Descent, version: VersionFacts, backbone: Backbone, costs: Costs) -> float:
    """The time from the images to the last epoch, and to judge networks on the way; not to fit a first head."""
    train, validation = version.train_images, version.validation_images
    costs = _in_precision(descent, costs)
    frozen = _frozen(plan.freeze, backbone, costs)
    # Only steps of one batch on one GPU are repeated as they were captured.
    shared = sharing(plan, costs)
    gain = costs.gain if descent.accumulate == 1 and not plan.deterministic and shared == 1 else float(shared)
    decode, begin, fits_head = costs.decode, 0.0, plan.reinit == "none"
    if plan.freeze is None or not costs.stages or not plan.views:
        # `full` finds the features for its first head on the disk, with frozen stages they are computed for it.
        begin += train * (decode + costs.forward) if plan.freeze is not None and fits_head else 0.0
        if costs.device == "cuda" and _has_room(version, backbone.preprocessing_with(plan.weights)):
            # They are decoded once, for which the GPU waits, and changed by the GPU itself.
            begin += (train + validation) * decode
            decode = 0.0
        judging = validation * (decode + costs.forward)
        epoch = train * (decode + (frozen.step_before + frozen.step_behind) / gain) + judging
    else:
        behind = costs.forward - frozen.forward
        begin += plan.views * train * (decode + min(frozen.forward, frozen.step_before))
        begin += validation * (decode + frozen.forward) + (train * behind if fits_head else 0.0)
        judging = validation * behind
        epoch = train * frozen.step_behind / gain + judging
    # The network before the first step is judged as well, and those between it and the last one.
    between = _BETWEEN if fits_head and descent.patience is None else 0
    return begin + descent.epochs * epoch + (1 + between) * judging


def _in_precision(descent: Descent, costs: Costs) -> Costs:
    """`costs`, whose steps were measured in bf16 where the device is quicker with it, with those of `descent`."""
    if descent.precision != "fp32" or costs.full_precision == 1:
        return costs
    slower = costs.full_precision
    stages = (
        replace(stage, step_before=slower * stage.step_before, step_behind=slower * stage.step_behind)
        for stage in costs.stages
    )
    gain = costs.gain if costs.full_gain is None else costs.full_gain
    return replace(costs, step=slower * costs.step, gain=gain, stages=tuple(stages))


def _has_room(version: VersionFacts, preprocessing: Preprocessing) -> bool:
    """Whether the images may be kept as they are decoded."""
    train = room.decoded_bytes(version.train_images, room.kept_side(preprocessing.resize))
    kept = train + room.decoded_bytes(version.validation_images, preprocessing.crop)
    return version.max_activation_bytes is None or kept <= version.max_activation_bytes


def _frozen(stage: str | None, backbone: Backbone, costs: Costs) -> StageCosts:
    """The costs as far as `stage`, told by multiply-adds where they were not measured."""
    if stage is None:
        return StageCosts(name="", forward=0.0, step_before=0.0, step_behind=costs.step)
    for measured in costs.stages:
        if measured.name == stage:
            return measured
    share = share_up_to(backbone, stage)
    return StageCosts(
        name=stage,
        forward=share * costs.forward,
        step_before=share * costs.forward,
        step_behind=(1 - share) * costs.step,
    )


def _classifiers(plan: Plan, train: int, costs: Costs) -> float:
    """The time to fit the classifiers that a `stage_probe` compares."""
    if plan.stage == ALL_STAGES:
        growth = _growth(train, costs, most=MAX_COMPARED, last=_LAST_FIT_OF_SELECTED)
        # Profiles that were kept before it was timed have no time for all depths together.
        return _SELECT * (costs.together or costs.probes) * growth
    if plan.stage == BEST_STAGE:
        # Only the best one is fitted in the end.
        others = _FIT * (1 - _LAST_FIT) * max(0.0, costs.probes - costs.probe)
        return _fit(costs.probe, train, costs) + others * _growth(train, costs, most=MAX_CROSS_VALIDATED, last=0.0)
    return _fit(costs.probe, train, costs)


def _fit(measured: float, train: int, costs: Costs) -> float:
    """The time to choose the penalty of a classifier and to fit it, of which cross-validation took `measured`."""
    return _FIT * measured * _growth(train, costs, most=MAX_CROSS_VALIDATED, last=_LAST_FIT)


def _growth(train: int, costs: Costs, *, most: int, last: float) -> float:
    """How many times as long `train` images of all labels take as those that were measured, where `most` of them are
    chosen with, and the share `last` of the time goes into the fit to all."""
    if not costs.measured:
        return 1.0
    return costs.labels * ((1 - last) * min(train, most) + last * train) / costs.measured


def _memory(plan: Plan, backbone: Backbone, images: int | None, *, per_pixel: float | None = None) -> int | None:
    """Bytes for the network and so many images at a time, a batch of them for None. Where `backbone` does not tell what
    is kept of an image, that is so many bytes `per_pixel`; None where neither is known."""
    weights = backbone.parameters * _BYTES
    if plan.descent is None:
        return None if backbone.activations is None else weights + backbone.activations * _BYTES
    each = _kept(plan, backbone, per_pixel)
    if each is None:
        return None
    behind = 1 - share_up_to(backbone, plan.freeze)
    kept = behind * each * (images or plan.descent.batch_size)
    beside = _trained(backbone, plan.freeze) * _BYTES * _BESIDES[plan.descent.optimizer]
    average = weights if plan.descent.ema else 0
    return round(weights + beside + average + _PEAK * kept)


def _kept(plan: Plan, backbone: Backbone, per_pixel: float | None) -> float | None:
    """Bytes that a step of all layers keeps of an image for the way back."""
    crop = backbone.preprocessing_with(plan.weights).crop
    if backbone.kept_bytes is not None:
        return float(backbone.kept_bytes * (crop / backbone.input_size) ** 2)
    return None if per_pixel is None else per_pixel * crop**2


def _trained(backbone: Backbone, freeze: str | None) -> float:
    """How many parameters are trained behind the stage `freeze`, by multiply-adds where those of stages are not known:
    the last layers of a network may take few of these and have most parameters."""
    names = [facts.name for facts in backbone.stages]
    frozen = [facts.parameters for facts in backbone.stages[: names.index(freeze) + 1 if freeze else 0]]
    known = [count for count in frozen if count is not None]
    if len(known) == len(frozen):
        return backbone.parameters - sum(known)
    return (1 - share_up_to(backbone, freeze)) * backbone.parameters


def share_up_to(backbone: Backbone, stage: str | None) -> float:
    """The share of a network's multiply-adds up to this stage, of its stages where those are not known; 0 for none."""
    if stage is None:
        return 0.0
    names = [facts.name for facts in backbone.stages]
    macs = [facts.macs for facts in backbone.stages]
    known = [count for count in macs if count is not None]
    weights = known if len(known) == len(macs) else [1] * len(macs)
    return sum(weights[: names.index(stage) + 1]) / sum(weights)
