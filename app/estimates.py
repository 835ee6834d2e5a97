"""What a plan will take in time and memory, from what one image costs."""

from app.backbones.catalogue import Backbone
from app.plan import Estimate, Plan, VersionFacts
from app.profile import Costs

_KEPT_PER_ACTIVATION = 3
"""Values that a training keeps for each one out of a convolution: that, BatchNorm's, the activation function's."""
_BYTES = 4
_PER_PARAMETER = 3
"""Values for each parameter that is trained: itself, its gradient, its momentum."""


def of(plan: Plan, version: VersionFacts, backbone: Backbone, costs: Costs) -> Estimate:
    """The time of `plan` on the machine whose `costs` were measured, where features are not in the cache yet, and the
    memory that network and batches take."""
    return Estimate(seconds=_seconds(plan, version, backbone, costs), memory_bytes=_memory(plan, backbone))


def _seconds(plan: Plan, version: VersionFacts, backbone: Backbone, costs: Costs) -> float:
    train, validation = version.train_images, version.validation_images
    look = costs.decode + costs.forward
    features = (train + validation) * look
    if plan.descent is None:
        return features
    frozen = share_up_to(backbone, plan.freeze)
    begin = 0.0 if plan.strategy == "scratch" or plan.reinit != "none" else features
    if plan.freeze is None:
        epoch = train * (costs.decode + costs.step) + validation * look
    else:
        begin = plan.views * train * look + validation * look
        epoch = (1 - frozen) * (train * costs.step + validation * costs.forward)
    return begin + plan.descent.epochs * epoch + validation * look


def _memory(plan: Plan, backbone: Backbone) -> int | None:
    if backbone.activations is None:
        return None
    weights = backbone.parameters * _BYTES
    if plan.descent is None:
        return weights + backbone.activations * _BYTES
    trained = 1 - share_up_to(backbone, plan.freeze)
    kept = trained * backbone.activations * _KEPT_PER_ACTIVATION * plan.descent.batch_size
    return round(weights + trained * weights * (_PER_PARAMETER - 1) + kept * _BYTES)


def share_up_to(backbone: Backbone, stage: str | None) -> float:
    """The share of a network's multiply-adds up to this stage, of its stages where those are not known; 0 for none."""
    if stage is None:
        return 0.0
    names = [facts.name for facts in backbone.stages]
    macs = [facts.macs for facts in backbone.stages]
    known = [count for count in macs if count is not None]
    weights = known if len(known) == len(macs) else [1] * len(macs)
    return sum(weights[: names.index(stage) + 1]) / sum(weights)
