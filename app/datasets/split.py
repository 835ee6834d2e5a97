"""The split into train and validation: stratified by label, seeded, the same in whatever order items come, with near
copies of an image in one of the two."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from app import errors
from app.datasets import alike
from app.datasets.archive import Split
from app.wording import counted

_TOLD = 10
"""Labels with too few images that an error names."""


@dataclass(frozen=True)
class Candidate:
    """An image that is to become an item, or is one; `split` is None where nothing says it."""

    sha256: str
    label: str
    split: Split | None
    difference_hash: int


def assign(
    candidates: Sequence[Candidate], *, held: Iterable[Candidate], validation_fraction: float, seed: int
) -> list[Split]:
    """A split for each candidate, next to the items that are `held` and stay where they are.

    Near copies of one image with the same label come into one split, that of those which are there already: a network
    would be judged by what it has learnt from. Where the label could not be divided by about the fraction without that,
    one group of such copies is, or the fewest of those that follow what is there. Raises `BadArchive` for labels that
    cannot be in both splits.
    """
    by_label: dict[str, list[int]] = defaultdict(list)
    for place, candidate in enumerate(candidates):
        by_label[candidate.label].append(place)
    there: dict[str, list[Candidate]] = defaultdict(list)
    for item in held:
        there[item.label].append(item)
    chosen: dict[int, Split] = {}
    lacking: dict[str, Counter[Split | None]] = {}
    for label, places in sorted(by_label.items()):
        new = [candidates[place] for place in places]
        splits = _divided(label, new, there[label], fraction=validation_fraction, seed=seed)
        chosen.update(zip(places, splits, strict=True))
        counts = Counter((*splits, *(item.split for item in there[label])))
        if not (counts["train"] and counts["validation"]):
            lacking[label] = counts
    if lacking:
        raise _too_few(lacking)
    return [chosen[place] for place in range(len(candidates))]


def _divided(
    label: str, new: Sequence[Candidate], there: Sequence[Candidate], *, fraction: float, seed: int
) -> list[Split]:
    """The splits of the `new` images of a label, of which some are `there`."""
    names = alike.copies([image.difference_hash for image in (*new, *there)])
    settled: dict[int, set[Split]] = defaultdict(set)
    for name, image in zip(names, (*new, *there), strict=True):
        if image.split is not None:
            settled[name].add(image.split)
    joined = _joined([image.split for image in (*new, *there)], names, settled, fraction)
    given = [image.split or joined.get(name) for name, image in zip(names, new, strict=False)]
    counts = Counter(split for split in (*given, *(image.split for image in there)) if split is not None)
    open_places = sorted(
        (place for place, split in enumerate(given) if split is None), key=lambda place: new[place].sha256
    )
    random.Random(f"{seed} {label}").shuffle(open_places)
    units: dict[int, list[int]] = {}
    for place in open_places:
        # Of copies that lie in both splits there is nothing to keep together.
        units.setdefault(-1 - place if settled[names[place]] else names[place], []).append(place)
    held_out = _held_out(list(units.values()), counts, fraction)
    return [split or ("validation" if place in held_out else "train") for place, split in enumerate(given)]


def _joined(
    splits: Sequence[Split | None], names: Sequence[int], settled: Mapping[int, set[Split]], fraction: float
) -> dict[int, Split]:
    """The split of those groups whose images without one come to the others, of images in the groups `names`: all that
    are `settled` in a single split, but for the largest where they would leave the other too few."""
    joined = {name: next(iter(found)) for name, found in settled.items() if len(found) == 1}
    sizes = Counter(name for name, split in zip(names, splits, strict=True) if split is None)
    wanted = round(fraction * len(splits))
    enough: dict[Split, int] = {"validation": max(1, (wanted + 1) // 2), "train": max(1, (len(splits) - wanted) // 2)}
    taken = Counter(split or joined.get(name) for name, split in zip(names, splits, strict=True))
    for name in sorted(joined.keys() & sizes.keys(), key=lambda name: (-sizes[name], name)):
        split = joined[name]
        other: Split = "train" if split == "validation" else "validation"
        if taken[other] + taken[None] < enough[other]:
            del joined[name]
            taken[split] -= sizes[name]
            taken[None] += sizes[name]
    return joined


def _held_out(units: Sequence[list[int]], counts: Mapping[Split, int], fraction: float) -> set[int]:
    """The places of those images that go to validation, of `units` that are better not divided."""
    available = sum(map(len, units))
    wanted = _validation_images(counts, available, fraction)
    found: list[int] = []
    left: list[list[int]] = []
    for unit in units:
        if len(found) + len(unit) <= wanted:
            found += unit
        else:
            left.append(unit)
    short = wanted - len(found)
    if not short:
        return set(found)
    smallest = min(left, key=len)
    over = len(smallest) - short
    bearable = max(1, wanted // 2)
    has_room = over <= bearable and counts["train"] + available - len(found) - len(smallest) > 0
    if has_room and over < short:
        return {*found, *smallest}
    if short <= bearable and counts["validation"] + len(found) > 0:
        return set(found)
    return {*found, *(smallest if has_room else smallest[:short])}


def count(items: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Label → split → number of the items, given as (label, split); labels in order."""
    counts: dict[str, dict[str, int]] = {}
    for label, split in sorted(items):
        counts.setdefault(label, {"train": 0, "validation": 0})[split] += 1
    return counts


def _validation_images(counts: Mapping[Split, int], available: int, fraction: float) -> int:
    """How many of the available images go to validation: the fraction of all, and one in each split where possible."""
    total = counts["train"] + counts["validation"] + available
    wanted = round(fraction * total) - counts["validation"]
    lowest = 0 if counts["validation"] else 1
    highest = available if counts["train"] else available - 1
    return max(0, min(max(wanted, lowest), highest))


def _too_few(lacking: Mapping[str, Mapping[Split | None, int]]) -> errors.BadArchive:
    """The error for labels that are not in both splits; it says of the first ten how many images they have in each."""
    told = [
        f"class {label!r} has {counted(counts['train'], 'usable image')} to train on and {counts['validation']} to "
        "validate with"
        for label, counts in islice(lacking.items(), _TOLD)
    ]
    more = f", and so on for {len(lacking) - _TOLD} more" if len(lacking) > _TOLD else ""
    first, counts = next(iter(lacking.items()))
    return errors.BadArchive(
        f"{', '.join(told)}{more}; each class needs one or more of both",
        code="too_few_images",
        detail={
            "label": first,
            "train": counts["train"],
            "validation": counts["validation"],
            "labels": [*islice(lacking, _TOLD)],
        },
    )
