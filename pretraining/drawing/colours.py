"""Colours for fields: palettes of a few colours that go together, drawn anew for each image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.drawing.plane import Field

Picture = NDArray[np.floating[Any]]
"""`(SIDE, SIDE, 3)`, 0 to 1."""

_ENTRIES = 256


def painted(rng: np.random.Generator, field: Field) -> Picture:
    """The field (0 to 1) in the colours of a random palette, between which it blends or jumps."""
    colours = palette(rng, int(rng.integers(2, 6)))
    stops = np.sort(rng.random(len(colours) - 2))
    places = np.concatenate([[0], stops, [1]])
    ramp = np.linspace(0, 1, _ENTRIES)
    if rng.random() < 0.25:
        table = colours[np.searchsorted(places[1:-1], ramp)]
    else:
        table = np.stack([np.interp(ramp, places, colours[:, channel]) for channel in range(3)], axis=1)
    return table.astype(np.float32)[(field * (_ENTRIES - 1)).astype(np.intp)]


def palette(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Colours `(count, 3)`, 0 to 1: hues around one, two or any, dark to light more often than not."""
    spread = rng.choice([0.03, 0.08, 0.5])
    hues = rng.random() + rng.uniform(-spread, spread, count) + 0.5 * rng.integers(0, 2, count) * (rng.random() < 0.3)
    saturations = np.clip(rng.beta(1.3, 1.6) + rng.normal(0, 0.15, count), 0, 1)
    values = rng.uniform(0.05, 1, count)
    if rng.random() < 0.7:
        values.sort()
    if rng.random() < 0.5:
        values = values[::-1]
    return _rgb(hues % 1, saturations, values)


def _rgb(hue: NDArray[np.float64], saturation: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of hue, saturation and value, each `(N,)` 0 to 1."""
    sector = (np.array([5, 3, 1]) + hue[:, None] * 6) % 6
    missing = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb: NDArray[np.float64] = value[:, None] * (1 - saturation[:, None] * missing)
    return rgb
