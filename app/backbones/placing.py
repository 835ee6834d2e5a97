"""Names beside bubbles, placed so that none covers another. Pure geometry, in the units of the picture."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# A character of the usual sans-serif fonts is about this wide, in font sizes.
_CHARACTER = 0.56
_DIRECTIONS = 24
_DISTANCES = (3.0, 9.0, 16.0, 24.0, 34.0, 46.0, 60.0, 78.0, 100.0, 130.0, 165.0)
_COVERED_BUBBLE = 110.0
_CROSSED = 60.0
_NEEDS_LINE = 10.0


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def contains(self, other: "Box") -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )

    def distance(self, x: float, y: float) -> float:
        """From a point to the nearest one of the rectangle."""
        return math.hypot(max(self.left - x, 0, x - self.right), max(self.top - y, 0, y - self.bottom))


@dataclass(frozen=True)
class Bubble:
    """A circle with a name."""

    x: float
    y: float
    radius: float
    name: str


@dataclass(frozen=True)
class Label:
    """Where a name stands, and the line to its bubble if it is not beside it: `(x1, y1, x2, y2)`."""

    box: Box
    line: tuple[float, float, float, float] | None


def place(bubbles: Sequence[Bubble], *, within: Box, font_size: float) -> list[Label | None]:
    """A label for each of `bubbles`, in their order; None where there is no room left that covers no other label."""
    placed: dict[int, Label] = {}
    for index in sorted(range(len(bubbles)), key=lambda index: -_crowd(bubbles[index], bubbles)):
        best = _best(bubbles[index], bubbles, [label.box for label in placed.values()], within, font_size)
        if best is not None:
            placed[index] = best
    return [placed.get(index) for index in range(len(bubbles))]


def _best(own: Bubble, bubbles: Sequence[Bubble], labels: Sequence[Box], within: Box, font_size: float) -> Label | None:
    best, lowest = None, math.inf
    for distance, label in _candidates(own, font_size):
        if distance >= lowest:
            break  # farther ones cost at least their distance
        if within.contains(label.box) and not any(label.box.overlaps(box) for box in labels):
            cost = _cost(label, distance, own, bubbles, labels)
            if cost < lowest:
                best, lowest = label, cost
    return best


def width(text: str, font_size: float) -> float:
    """About how wide `text` is."""
    return len(text) * _CHARACTER * font_size


def _crowd(bubble: Bubble, bubbles: Sequence[Bubble]) -> float:
    return sum(1 / (20 + math.hypot(bubble.x - other.x, bubble.y - other.y)) for other in bubbles)


def _candidates(bubble: Bubble, font_size: float) -> Iterator[tuple[float, Label]]:
    half_width, half_height = width(bubble.name, font_size) / 2 + 1, font_size * 0.55
    for distance in _DISTANCES:
        reach = bubble.radius + distance
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            x_way, y_way = math.cos(angle), math.sin(angle)
            x = bubble.x + x_way * reach + x_way * half_width
            y = bubble.y + y_way * reach + y_way * half_height
            box = Box(x - half_width, y - half_height, x + half_width, y + half_height)
            yield distance, Label(box, _line(bubble, box) if distance >= _NEEDS_LINE else None)


def _line(bubble: Bubble, box: Box) -> tuple[float, float, float, float]:
    """From the edge of the bubble to the nearest point of the box."""
    x = min(max(bubble.x, box.left), box.right)
    y = min(max(bubble.y, box.top), box.bottom)
    length = math.hypot(x - bubble.x, y - bubble.y) or 1.0
    return (
        bubble.x + (x - bubble.x) / length * bubble.radius,
        bubble.y + (y - bubble.y) / length * bubble.radius,
        x,
        y,
    )


def _cost(label: Label, distance: float, own: Bubble, bubbles: Sequence[Bubble], labels: Sequence[Box]) -> float:
    covered = sum(
        _COVERED_BUBBLE * min(1.0, 8 / other.radius)
        for other in bubbles
        if other is not own and label.box.distance(other.x, other.y) < other.radius
    )
    return distance + covered + _CROSSED * _crossings(label, labels)


def _crossings(label: Label, labels: Sequence[Box]) -> int:
    """How many labels the line runs through."""
    if label.line is None:
        return 0
    x1, y1, x2, y2 = label.line
    around = Box(min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)
    near = [box for box in labels if box.overlaps(around)]
    places = [(x1 + (x2 - x1) * step / 12, y1 + (y2 - y1) * step / 12) for step in range(13)]
    return sum(any(box.distance(x, y) == 0 for x, y in places) for box in near)
