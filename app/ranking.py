"""Which of several networks suits a dataset version best, and at what cost. Values and their comparison only, shared by
the API, the stored ranking, the choice of a backbone and the measuring."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations

from app import errors
from app.described import described
from app.profile import Probe

OUT_OF_MEMORY = "out_of_memory"
"""Why a network was refused that had no room on the device."""
_MEMORY_CHANGES = timedelta(hours=6)

OWN = "own"
"""In place of the name of published weights, where the network is that of a model."""


@described
@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of one image by itself through a network, decoded already, on the device of the ranking."""

    seconds: float
    """The median of all runs."""
    runs: int


@described
@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one prediction takes."""

    parameters: int
    """With a classifier for the labels of the version."""
    size_bytes: int
    """Of all values as they are stored."""
    macs: int | None
    """Multiply-adds of one image; None where they are not known."""
    latency: Latency


@described
@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """A network and how well its features suit the version; every figure comes from the training images alone."""

    name: str
    """A backbone, or a model and its version as `name@version`."""
    weights: str
    """Name of the published weights; `own` where the network is that of a model."""
    weights_sha256: str
    features: int
    """How many a new classifier would get for an image."""
    log_me: float
    """Mean log evidence in nats an image (LogME)."""
    h_score: float
    """How much of the features' spread lies between the labels: from 0 to the number of labels less one."""
    neighbours: float
    """Share of images, 0-1, that have the label of most of their nearest ones."""
    probe: Probe
    cost: Cost
    has_seen: bool
    """Whether images of this version may have been trained on, which makes all its figures too good."""
    seconds: float
    """That all of this took."""
    cached: bool
    """Whether the features were there already."""

    @property
    def is_own(self) -> bool:
        """Whether it is the network of a model, and not a backbone as it was published."""
        return self.weights == OWN


@described
@dataclass(frozen=True, kw_only=True)
class Refused:
    """A network that could not be measured, and why."""

    name: str
    code: str
    message: str
    file: str | None = None
    """What tells the file of its weights from others, where it was at hand."""

    def is_of(self, file: str) -> bool:
        """Whether it was refused with this file, of which `weights.identify` tells. Where its weights were of no use,
        the very same: it may have been damaged, and have the same name now. Otherwise one with the same content."""
        if self.code == errors.WeightsUnavailable.default_code:
            return self.file == file  # one that was refused before its file was kept is tried again
        digits, others = (known.partition(" ")[0] for known in (self.file or "", file))
        return digits.startswith(others) or others.startswith(digits)


@described
@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a network stands: 1 is best, and networks that do alike by a score share the best of their places."""

    name: str
    combined: int
    """Its place in the ranking as a whole."""
    by_score: Mapping[str, float]


@described
@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two scores put the networks in the same order: Kendall's tau-b, from -1 to 1."""

    first: str
    second: str
    tau: float | None
    """None where one of them tells no two networks apart."""


@described
@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was ranked on, and where."""

    classes: int
    images: int
    """Training images of the version."""
    measured_images: int
    """... that the figures come from."""
    measured_labels: int | None = None
    """Where these are of labels that were drawn from all, how many."""
    seed: int
    device: str
    """`cpu` or `cuda`."""
    threads: int
    machine: str | None = None
    """The processor or GPU, as its maker calls it; None in rankings that were made before it was kept."""


@described
@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The networks in order, the most promising first."""

    setting: Setting
    measured: tuple[MeasuredNetwork, ...]
    """In the order of the ranking."""
    places: tuple[Place, ...]
    """In the same order."""
    agreements: tuple[Agreement, ...]
    refused: tuple[Refused, ...]
    remarks: tuple[str, ...]
    """What to know before going by the order: above all, where the scores disagree."""

    @property
    def best(self) -> MeasuredNetwork:
        """The first that has not seen the images, or the first of all where every one has."""
        return self.comparable[0]

    @property
    def comparable(self) -> Sequence[MeasuredNetwork]:
        """Those that have not seen the images, or all where every one has, in order."""
        return _comparable(self.measured)

    @property
    def names(self) -> set[str]:
        """Of all networks that were looked at."""
        return {entry.name for entry in self.measured} | {entry.name for entry in self.refused}

    def is_of(self, files: Mapping[str, str]) -> bool:
        """Whether these very networks were looked at; `files` has what `weights.identify` tells of each."""
        return (
            self.names == files.keys()
            and all(entry.weights_sha256.startswith(files[entry.name].partition(" ")[0]) for entry in self.measured)
            and all(entry.is_of(files[entry.name]) for entry in self.refused)
        )

    def is_outdated(self, age: timedelta) -> bool:
        """Whether, after so long, a network may find the memory that it had not: others may have used it then."""
        return age > _MEMORY_CHANGES and any(entry.code == OUT_OF_MEMORY for entry in self.refused)


SCORES: Mapping[str, Callable[[MeasuredNetwork], float]] = {
    "log_me": lambda entry: entry.log_me,
    "h_score": lambda entry: entry.h_score,
    "neighbours": lambda entry: entry.neighbours,
    "probe": lambda entry: entry.probe.accuracy,
}
"""What networks are put in order by; higher is better."""

TITLES = {"log_me": "LogME", "h_score": "H-score", "neighbours": "kNN", "probe": "probe"}

_AGREE = 0.6
"""Two scores whose tau is lower are said to disagree."""


def ranks(values: Sequence[float]) -> list[float]:
    """The place of each of `values` when the highest comes first, counted from 1; the mean place of equal ones."""
    return [
        1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def shared(values: Sequence[float]) -> list[int]:
    """The place of each of `values` as it is told: as `ranks`, but the best place of equal ones."""
    return [1 + sum(other > value for other in values) for value in values]


def combined(by_score: Mapping[str, Sequence[float]]) -> list[float]:
    """From the places of each network by each score, what the ranking goes by; less is better.

    It is the mean of the place by the probe and of the mean place by LogME and H-score: none of these wins everywhere,
    and the probe, which is fitted to the images, tells apart what the other two, which are formulas, take for alike.
    """
    places = zip(by_score["log_me"], by_score["h_score"], by_score["probe"], strict=True)
    return [((log_me + h_score) / 2 + probe) / 2 for log_me, h_score, probe in places]


def tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two scores of the same things; None where one of them is the same for all."""
    pairs = [(_sign(first[i] - first[j]), _sign(second[i] - second[j])) for i, j in combinations(range(len(first)), 2)]
    told = sum(one != 0 for one, _ in pairs) * sum(two != 0 for _, two in pairs)
    return sum(one * two for one, two in pairs) / told**0.5 if told else None


def order(setting: Setting, measured: Sequence[MeasuredNetwork], refused: Sequence[Refused]) -> Ranking:
    """The ranking of `measured`.

    Of networks that stand alike, the one with the better probe comes first, and then the quicker one.
    """
    scores = {name: [of(entry) for entry in measured] for name, of in SCORES.items()}
    by_score = {name: shared(values) for name, values in scores.items()}
    together = combined({name: ranks(values) for name, values in scores.items()})
    rows = sorted(
        range(len(measured)),
        key=lambda row: (
            together[row],
            -measured[row].probe.accuracy,
            measured[row].probe.log_loss,
            measured[row].cost.latency.seconds,
            measured[row].name,
        ),
    )
    places = tuple(
        Place(name=measured[row].name, combined=number, by_score={name: by_score[name][row] for name in SCORES})
        for number, row in enumerate(rows, 1)
    )
    agreements = tuple(
        Agreement(first=one, second=two, tau=tau(scores[one], scores[two])) for one, two in combinations(SCORES, 2)
    )
    ordered = tuple(measured[row] for row in rows)
    return Ranking(
        setting=setting,
        measured=ordered,
        places=places,
        agreements=agreements,
        refused=tuple(refused),
        remarks=tuple(_remarks(ordered, places, agreements, refused)),
    )


def _remarks(
    ordered: Sequence[MeasuredNetwork],
    places: Sequence[Place],
    agreements: Sequence[Agreement],
    refused: Sequence[Refused],
) -> Iterable[str]:
    fair = _comparable(ordered)
    seen = [entry.name for entry in ordered if entry.has_seen]
    others = "; what is said of the first is of the others" if 1 < len(fair) < len(ordered) else ""
    if seen:
        yield f"{', '.join(seen)}: trained on images of this data set before, so the figures are too good{others}."
    if len(fair) > 1:
        names = {entry.name for entry in fair}
        yield _about_first([place for place in places if place.name in names])
    if len(ordered) > 1:
        yield _about_agreement(agreements)
    if len(fair) > 1:
        yield _about_chance(fair)
    yield from map(not_ranked, refused)


def not_ranked(entry: Refused) -> str:
    """The remark on a network that could not be measured."""
    return f"{entry.name} is not ranked: {entry.message}"


def _comparable(ordered: Sequence[MeasuredNetwork]) -> Sequence[MeasuredNetwork]:
    """Those that have not seen the images; all where every one has."""
    return [entry for entry in ordered if not entry.has_seen] or ordered


def _about_first(places: Sequence[Place]) -> str:
    firsts: dict[str, list[str]] = {}
    for score in SCORES:
        best = min(place.by_score[score] for place in places)
        winners = [place.name for place in places if place.by_score[score] == best]
        firsts.setdefault(" and ".join(winners), []).append(TITLES[score])
    if len(firsts) == 1:
        return f"All scores put {next(iter(firsts))} first."
    told = "; ".join(f"{', '.join(scores)}: {name}" for name, scores in firsts.items())
    return f"The scores disagree on which is first: {told}."


def _about_agreement(agreements: Sequence[Agreement]) -> str:
    known = [(one.tau, one) for one in agreements if one.tau is not None]
    if not known:
        return "No two scores can be compared, for they tell no two networks apart."
    lowest, least = min(known, key=lambda pair: pair[0])
    between = f"{TITLES[least.first]} and {TITLES[least.second]}"
    if lowest >= _AGREE:
        least_of_all = "1.00" if (said := f"{lowest:.2f}") == "1.00" else f"at least {said}"
        return f"On the order of all they agree: Kendall's tau is {least_of_all} between any two scores."
    return f"On the order of all they disagree: Kendall's tau between {between} is {lowest:.2f}."


def _about_chance(ordered: Sequence[MeasuredNetwork]) -> str:
    first = ordered[0]
    near = [
        entry.name
        for entry in ordered[1:]
        if abs(entry.probe.accuracy - first.probe.accuracy) <= max(entry.probe.error, first.probe.error)
    ]
    if not near:
        return f"By the probe no other is within one standard error of {first.name}."
    return f"By the probe {', '.join(near)} cannot be told from {first.name}: within one standard error."


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
