"""Families of shapes: radial contours, superformulas, glyphs, fractals, branches, figures with limbs, polygons.

Fractals as in "Pre-training without Natural Images" (Kataoka et al. 2020, section 3), contours as in "Replacing Labeled
Real-image Datasets with Auto-generated Contours" (Kataoka et al. 2022, section 3). A formula gives strokes and areas
around the origin, within about -1 to 1.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from pretraining.drawing.plane import SIDE, Field, Points

_FINE = 2
"""Masks are drawn so many times larger and shrunk, for smooth edges."""


@dataclass(frozen=True)
class Outline:
    """What one instance of a shape consists of."""

    areas: tuple[Points, ...] = ()
    holes: tuple[Points, ...] = ()
    lines: tuple[Points, ...] = ()
    widths: tuple[float, ...] = ()
    """Of each line, in the units of its points."""
    dust: Points | None = None
    """Single points, of a fractal."""


Shape = Callable[[np.random.Generator], Outline]


def mask(outline: Outline, matrix: Points, shift: Points) -> Field:
    """How much of each pixel is covered, 0 to 1, with every point moved to `matrix @ point + shift`."""

    def placed(points: Points) -> Points:
        moved: Points = (points @ matrix.T + shift + 1) * (SIDE * _FINE / 2)
        return moved

    image = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    pen = ImageDraw.Draw(image)
    scale = float(np.sqrt(abs(np.linalg.det(matrix)))) * SIDE * _FINE / 2
    for fill, polygons in ((255, outline.areas), (0, outline.holes)):
        for area in polygons:
            pen.polygon(placed(area).ravel().tolist(), fill=fill)
    for line, width in zip(outline.lines, outline.widths, strict=True):
        pen.line(placed(line).ravel().tolist(), fill=255, width=max(2, round(width * scale)), joint="curve")
    if outline.dust is not None:
        image.paste(255, mask=_specks(placed(outline.dust)))
    return np.asarray(image.reduce(_FINE), np.float32) / 255


def _specks(points: Points) -> Image.Image:
    size = SIDE * _FINE
    column, row = points.astype(np.int64).T
    inside = (column >= 0) & (column < size - 2) & (row >= 0) & (row < size - 2)
    hits = np.zeros((size, size), np.uint8)
    for down in range(2):
        for right in range(2):
            hits[row[inside] + down, column[inside] + right] = 255
    return Image.fromarray(hits)


def contours(category: np.random.Generator) -> Shape:
    """A circle bent by a few waves; filled, or several of them inside each other."""
    count = int(category.integers(1, 4))
    waves, heights = category.integers(2, 18, count), category.uniform(0.05, 0.35, count)
    phases, rings = category.uniform(0, 2 * np.pi, count), int(category.choice([0, 0, 2, 3, 5]))
    sharp = category.choice([0.0, 0.0, 1.0])

    def draw(rng: np.random.Generator) -> Outline:
        angle = np.linspace(0, 2 * np.pi, 160, dtype=np.float32)
        tall = heights * rng.uniform(0.8, 1.2, count)
        ripple = np.sin(np.outer(angle, waves) + phases + rng.uniform(-0.2, 0.2, count))
        radius = 1 + (np.where(sharp, 1 - 2 * np.abs(ripple), ripple) * tall).sum(axis=1)
        points = _polar(angle, radius / np.abs(radius).max())
        if not rings:
            return Outline(areas=(points,))
        nested = tuple(points * np.float32(size) for size in np.linspace(1, 0.25, rings))
        return Outline(lines=nested, widths=(rng.uniform(0.03, 0.12),) * rings)

    return draw


def superformulas(category: np.random.Generator) -> Shape:
    """Gielis's superformula (2003): stars, leaves, petals, rounded polygons; some with a core cut out."""
    symmetry, power = int(category.integers(2, 13)), category.uniform(0.3, 4)
    bulge = category.uniform(0.5, 8, 2)
    core, petals = category.choice([0.0, 0.0, 0.25]), category.random() < 0.4

    def draw(rng: np.random.Generator) -> Outline:
        angle = np.linspace(0, 2 * np.pi, 200, dtype=np.float32)
        turn = symmetry * angle / 4
        first, second = bulge * rng.uniform(0.85, 1.15, 2)
        radius = (np.abs(np.cos(turn)) ** first + np.abs(np.sin(turn)) ** second) ** (-1 / (power * 2))
        if petals:
            radius = 0.25 + np.abs(np.cos(symmetry * angle / 2)) ** power
        points = _polar(angle, radius / radius.max())
        holes = (_polar(angle, np.full_like(angle, core)),) if core else ()
        return Outline(areas=(points,), holes=holes)

    return draw


def _polar(angle: Points, radius: Points) -> Points:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def glyphs(category: np.random.Generator) -> Shape:
    """A character of an unknown script: one to four curves through places that only wobble."""
    count = int(category.integers(1, 5))
    places = category.integers(-2, 3, (count, 4, 2)) * 0.42
    for earlier, later in itertools.pairwise(places):
        if category.random() < 0.7:
            later[0] = earlier[category.integers(0, 4)]

    def draw(rng: np.random.Generator) -> Outline:
        knots = places + rng.normal(0, 0.09, places.shape)
        width = rng.uniform(0.08, 0.3)
        return Outline(lines=tuple(_spline(points) for points in knots), widths=(width,) * count)

    return draw


def _spline(knots: Points) -> Points:
    """A smooth line through four knots (Catmull and Rom 1974)."""
    ends = np.concatenate([knots[:1], knots, knots[-1:]])
    time = np.linspace(0, 1, 9)[:, None]
    parts = []
    for before, start, end, after in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        curve = 2 * before - 5 * start + 4 * end - after
        cubic = -before + 3 * start - 3 * end + after
        parts.append((2 * start + (end - before) * time + curve * time**2 + cubic * time**3) / 2)
    return np.concatenate(parts).astype(np.float32)


def fractals(category: np.random.Generator) -> Shape:
    """The attractor of two to five affine maps, by the chaos game."""
    count = int(category.integers(2, 6))
    maps = _contractions(category, count)
    shifts = category.uniform(-1, 1, (count, 2))
    odds = np.abs(np.linalg.det(maps)) + 0.05
    odds /= odds.sum()

    def draw(rng: np.random.Generator) -> Outline:
        bent = maps * rng.uniform(0.92, 1.08, maps.shape)
        moved = shifts + rng.normal(0, 0.04, shifts.shape)
        points = rng.uniform(-1, 1, (256, 2))
        trail = []
        for chosen in rng.choice(count, (38, 256), p=odds):
            points = np.einsum("nij,nj->ni", bent[chosen], points) + moved[chosen]
            trail.append(points)
        return Outline(dust=_centred(np.concatenate(trail[8:])))

    return draw


def _contractions(rng: np.random.Generator, count: int) -> Points:
    """Maps whose singular values sum to what makes rich attractors (Anderson and Farrell 2022, section 3.2)."""
    turns = rng.uniform(0, 2 * np.pi, (2, count))
    target = rng.uniform(0.5 * (5 + count), 0.5 * (6 + count)) / count / 3
    values = np.clip(target + rng.uniform(-0.25, 0.25, (count, 2)), 0.1, 0.92)
    left, right = (
        np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], axis=1).reshape(-1, 2, 2) for turn in turns
    )
    maps: Points = left * (values * rng.choice([-1, 1], (count, 2)))[:, None, :] @ right
    return maps


def _centred(points: Points) -> Points:
    low, high = np.percentile(points, (2, 98), axis=0)
    centred: Points = ((points - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-6)).astype(np.float32)
    return centred


def branches(category: np.random.Generator) -> Shape:
    """A plant: each branch splits into two to four, by fixed angles and ratios."""
    split = int(category.integers(2, 5))
    depth = {2: 6, 3: 4, 4: 3}[split]
    angles = np.sort(category.uniform(-1.3, 1.3, split))
    ratios = category.uniform(0.5, 0.88, split)
    bud = category.random() < 0.4

    def draw(rng: np.random.Generator) -> Outline:
        starts, turns, lengths = np.zeros((1, 2)), np.full(1, np.pi / 2), np.ones(1)
        lines, widths, width = [], [], rng.uniform(0.1, 0.22)
        for _ in range(depth):
            steps = np.stack([np.cos(turns), -np.sin(turns)], axis=1) * lengths[:, None]
            ends = starts + steps
            lines.append(np.stack([starts, ends], axis=1))
            widths.append(np.full(len(ends), width))
            starts = np.repeat(ends, split, axis=0)
            turns = (turns[:, None] + angles + rng.normal(0, 0.12, (len(turns), split))).ravel()
            lengths = (lengths[:, None] * ratios * rng.uniform(0.85, 1.15, (len(lengths), split))).ravel()
            width *= 0.72
        return _plant(np.concatenate(lines), np.concatenate(widths), bud=bud)

    return draw


def _plant(lines: Points, widths: Points, *, bud: bool) -> Outline:
    flat = _centred(lines.reshape(-1, 2)).reshape(lines.shape)
    buds = (flat[-48:, 1:] + _polar(np.linspace(0, 6, 7), np.full(7, 0.09))).astype(np.float32) if bud else ()
    return Outline(areas=tuple(buds), lines=tuple(flat), widths=tuple(widths.tolist()))


def figures(category: np.random.Generator) -> Shape:
    """A body with limbs of fixed lengths and widths that move at their joints; most are alike on both sides."""
    trunk = category.uniform(0.12, 0.5, int(category.integers(1, 4)))
    limbs = int(category.integers(2, 6))
    roots, turns = category.uniform(0, 1, limbs), category.uniform(0.1, np.pi - 0.1, limbs)
    bends, lengths = category.uniform(-1.2, 1.2, (limbs, 2)), category.uniform(0.25, 0.7, (limbs, 2))
    thick, mirrored = category.uniform(0.04, 0.2, limbs), category.random() < 0.7

    def draw(rng: np.random.Generator) -> Outline:
        spine = np.concatenate([[0], np.cumsum(trunk[:-1] + trunk[1:])]) * 0.9
        bodies = [
            _ellipse(np.array([0, at]), np.array([size * 0.7, size])) for at, size in zip(spine, trunk, strict=True)
        ]
        lines, widths = [], []
        for side in (1, -1) if mirrored else (1,):
            for limb in range(limbs):
                joints = turns[limb] + np.cumsum(np.concatenate([[0], bends[limb]])) + rng.normal(0, 0.25, 3)
                steps = np.stack([np.sin(joints[1:]) * side, np.cos(joints[1:])], axis=1) * lengths[limb][:, None]
                root = np.array([[0, roots[limb] * spine[-1]]])
                lines.append(np.concatenate([root, root + np.cumsum(steps, axis=0)]))
                widths.append(thick[limb])
        return _fitted(Outline(areas=tuple(bodies), lines=tuple(lines), widths=tuple(widths)))

    return draw


def _ellipse(centre: Points, radii: Points) -> Points:
    angle = np.linspace(0, 2 * np.pi, 24)
    return (centre + radii * _polar(angle, np.ones_like(angle))).astype(np.float32)


def _fitted(outline: Outline) -> Outline:
    """The outline moved and scaled so that it fills -1 to 1."""
    points = np.concatenate([*outline.areas, *outline.lines])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    scale = 1 / max(float((points - middle).max()), 1e-6)
    return replace(
        outline,
        areas=tuple((area - middle) * scale for area in outline.areas),
        lines=tuple((line - middle) * scale for line in outline.lines),
        widths=tuple(width * scale for width in outline.widths),
    )


def polygons(category: np.random.Generator) -> Shape:
    """A few polygons, regular or with corners thrown, side by side or cut out of each other."""
    count = int(category.integers(1, 4))
    parts = [_corners(category) for _ in range(count)]
    places = category.uniform(-0.6, 0.6, (count, 2)) * (count > 1)
    sizes, cut = category.uniform(0.35, 1, count), category.random() < 0.4
    framed = category.random() < 0.3

    def draw(rng: np.random.Generator) -> Outline:
        moved = places + rng.normal(0, 0.05, places.shape)
        drawn = tuple(
            (part * size + at + rng.normal(0, 0.04, part.shape)).astype(np.float32)
            for part, size, at in zip(parts, sizes, moved, strict=True)
        )
        if framed:
            closed = tuple(np.concatenate([part, part[:2]]) for part in drawn)
            return Outline(lines=closed, widths=(rng.uniform(0.06, 0.2),) * count)
        if cut:
            return Outline(areas=drawn, holes=(drawn[0] * np.float32(0.5),))
        return Outline(areas=drawn)

    return draw


def _corners(rng: np.random.Generator) -> Points:
    corners = int(rng.integers(3, 9))
    angle = np.arange(corners) * 2 * np.pi / corners
    star = rng.random() < 0.3
    if star:
        angle = np.arange(2 * corners) * np.pi / corners
    radius = np.where(np.arange(len(angle)) % 2, rng.uniform(0.3, 0.7), 1) if star else rng.uniform(0.5, 1, len(angle))
    return _polar(angle, radius)


FAMILIES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "contours": contours,
    "superformulas": superformulas,
    "glyphs": glyphs,
    "fractals": fractals,
    "branches": branches,
    "figures": figures,
    "polygons": polygons,
}
