"""Which accuracy to expect of a training, by what was measured."""

import math

from app import intervals
from app.intervals import Score
from app.plan import Expected
from app.profile import HEAD, Probe, Profile
from app.recipe import ALL_STAGES, BEST_STAGE, Strategy

_ERRORS_LEFT = 0.4
"""Of the probe's errors, the share that fine-tuning leaves at its best; 0.25 to 1 on Kornblith's nine sets."""


def expected(profile: Profile, *, strategy: Strategy, stage: str | None = None) -> Expected | None:
    """Where the accuracy will probably lie: Wilson's interval for the probe of the same features, and for the best one
    and further up where layers are trained; None for a training from random values, which nothing foretells. Where a
    sample was measured, the training has more images and labels: as far up as each doubling gives what the last one
    gave, and as far down as errors grow with the labels that an image can be taken for."""
    if strategy == "scratch":
        return None
    probe = _probed(profile, strategy, stage)
    interval = intervals.of_share(Score(round(probe.accuracy * profile.measured), profile.measured))
    missed = (1 - interval.low) * profile.more_labels
    high = interval.high + _gain_of_more(profile)
    if strategy in ("top", "full"):
        high = max(high, 1 - _ERRORS_LEFT * (1 - probe.accuracy))
    return Expected(low=max(0.0, 1 - missed), high=min(1.0, high))


def _gain_of_more(profile: Profile) -> float:
    """What the images besides those measured give at the most: each doubling gives less than the last."""
    gain = profile.gain_of_doubling
    if gain is None or profile.images <= profile.measured:
        return 0.0
    return max(0.0, gain) * math.log2(profile.images / profile.measured)


def _probed(profile: Profile, strategy: Strategy, stage: str | None) -> Probe:
    """Of the features that the classifier sees; the best one where they are still to be trained."""
    if strategy in ("top", "full"):
        return max([profile.together, *(depth.probe for depth in profile.depths)], key=lambda probe: probe.accuracy)
    if strategy == "stage_probe" and stage == ALL_STAGES:
        return profile.together
    if strategy == "stage_probe" and stage == BEST_STAGE:
        return min(profile.depths, key=lambda depth: depth.probe.log_loss).probe
    named = {depth.name: depth.probe for depth in profile.depths}
    # Where a network's own classifier gets the mean over its last stage, that stage's features are those of the head.
    return named.get(stage or HEAD, named[HEAD])
