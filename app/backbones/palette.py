"""The colours of the pictures on light and on dark screens, and how well one can be told from another.

Source: Web Content Accessibility Guidelines 2.2, "relative luminance" and "contrast ratio".
"""

from dataclasses import dataclass

BLACK, WHITE = "#000000", "#ffffff"


@dataclass(frozen=True)
class Theme:
    """Colours as `#rrggbb`; each stands out from `paper` by 3 to 1 at least, but for those of the grid."""

    ink: str
    muted: str
    grid: str
    paper: str
    first: str
    second: str
    lines: tuple[str, ...]
    """Of curves, in their order."""


LIGHT = Theme(
    ink="#1f2328",
    muted="#59636e",
    grid="#d8dee4",
    paper=WHITE,
    first="#4269d0",
    second="#e8743b",
    lines=("#4269d0", "#a36f00", "#d6402b", "#0f8a78", "#8a45e0", "#6b727c"),
)
DARK = Theme(
    ink="#e6edf3",
    muted="#9ba5b0",
    grid="#30363d",
    paper="#0d1117",
    first="#7d9bf0",
    second="#f59a6b",
    lines=("#7d9bf0", "#e0a100", "#ff725c", "#41b3a0", "#b98af5", "#9ba5b0"),
)


def contrast(one: str, other: str) -> float:
    """From 1, for the same colour, to 21; text takes 4.5, lines and areas 3."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def mixed(colour: str, ground: str, opacity: float) -> str:
    """What is seen of `colour` that is laid on `ground` with this opacity, 0-1."""
    pairs = zip(_channels(colour), _channels(ground), strict=True)
    return "#" + "".join(f"{round(opacity * above + (1 - opacity) * below):02x}" for above, below in pairs)


def ink_on(ground: str) -> str:
    """Black or white: one of the two has a contrast of 4.5 at least on any ground."""
    return max(BLACK, WHITE, key=lambda ink: contrast(ink, ground))


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(value / 255) for value in _channels(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
