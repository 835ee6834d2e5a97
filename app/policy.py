"""Which layers to train, decided by what was measured: the case studies' two by two rule as a function of a profile.

| | similar to what the backbone knows | dissimilar |
|---|---|---|
| little data | a new classifier (`head`), then the last stages or all | one on other stages (`stage_probe`), then all |
| much data | the top stages (`top`) where few errors are left, or all | all stages (`full`) |

Each side is measured, not asked for. Nothing here knows a dataset by name; thresholds are round figures, with their
reasons beside them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from app import descent as descents
from app import expectation
from app.facts import NetworkFacts, VersionFacts
from app.narrowing import left_out, narrowed
from app.plan import Amount, Estimate, Likeness, Plan, Quadrant, halfway, resolve
from app.profile import HEAD, Depth, Probe, Profile
from app.recipe import ALL_STAGES, FIELDS, Recipe, Strategy
from app.wording import percent

Chosen = Literal["head", "stage_probe", "top", "full"]

_Choice = tuple[Chosen, str | None, str]
"""A strategy, the last stage that stays as it is, and the reason."""

MUCH_IMAGES = 1000
"""With this many training images, or more, there is much data. Of the nine sets in table B.5 of Chen et al. (2020),
with 2,000 images and more, fine-tuning gained on seven; on sets of a few hundred it mostly gains nothing."""

MUCH_EACH = 20
"""... if there are so many of each label as well, on average."""

BORDERLINE_IMAGES = 500
"""From here on there is much data where the learning curve is flat already."""

FLAT = 0.02
"""The curve is flat where twice the images raise the accuracy by less."""

FAMILIAR = 0.5
"""Similar is what the pre-trained features get right of what random ones get wrong, if it is at least this share."""

OF_USE = 0.2
"""... and what is frozen must get right at least this share, or random values would be nearly as good to build on. It
was chosen when two sets were seen: one with 0.10 and 0.17, where to freeze cost points, and one with 0.25 to 0.39."""

STANDARD_ERRORS = 2.0
"""By how much an earlier stage must beat the top for the data to count as dissimilar."""

TELLING = 0.02
"""Share of images that the best classifier on fixed features must miss before the last stages are tried with little,
similar data: of a few hundred images fewer are too few to tell whether it did any good."""

FEW_STAGES = 2
"""So many of the last stages are trained then."""

ROOM = 0.15
"""Share of images that the best classifier on fixed features must miss before all layers are tried with little data."""

ROOM_OF_MUCH = 0.1
"""... with much, similar data, which has more images to learn the rest from. Where less is missed, the top stages leave
a point or two behind at the most, and take a fraction of the time."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to train, and why."""

    quadrant: Quadrant
    strategy: Chosen
    rival: Chosen
    """A classifier on fixed features, which costs next to nothing: it is kept where it does better."""
    rival_stage: str | None
    """Where the rival is a `stage_probe`, the stage, or `all`."""
    freeze: str | None
    """Where the strategy is `top`, the last stage that stays as it is."""
    is_leaving: bool
    """Whether the pre-trained values are to be left as far behind as random ones would be."""
    reasons: tuple[str, ...]


def plan(recipe: Recipe, profile: Profile, version: VersionFacts, network: NetworkFacts) -> Plan:
    """The plan for a `recipe` that leaves the strategy open; what it sets by hand stays as it is. Raises `UnknownName`
    and `Invalid`."""
    decision = decide(recipe, profile, network.stages)
    fields = {"stage": decision.rival_stage} if decision.strategy == "stage_probe" else {"freeze": decision.freeze}
    settled, lost = narrowed(recipe, decision.strategy, **{name: value for name, value in fields.items() if value})
    if decision.is_leaving:
        settled = descents.leaving(settled, version, network)
    resolved = resolve(settled, version, network)
    # A head that is fitted first competes anyway, as the network before its first step.
    competes = decision.rival != "head" or resolved.reinit != "none"
    trains = decision.strategy in ("top", "full")
    rival = _rival(recipe, decision, version, network) if trains and competes else None
    return replace(
        resolved,
        rival=rival,
        quadrant=decision.quadrant,
        expected=expectation.expected(profile, strategy=decision.strategy, stage=resolved.stage),
        reasons=(
            *decision.reasons,
            *resolved.reasons,
            *_about_lost(lost, decision.strategy, rival),
        ),
    )


def _about_lost(lost: Sequence[str], strategy: Strategy, rival: Plan | None) -> Iterator[str]:
    """What is set by hand and not for `strategy` is left out, unless the classifier that competes takes it."""
    of_rival = [name for name in lost if rival is not None and name in FIELDS[rival.strategy]]
    yield from left_out(strategy, tuple(name for name in lost if name not in of_rival))
    if of_rival:
        yield f"Set by hand for the classifier on fixed features alone: {', '.join(of_rival)}."


def unmeasured(recipe: Recipe, version: VersionFacts, why: str, network: NetworkFacts) -> Plan:
    """The plan for a `recipe` that leaves the strategy open where, as `why` says, nothing can be measured: what is
    right for little data. Raises `UnknownName` and `Invalid`."""
    settled, lost = narrowed(recipe, "head")
    resolved = resolve(settled, version, network)
    said = f"{why[0].upper()}{why[1:]}; so the layers stay as they are, which is right for little data."
    return replace(resolved, reasons=(said, *resolved.reasons, *left_out("head", lost)))


def informed(plan: Plan, profile: Profile, estimate: Estimate, network: NetworkFacts) -> Plan:
    """`plan` with what is known of it besides: where the version lies, what to expect, what it will take."""
    return replace(
        plan,
        quadrant=locate(profile, network.stages),
        expected=expectation.expected(profile, strategy=plan.strategy, stage=plan.stage),
        estimate=estimate,
    )


def _rival(recipe: Recipe, decision: Decision, version: VersionFacts, network: NetworkFacts) -> Plan:
    settled, _ = narrowed(recipe, decision.rival, **({"stage": decision.rival_stage} if decision.rival_stage else {}))
    return resolve(settled, version, network)


def decide(recipe: Recipe, profile: Profile, stages: Sequence[str]) -> Decision:
    """What to train of a network with these `stages` on the version that `profile` tells of, where `recipe` leaves that
    open."""
    quadrant = locate(profile, stages)
    rival, stage = _best_fixed(profile)
    choose = _RULES[quadrant.amount, quadrant.likeness]
    strategy, freeze, reason = choose(profile, stages, recipe.freeze)
    if strategy not in ("top", "full"):
        strategy = rival
    left = _left_behind(profile, stages, quadrant.amount) if strategy == "full" else None
    return Decision(
        quadrant=quadrant,
        strategy=strategy,
        rival=rival,
        rival_stage=stage,
        freeze=freeze,
        is_leaving=left is not None,
        reasons=(
            *quadrant.evidence,
            reason,
            *([left, *descents.about_leaving(recipe)] if left else []),
            _about_fixed(profile, rival, stage),
        ),
    )


def locate(profile: Profile, stages: Sequence[str]) -> Quadrant:
    """How much data there is, and how close it is to what the backbone with these `stages` knows."""
    amount, amount_evidence = _amount(profile)
    likeness, likeness_evidence = _likeness(profile, stages)
    return Quadrant(amount=amount, likeness=likeness, evidence=(*amount_evidence, *likeness_evidence))


def _amount(profile: Profile) -> tuple[Amount, tuple[str, ...]]:
    each = profile.images / profile.classes
    gain = profile.gain_of_doubling
    counted = f"{profile.images} training images, {each:.0f} of each of {profile.classes} labels on average"
    curve = "" if gain is None else f"; twice the images changed the probe's accuracy by {100 * gain:+.1f} points"
    enough = profile.images >= MUCH_IMAGES
    borderline = profile.images >= BORDERLINE_IMAGES and gain is not None and gain < FLAT
    amount: Amount = "much" if each >= MUCH_EACH and (enough or borderline) else "little"
    return amount, (f"{amount.capitalize()} data: {counted}{curve}.",)


def _likeness(profile: Profile, stages: Sequence[str]) -> tuple[Likeness, tuple[str, ...]]:
    pretrained, random = _with_and_without(profile)
    share = (pretrained - random) / max(1 - random, 1e-9)
    is_solved = _is_solved(profile)
    worth = f"pre-training removes {percent(max(share, 0.0))} of the errors."
    evidence = [
        f"on {_few_images(profile)} a linear classifier on {profile.backbone}'s features is right for "
        f"{percent(pretrained)}, with random values in place of the pre-trained ones for {percent(random)}: "
        f"{'too few errors are left to tell what pre-training is worth.' if is_solved else worth}"
    ]
    earlier = _better_than_top(profile, stages)
    if earlier is not None:
        evidence.append(
            f"Stage {earlier.name} tells the labels apart better than the top does "
            f"({percent(earlier.probe.accuracy)} against {percent(profile.depth(HEAD).probe.accuracy)}): "
            "what comes behind it is made for other things."
        )
    likeness: Likeness = "similar" if (is_solved or share >= FAMILIAR) and earlier is None else "dissimilar"
    evidence[0] = f"{likeness.capitalize()} data: {evidence[0]}"
    return likeness, tuple(evidence)


def _few_images(profile: Profile) -> str:
    labels = profile.random_labels or profile.measured_labels
    return f"{profile.random_images} images{f' of {labels} of the {profile.classes} labels' if labels else ''}"


def _with_and_without(profile: Profile) -> tuple[float, float]:
    """The accuracy of the probe at the head, and the best one on random values, on the same images."""
    known = {depth.name: depth for depth in profile.reference or profile.depths}
    return known[HEAD].probe.accuracy, max(depth.probe.accuracy for depth in profile.random)


def _is_solved(profile: Profile) -> bool:
    """Whether random values, as the pre-trained ones, leave too few errors to tell what the pre-training is worth."""
    return min(_with_and_without(profile)) > 1 - TELLING


def _better_than_top(profile: Profile, stages: Sequence[str]) -> Depth | None:
    """The best stage before the last one, if it beats the top by more than chance."""
    top = profile.depth(HEAD).probe
    # The last stage gives the head its features; that it does as well as the head says nothing. (Where it does nothing
    # but that, the profile has no figures of it besides.)
    earlier = [depth for depth in profile.depths if depth.name not in (HEAD, stages[-1])]
    best = max(earlier, key=lambda depth: depth.probe.accuracy, default=None)
    if best is None or best.probe.accuracy - top.accuracy <= STANDARD_ERRORS * max(best.probe.error, top.error):
        return None
    return best


def _of_little_use(profile: Profile, stage: str) -> str | None:
    """That the pre-trained values up to `stage` are of little more use here than random ones; None where they are of
    some, or where it was not measured."""
    known = {depth.name: depth.probe.accuracy for depth in profile.reference or profile.depths}
    random = max(depth.probe.accuracy for depth in profile.random)
    if stage not in known or known[stage] - random >= OF_USE * (1 - random):
        return None
    return (
        f"a linear classifier on {stage}'s features is right for {percent(known[stage])}, on those of random values "
        f"for {percent(random)}"
    )


def _left_behind(profile: Profile, stages: Sequence[str], amount: Amount) -> str | None:
    """That what the network knows has to be left behind, for all to learn from, and why; None where it is of use."""
    if amount == "much":
        # What only the upper half knows, so much data teaches it anew.
        stage = stages[0] if len(stages) < 2 else halfway(stages)
        where = f"up to {stage}"
    else:
        stage = max(profile.reference or profile.depths, key=lambda depth: depth.probe.accuracy).name
        where = f"even at {stage}" if stage == HEAD else f"up to {stage}, and behind it,"
    useless = _of_little_use(profile, stage)
    if useless is None:
        return None
    return f"What it knows {where} is of little use here: {useless}."


def _best_fixed(profile: Profile) -> tuple[Chosen, str | None]:
    """The best classifier on fixed features: on the top, unless others are better by more than one standard error."""
    top = profile.depth(HEAD).probe
    best = min(profile.depths, key=lambda depth: depth.probe.log_loss)
    choices: list[tuple[Chosen, str | None, Probe]] = [
        ("stage_probe", best.name, best.probe),
        ("stage_probe", ALL_STAGES, profile.together),
    ]
    winner = max(choices, key=lambda choice: choice[2].accuracy)
    if winner[1] != HEAD and winner[2].accuracy - top.accuracy > max(winner[2].error, top.error):
        return winner[0], winner[1]
    return "head", None


def _about_fixed(profile: Profile, strategy: Chosen, stage: str | None) -> str:
    if strategy == "head":
        return "No other stage's features, nor those of all stages, are better than the top's by more than chance."
    where = "all stages together" if stage == ALL_STAGES else f"stage {stage}"
    probe = profile.together if stage == ALL_STAGES else profile.depth(str(stage)).probe
    return (
        f"Of the classifiers on fixed features the one on {where} is the best: {percent(probe.accuracy)} against "
        f"{percent(profile.depth(HEAD).probe.accuracy)} at the top."
    )


def _missed(profile: Profile) -> float:
    """The share of images that the best classifier on fixed features misses, of all labels at the most."""
    best = max(profile.together.accuracy, *(depth.probe.accuracy for depth in profile.depths))
    return min(1.0, (1 - best) * profile.more_labels)


def _told(missed: float, profile: Profile) -> str:
    return f"{'' if profile.measured_labels is None else 'up to '}{percent(missed)}"


def _little_similar(profile: Profile, stages: Sequence[str], by_hand: str | None) -> _Choice:
    missed = _missed(profile)
    if missed < TELLING or len(stages) < 2:
        return "head", None, "Little and similar data: only a new classifier is trained, the layers stay as they are."
    if by_hand is None and missed >= ROOM:
        return "full", None, _about_all_layers("Little and similar", profile)
    freeze = by_hand or stages[max(0, len(stages) - 1 - FEW_STAGES)]
    reason = (
        f"Little and similar data, of which classifiers on fixed features miss {_told(missed, profile)}: from a new "
        f"classifier on, what comes behind {freeze} is trained too, and kept if that does better."
    )
    return "top", freeze, reason


def _little_dissimilar(profile: Profile, _stages: Sequence[str], _by_hand: str | None) -> _Choice:
    if _missed(profile) < ROOM:
        return "stage_probe", None, "Little and dissimilar data: a classifier on the stage that suits it best."
    return "full", None, _about_all_layers("Little and dissimilar", profile)


def _about_all_layers(quadrant: str, profile: Profile) -> str:
    return (
        f"{quadrant} data, of which classifiers on fixed features miss {_told(_missed(profile), profile)}: "
        "all layers are trained too, and the classifier on fixed features is kept if that does better."
    )


def _much_similar(profile: Profile, stages: Sequence[str], by_hand: str | None) -> _Choice:
    if _is_solved(profile) and _missed(profile) < TELLING:
        return "head", None, "Much data that features tell apart as they are: only a new classifier is trained."
    if len(stages) < 2:
        return "full", None, "Much and similar data; the network has a single stage, so all of it is trained."
    freeze = by_hand or halfway(stages)
    if by_hand is None and _of_little_use(profile, freeze) is not None:
        return "full", None, "Much data, similar at the top alone: all stages are trained."
    if by_hand is None and _missed(profile) >= ROOM_OF_MUCH:
        return "full", None, _about_all_layers("Much and similar", profile)
    return "top", freeze, f"Much and similar data: the stages behind {freeze} are trained, those before it stay."


def _much_dissimilar(_profile: Profile, _stages: Sequence[str], _by_hand: str | None) -> _Choice:
    return "full", None, "Much and dissimilar data: all stages are trained."


_Rule = Callable[[Profile, Sequence[str], str | None], _Choice]
"""From a profile, the stages, and the last of them that is to stay as it is, if that was set by hand."""

_RULES: dict[tuple[Amount, Likeness], _Rule] = {
    ("little", "similar"): _little_similar,
    ("little", "dissimilar"): _little_dissimilar,
    ("much", "similar"): _much_similar,
    ("much", "dissimilar"): _much_dissimilar,
}
