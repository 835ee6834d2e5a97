"""Labels cut to fit into a picture, so that those that differ go on differing as far as there is room."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

LONGEST = 22
"""Characters of a label that is shown."""
_BEGIN, _MIDDLE, _END = 5, 10, 4


def shortened(labels: Sequence[str]) -> list[str]:
    """`labels` in their order: begin and end of the long ones, and where that is the same for several of them, a piece
    from where they begin to differ as well."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in dict.fromkeys(labels):
        alike[_cut(label)].append(label)
    shown = {label: text for cut, group in alike.items() for label, text in _told_apart(cut, group)}
    return [shown[label] for label in labels]


def _told_apart(cut: str, group: Sequence[str]) -> Iterable[tuple[str, str]]:
    if len(group) == 1:
        return [(group[0], cut)]
    letters = zip(*group, strict=False)
    first = sum(1 for _ in itertools.takewhile(lambda each: len(set(each)) == 1, letters))
    return [(label, _around(label, first)) for label in group]


def _cut(label: str) -> str:
    if len(label) <= LONGEST:
        return label
    end = (LONGEST - 1) // 2
    return f"{label[: LONGEST - 1 - end]}…{label[-end:]}"


def _around(label: str, first: int) -> str:
    """Begin and end of the label, and what is at `first` between them."""
    start = max(_BEGIN, min(first, len(label) - _END - _MIDDLE))
    return f"{label[:_BEGIN]}…{label[start : start + _MIDDLE]}…{label[-_END:]}"
