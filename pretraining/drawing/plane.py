"""Fields of numbers over the square that is drawn on, and what textures make of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 128
"""Of everything that is drawn, in pixels."""

Field = NDArray[np.floating[Any]]
"""Values over the square, `(SIDE, SIDE)`."""

Points = NDArray[np.floating[Any]]
"""Places `(N, 2)`, x before y; -1 to 1 across the square."""

Formula = Callable[[np.random.Generator], Field]


def coordinates() -> tuple[Field, Field]:
    """x and y of each pixel's centre, -1 to 1."""
    line = ((np.arange(SIDE, dtype=np.float32) + 0.5) * 2 / SIDE - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def spectrum_noise(rng: np.random.Generator, gain: Field) -> Field:
    """Noise with the amplitude `gain` for each frequency of `frequencies()`; of mean 0 and deviation 1."""
    shape = gain.shape
    white = rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)
    return standardised(np.fft.irfft2(white * gain, s=(SIDE, SIDE)).astype(np.float32))


def frequencies() -> tuple[Field, Field]:
    """Cycles across the square along x and y, of the half plane that `irfft2` takes."""
    along_x = np.fft.rfftfreq(SIDE, 1 / SIDE).astype(np.float32)
    along_y = np.fft.fftfreq(SIDE, 1 / SIDE).astype(np.float32)
    x, y = np.meshgrid(along_x, along_y)
    return x, y


def power_noise(rng: np.random.Generator, exponent: float) -> Field:
    """Noise whose amplitude falls with frequency `f` as `1 / f ** exponent`; of mean 0 and deviation 1."""
    x, y = frequencies()
    radius = np.hypot(x, y)
    radius[0, 0] = np.inf
    return spectrum_noise(rng, radius**-exponent)


def standardised(field: Field) -> Field:
    """The field with mean 0 and deviation 1; a constant one becomes 0."""
    result: Field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return result


def levels(field: Field) -> Field:
    """The field brought to 0 to 1, its middle 98 % filling that range."""
    low, high = np.percentile(field[::2, ::2], (1, 99))
    result: Field = np.clip((field - low) / max(float(high - low), 1e-6), 0, 1)
    return result


def turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    """Coordinates turned by `angle` in radians."""
    across, down = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return across * x + down * y, across * y - down * x


def warped(rng: np.random.Generator, x: Field, y: Field, strength: float) -> tuple[Field, Field]:
    """Coordinates shifted smoothly by about `strength`."""
    if strength == 0:
        return x, y
    amount = np.float32(strength)
    return x + amount * power_noise(rng, 2.5), y + amount * power_noise(rng, 2.5)
