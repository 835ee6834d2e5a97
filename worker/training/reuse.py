"""Tables in the making, of which those that are kept already may have some rows."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.training import tablefile
from worker.training.tablefile import Draft, Names, Tables

_FILES = 8
"""That are looked at."""
_WORTHWHILE = 32
"""Rows for which a file is read, unless it has all that are missing: it is read as a whole, to see that it is not
damaged."""
_LEAST_SHARE = 0.1
"""Of all rows that must be new for those of an unfinished file to be kept: it takes the room of all."""
_ROWS = 4096
"""At a time: memory is not to depend on how many there are."""


class Known:
    """A draft of tables with rows of these `names`, and which of them it has."""

    def __init__(self, draft: Draft, names: Names) -> None:
        self._draft = draft
        self._names = names
        self._tables: Tables = {}
        self.is_there: NDArray[np.bool_] = np.zeros(len(names), bool)
        """Whether each row was taken from another file, or has been computed `(N,)`."""
        self.count = 0
        """Of rows that were taken from other files."""
        self.seconds = 0.0
        """What those took to compute, about."""

    def keep(self, *, seconds: float) -> None:
        """Leave the rows that are there to whoever computes the others, where they are many enough to be worth a file
        as large as that of all: these took so long to compute."""
        there = int(self.is_there.sum())
        if there - self.count >= max(_WORTHWHILE, _LEAST_SHARE * len(self.is_there)):
            self._draft.keep(self.is_there, seconds=self.seconds + seconds)

    def tables(self, widths: Mapping[str, int]) -> Tables:
        """Those in the making, of so many columns."""
        if not self._tables:
            self._tables = self._draft.create(self._names, widths)
        return self._tables

    def take_from(self, files: Iterable[Path]) -> None:
        """Take what they have, of the first of them."""
        for path in islice(files, _FILES):
            if not self.is_there.all():
                self._take(path)

    def _take(self, path: Path) -> None:
        theirs = tablefile.names_in(path)
        if theirs is None:
            return
        place_of = {name.tobytes(): place for place, name in enumerate(theirs) if name.any()}
        pairs = [
            (row, place_of[name])
            for row, name in enumerate(map(bytes, self._names))
            if name in place_of and not self.is_there[row]
        ]
        if len(pairs) < min(_WORTHWHILE, len(self._names) - self.count):
            return
        kept = tablefile.read(path, names=theirs)
        if kept is None:
            return
        tables = self.tables({name: values.shape[1] for name, values in kept.tables.items()})
        for start in range(0, len(pairs), _ROWS):
            rows, places = np.array(pairs[start : start + _ROWS]).T
            for name, values in kept.tables.items():
                tables[name][rows] = values[places]
            self.is_there[rows] = True
        self.count += len(pairs)
        self.seconds += kept.seconds * len(pairs) / len(place_of)
