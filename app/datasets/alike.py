"""Which images are near copies of one another, told by their difference hashes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

_BITS = 64
_MOST_APART = 2
"""Bits. Photos that were saved again, or made half as large, differ in no more of them in 97 of 100 cases; of different
photos of a class, a pair in thousands does."""
_MOST_COPIES = 50
"""Of one image. More are a series, as a camera that stands still takes it, or are chained by images in between:
together they would be most of a split."""
_BANDS = tuple(
    ((1 << _BITS * (band + 1) // (_MOST_APART + 1)) - 1) ^ ((1 << _BITS * band // (_MOST_APART + 1)) - 1)
    for band in range(_MOST_APART + 1)
)
"""Parts of a hash, as masks: those of two that are near copies are the same in at least one."""
_MOST_IN_BAND = 1000
"""Different hashes with the same part. Where more have it in common, as images with an empty background may, the other
parts are to tell: the work would grow with the square."""


def groups(hashes: Sequence[int]) -> list[int]:
    """For each of `hashes` the name of its group: the least hash of its near copies, of the near copies of these, and
    so on."""
    parent = {one: one for one in hashes}
    for mask in _BANDS:
        same: dict[int, list[int]] = defaultdict(list)
        for one in parent:
            same[one & mask].append(one)
        for found in same.values():
            if len(found) <= _MOST_IN_BAND:
                _join(found, parent)
    return [_root(one, parent) for one in hashes]


def copies(hashes: Sequence[int]) -> list[int]:
    """As `groups`, but each image of a series by itself: by a name below 0, which no other has."""
    names = groups(hashes)
    sizes = Counter(names)
    return [name if sizes[name] <= _MOST_COPIES else -1 - place for place, name in enumerate(names)]


def of_labels(hashes: Sequence[int], labels: Sequence[int]) -> list[int]:
    """For each image, told by its hash and its label, the place of one of those that are near copies of each other and
    have its label: the same for all of them."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    found = list(range(len(labels)))
    for members in places.values():
        names = copies([hashes[place] for place in members])
        one_of = dict(zip(names, members, strict=True))
        for place, name in zip(members, names, strict=True):
            found[place] = one_of[name]
    return found


def _join(found: Sequence[int], parent: dict[int, int]) -> None:
    for one, other in combinations(found, 2):
        if (one ^ other).bit_count() <= _MOST_APART:
            first, second = sorted((_root(one, parent), _root(other, parent)))
            parent[second] = first


def _root(one: int, parent: dict[int, int]) -> int:
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one
