"""What came of a training, in words for its plan: what the plan left to the images to decide."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app import descent as descents
from app import evaluation
from app.plan import Plan, about_single_view
from app.wording import counted
from worker.training import evaluate
from worker.training.events import (
    BaseHasSeen,
    CutShort,
    Emit,
    EpochKept,
    Event,
    FeaturesSelected,
    NotKept,
    OldLabelsRaised,
    Progress,
    StageChosen,
    StartKept,
    StoppedEarly,
    TrainingDiverged,
    ViewsLimited,
    WeightsMixed,
)
from worker.training.rivals import Trained

_DECIDING = (StartKept, WeightsMixed, TrainingDiverged)


def noted(carry_out: Callable[[Emit], Trained], emit: Emit, targets: NDArray[np.int64]) -> Trained:
    """What `carry_out` gives with its `emit`; what that was told of the outcome stands among the reasons of the plan,
    and whether it is of any use for validation images with these `targets (N,)`."""
    told: list[Event] = []

    def noting(event: Event) -> None:
        emit(event)
        if not isinstance(event, Progress):  # of which there may be millions
            told.append(event)

    trained = carry_out(noting)
    plan = _as_carried_out(trained.plan, told)
    reasons = (*plan.reasons, *_outcome(trained, told), *_doubts(trained, targets))
    return replace(trained, plan=replace(plan, reasons=reasons))


def _as_carried_out(plan: Plan, told: list[Event]) -> Plan:
    """`plan` with the views of each image that were kept in the end, and without what it says of others."""
    views = _kept_views(plan, told)
    if views == plan.views or plan.descent is None:
        return plan
    untrue = {*about_single_view(plan.views, plan.descent)} - {*about_single_view(views, plan.descent)}
    if views == 1:
        untrue.add(descents.CROPPED)
    return replace(plan, views=views, reasons=tuple(reason for reason in plan.reasons if reason not in untrue))


def _kept_views(plan: Plan, told: list[Event]) -> int:
    if any(isinstance(event, NotKept) for event in told):
        return 0
    return next((event.views for event in told if isinstance(event, ViewsLimited)), plan.views)


def _outcome(trained: Trained, told: list[Event]) -> Iterator[str]:
    plan = trained.plan
    for event in told:
        yield from _said(event)
        yield from _said_of_base(event)
        yield from _said_of_views(event, plan, told)
    competes = plan.strategy in ("top", "full") and plan.reinit == "none"
    is_open = competes and plan.descent is not None and plan.descent.patience is None
    if is_open and not any(isinstance(event, _DECIDING) for event in told):
        yield "Kept is the network after the last step."


def _said(event: Event) -> Iterator[str]:
    match event:
        case StageChosen(stage, tried):
            best = next(one for one in tried if one.stage == stage)
            yield f"Stage {stage} did best, {_percent(best.accuracy)} right in cross-validation; it sees that."
        case FeaturesSelected(features, stages):
            counts = ", ".join(f"{count} of {stage}" for stage, count in stages.items())
            yield f"It sees {features} features: {counts}."
        case StartKept(start, end):
            yield (
                "Kept is the network with which the training began: its log-loss on the validation images is "
                f"{start:.3f} nats, after the last step it is {end:.3f}, each at its best temperature."
            )
        case WeightsMixed(share, start, end, loss):
            yield (
                f"Kept is what lies {_percent(share)} of the way from the network at the start to that at the end: its "
                f"log-loss on the validation images is {loss:.3f} nats, theirs {start:.3f} and {end:.3f}, each at its "
                "best temperature."
            )
        case CutShort(epoch, epochs):
            yield f"The training was ended before its time, after {epoch} of {counted(epochs, 'epoch')}."
        case EpochKept(epoch):
            yield f"Kept is {_after(epoch)}, which did best."
        case StoppedEarly(epoch, best):
            yield f"The training ended early, with epoch {epoch}; kept is {_after(best)}."
        case TrainingDiverged(epoch, kept, is_mixed) if kept is not None:
            what = f"a mixture of {_after(0)} and {_after(kept)}" if is_mixed else _after(kept)
            yield f"The training diverged in epoch {epoch}; kept is {what}. A lower learning rate may do better."


def _said_of_views(event: Event, plan: Plan, told: list[Event]) -> Iterator[str]:
    match event:
        case ViewsLimited(views, wanted) if views == _kept_views(plan, told) and plan.descent is not None:
            yield f"There was room for {views} of {wanted} views of each image."
            yield from about_single_view(views, plan.descent)
        case NotKept(reason) if plan.views:
            yield f"What the frozen stages give was computed anew in each epoch after all: {reason}."


def _said_of_base(event: Event) -> Iterator[str]:
    match event:
        case BaseHasSeen(images, all_images):
            yield (
                f"The base was trained on at least {images} of the {counted(all_images, 'validation image')}, so that "
                "accuracy, temperature and thresholds promise too much."
            )
        case OldLabelsRaised(images, new, learned, times):
            yield (
                f"A label of the base had {images:.0f} training images on average, a new one {new:.0f}, and the base "
                f"has learnt from {learned:.0f}, these included: the old ones are taken to be {times:.1f} times as "
                "frequent as in the training. The validation images are as the version has them, so that fewer of "
                "them may be right for it, and guessing by their frequencies looks better beside it; label_prior "
                "'training' leaves the old labels as rare as they are there."
            )


def _doubts(trained: Trained, targets: NDArray[np.int64]) -> Iterator[str]:
    shares = np.bincount(targets) / len(targets)
    guessing = float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    loss = evaluate.tempered_log_loss(trained.probabilities, targets)
    if loss >= guessing > 0:
        yield (
            "It tells the validation images apart no better than a guess by how frequent each label is: log-loss "
            f"{loss:.3f} nats at its best temperature, {guessing:.3f} for the guess. More images, pre-trained weights, "
            "a lower learning rate or more epochs may help."
        )
    elif said := evaluation.doubt(trained.evaluation):
        yield said


def _after(epoch: int) -> str:
    return f"the network after epoch {epoch}" if epoch else "the network with which it began"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
