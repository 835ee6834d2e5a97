"""The split into train and validation: stratified by label, seeded, the same in whatever order items come."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app import errors
from app.datasets.archive import Split
from app.wording import counted


@dataclass(frozen=True)
class Candidate:
    """An image that is to become an item; `split` is None where nothing says it."""

    sha256: str
    label: str
    split: Split | None


def assign(
    candidates: Sequence[Candidate], *, held: Mapping[str, Mapping[str, int]], validation_fraction: float, seed: int
) -> list[Split]:
    """A split for each candidate, next to the `held` counts (label → split → items) that stay as they are.

    Raises `BadArchive` for a label that cannot be in both splits.
    """
    by_label: dict[str, list[int]] = defaultdict(list)
    for place, candidate in enumerate(candidates):
        by_label[candidate.label].append(place)
    chosen: dict[int, Split] = {}
    for label, places in sorted(by_label.items()):
        counts = {"train": 0, "validation": 0, **held.get(label, {})}
        open_places = []
        for place in places:
            given = candidates[place].split
            if given is None:
                open_places.append(place)
            else:
                chosen[place] = given
                counts[given] += 1
        open_places.sort(key=lambda place: candidates[place].sha256)
        random.Random(f"{seed} {label}").shuffle(open_places)
        wanted = _validation_images(counts, len(open_places), validation_fraction)
        chosen.update({place: "validation" if i < wanted else "train" for i, place in enumerate(open_places)})
        _check_both(label, counts, wanted, len(open_places))
    return [chosen[place] for place in range(len(candidates))]


def count(items: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Label → split → number of the items, given as (label, split); labels in order."""
    counts: dict[str, dict[str, int]] = {}
    for label, split in sorted(items):
        counts.setdefault(label, {"train": 0, "validation": 0})[split] += 1
    return counts


def _validation_images(counts: Mapping[str, int], available: int, fraction: float) -> int:
    """How many of the available images go to validation: the fraction of all, and one in each split where possible."""
    total = counts["train"] + counts["validation"] + available
    wanted = round(fraction * total) - counts["validation"]
    lowest = 0 if counts["validation"] else 1
    highest = available if counts["train"] else available - 1
    return max(0, min(max(wanted, lowest), highest))


def _check_both(label: str, counts: Mapping[str, int], validation: int, available: int) -> None:
    train = counts["train"] + available - validation
    held_out = counts["validation"] + validation
    if train and held_out:
        return
    raise errors.BadArchive(
        f"class {label!r} has {counted(train, 'usable image')} to train on and {held_out} to validate with; "
        "each class needs one or more of both",
        code="too_few_images",
        detail={"label": label, "train": train, "validation": held_out},
    )
