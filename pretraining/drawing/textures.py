"""Families of textures: noise with a chosen spectrum, gratings, cells, tilings, dead leaves and strokes.

Noise and dead leaves as in "Learning to See by Looking at Noise" (Baradad et al. 2021, section 3). Every formula gives
a field of values 0 to 1; colours come later.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pretraining.drawing import plane
from pretraining.drawing.plane import SIDE, Field, Formula

_TURN = 0.3
"""Instances of a category are turned by up to so many radians, so that directions can tell categories apart."""


def noise(category: np.random.Generator) -> Formula:
    """Noise that falls with frequency, stretched along one direction, and folded, terraced or read as heights."""
    exponent, stretch = category.uniform(0.7, 2.4), np.exp(category.uniform(0, 1.6) * category.integers(0, 2))
    angle, fold = category.uniform(0, np.pi), category.integers(0, 4)
    lines, steps = category.uniform(1.5, 5), int(category.integers(3, 7))
    finish: list[Callable[[Field], Field]] = [
        lambda field: field,
        lambda field: -np.abs(field),
        lambda field: np.sin(np.float32(lines) * field),
        lambda field: np.floor(np.clip(field + 2, 0, 4) * np.float32(steps / 4)),
    ]

    def draw(rng: np.random.Generator) -> Field:
        x, y = plane.turned(*plane.frequencies(), angle + rng.uniform(-_TURN, _TURN))
        radius = np.hypot(x, np.float32(stretch) * y)
        radius[0, 0] = np.inf
        return plane.levels(finish[fold](plane.spectrum_noise(rng, radius**-exponent)))

    return draw


def bands(category: np.random.Generator) -> Formula:
    """Noise of one band of frequencies, hardened to spots and labyrinths as reaction and diffusion make them."""
    centre, width = np.exp(category.uniform(np.log(4), np.log(24))), category.uniform(0.12, 0.5)
    angle, directed = category.uniform(0, np.pi), category.choice([0.0, 0.0, 2.0, 8.0])
    gain, offset = category.uniform(0.6, 4), category.uniform(-0.8, 0.8)

    def draw(rng: np.random.Generator) -> Field:
        x, y = plane.turned(*plane.frequencies(), angle + rng.uniform(-_TURN, _TURN))
        radius = np.hypot(x, y) + 1e-3
        here = centre * np.exp(rng.uniform(-0.15, 0.15))
        amplitude = np.exp(-((np.log(radius / here) / width) ** 2) + directed * ((x / radius) ** 2 - 1))
        field = plane.spectrum_noise(rng, amplitude.astype(np.float32))
        return plane.levels(np.tanh(np.float32(gain) * (field + np.float32(offset))))

    return draw


def gratings(category: np.random.Generator) -> Formula:
    """One to four waves at fixed angles to each other, added, multiplied or laid over each other."""
    count = int(category.integers(1, 5))
    angles = category.uniform(0, np.pi) + np.cumsum(category.uniform(0.4, 1.4, count))
    cycles = np.exp(category.uniform(np.log(3), np.log(14))) * np.exp(category.uniform(-0.6, 0.6, count))
    joined, hardness = category.integers(0, 3), category.choice([0.0, 2.0, 8.0])
    bend = category.choice([0.0, 0.03, 0.1])
    join: list[Callable[[Field], Field]] = [
        lambda waves: waves.sum(axis=0),
        lambda waves: waves.prod(axis=0),
        lambda waves: waves.max(axis=0),
    ]

    def draw(rng: np.random.Generator) -> Field:
        x, y = plane.warped(rng, *plane.coordinates(), float(bend))
        turn, zoom = rng.uniform(-_TURN, _TURN), np.exp(rng.uniform(-0.2, 0.2))
        phases = rng.uniform(0, 2 * np.pi, count)
        waves = [
            np.sin(np.pi * zoom * cycle * plane.turned(x, y, angle + turn)[0] + phase)
            for angle, cycle, phase in zip(angles, cycles, phases, strict=True)
        ]
        field = join[joined](np.stack(waves)).astype(np.float32)
        return plane.levels(np.tanh(np.float32(hardness) * field) if hardness else field)

    return draw


def cells(category: np.random.Generator) -> Formula:
    """Cells around scattered points (Worley 1996): the distance to the nearest, to the border, or a shade a cell."""
    across, scatter = category.uniform(3, 13), category.uniform(0.05, 0.5)
    norm, kind = category.choice([1.0, 2.0, 8.0]), int(category.integers(0, 4))
    stretch, angle = np.exp(category.choice([0.0, 0.0, 0.6])), category.uniform(0, np.pi)

    def draw(rng: np.random.Generator) -> Field:
        x, y = plane.turned(*plane.coordinates(), angle + rng.uniform(-_TURN, _TURN))
        zoom = across / 2 * np.exp(rng.uniform(-0.2, 0.2))
        near, second, shade = _nearest(rng, x * np.float32(zoom), y * np.float32(zoom * stretch), scatter, norm)
        views = (near, second - near, shade, np.minimum(1, 4 * (second - near)) * (0.4 + 0.6 * shade))
        return plane.levels(views[kind])

    return draw


def _nearest(rng: np.random.Generator, x: Field, y: Field, scatter: float, norm: float) -> tuple[Field, Field, Field]:
    """Distances to the nearest and second nearest of points scattered about a grid of width 1; the nearest's shade."""
    size = 64
    points = rng.uniform(-scatter, scatter, (size, size, 2)).astype(np.float32)
    shades = rng.random((size, size), np.float32)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    near = np.full(x.shape, np.inf, np.float32)
    second, shade = near.copy(), np.zeros_like(near)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            at = (row + down) % size, (column + right) % size
            aside = np.abs(column + right + np.float32(0.5) + points[*at, 0] - x)
            above = np.abs(row + down + np.float32(0.5) + points[*at, 1] - y)
            distance = _length(aside, above, norm)
            closer = distance < near
            second = np.where(closer, near, np.minimum(second, distance))
            shade = np.where(closer, shades[at], shade)
            near = np.where(closer, distance, near)
    return near, second, shade


def _length(aside: Field, above: Field, norm: float) -> Field:
    if norm == 1.0:
        return aside + above
    return np.hypot(aside, above) if norm == 2.0 else np.maximum(aside, above)


def tilings(category: np.random.Generator) -> Formula:
    """Checks, bricks, dots, scales, zigzags, weaves: one tile repeated over a turned and slightly bent plane."""
    tile = _TILES[category.integers(0, len(_TILES))]
    across, share = category.uniform(3, 14), np.float32(category.uniform(0.25, 0.75))
    stretch, angle = np.exp(category.uniform(-0.7, 0.7)), category.uniform(0, np.pi)
    bend, grain = category.choice([0.0, 0.02, 0.06]), category.uniform(0, 0.3)

    def draw(rng: np.random.Generator) -> Field:
        x, y = plane.turned(*plane.coordinates(), angle + rng.uniform(-_TURN, _TURN))
        x, y = plane.warped(rng, x, y, float(bend))
        zoom = across / 2 * np.exp(rng.uniform(-0.2, 0.2))
        shift = rng.uniform(0, 64, 2)
        field = tile(np.float32(zoom) * x + np.float32(shift[0]), np.float32(zoom * stretch) * y + shift[1], share)
        return plane.levels(field + np.float32(grain) * plane.power_noise(rng, 1.0))

    return draw


def _checks(x: Field, y: Field, share: np.float32) -> Field:
    tile: Field = ((x % 1 < share) ^ (y % 1 < share)).astype(np.float32)
    return tile


def _bricks(x: Field, y: Field, share: np.float32) -> Field:
    x = x / 2 + np.floor(y) % 2 / 2
    tile: Field = ((x % 1 > share / 4) & (y % 1 > share / 2)).astype(np.float32)
    return tile


def _dots(x: Field, y: Field, share: np.float32) -> Field:
    x = x + np.floor(y) % 2 / 2
    tile: Field = np.clip((share * 0.6 - np.hypot(x % 1 - 0.5, y % 1 - 0.5)) * 8, 0, 1)
    return tile


def _scales(x: Field, y: Field, share: np.float32) -> Field:
    x = x + np.floor(y) % 2 / 2
    tile: Field = np.hypot(x % 1 - 0.5, share * (y % 1))
    return tile


def _zigzags(x: Field, y: Field, share: np.float32) -> Field:
    tile: Field = ((y + np.abs(x % 1 - 0.5) * 2 * share) % 1 < 0.5).astype(np.float32)
    return tile


def _weave(x: Field, y: Field, share: np.float32) -> Field:
    over = (np.floor(x) + np.floor(y)) % 2 == 0
    tile: Field = np.where(over, np.sin(np.pi * (x % 1)), share * np.sin(np.pi * (y % 1)))
    return tile


def _crosses(x: Field, y: Field, share: np.float32) -> Field:
    aside, above = np.abs(x % 1 - 0.5), np.abs(y % 1 - 0.5)
    tile: Field = ((np.minimum(aside, above) < share * 0.2) & (np.maximum(aside, above) < 0.4)).astype(np.float32)
    return tile


def _rings(x: Field, y: Field, share: np.float32) -> Field:
    tile: Field = np.clip(1 - np.abs(np.hypot(x % 1 - 0.5, y % 1 - 0.5) - share * 0.55) * 12, 0, 1)
    return tile


_TILES: tuple[Callable[[Field, Field, np.float32], Field], ...] = (
    _checks,
    _bricks,
    _dots,
    _scales,
    _zigzags,
    _weave,
    _crosses,
    _rings,
)


def leaves(category: np.random.Generator) -> Formula:
    """Dead leaves: shapes of one kind, of many sizes, fallen over each other."""
    corners, stretch = int(category.choice([3, 4, 5, 24, 24])), category.uniform(0.25, 1)
    small, exponent = category.uniform(2.5, 9), category.uniform(1.2, 3)
    angle, spread = category.uniform(0, np.pi), category.choice([0.2, np.pi])
    around = np.arange(corners) * 2 * np.pi / corners
    outline = np.stack([np.cos(around), stretch * np.sin(around)], axis=1)

    def draw(rng: np.random.Generator) -> Field:
        count = int(min(260, 5000 / small**1.4))
        sizes = np.sort(np.minimum(small * (1 - rng.random(count)) ** (-1 / exponent), 40))[::-1]
        turns = angle + rng.uniform(-spread, spread, count)
        spin = np.stack([np.cos(turns), -np.sin(turns), np.sin(turns), np.cos(turns)], axis=1).reshape(-1, 2, 2)
        polygons = np.einsum("nij,kj->nki", spin, outline) * sizes[:, None, None] + rng.uniform(0, SIDE, (count, 1, 2))
        shades = rng.integers(0, 256, count + 1)
        image = Image.new("L", (SIDE, SIDE), int(shades[-1]))
        pen = ImageDraw.Draw(image)
        for polygon, shade in zip(polygons.reshape(count, -1).tolist(), shades.tolist(), strict=False):
            pen.polygon(polygon, fill=shade)
        return np.asarray(image, np.float32) / 255

    return draw


def strokes(category: np.random.Generator) -> Formula:
    """Hair, straw and hatching: many short curved lines that follow a direction, or none."""
    length, width = category.uniform(6, 36), int(category.integers(1, 5))
    angle, spread = category.uniform(0, np.pi), category.choice([0.15, 0.5, np.pi])
    swirl, curl = category.choice([0.0, 0.4, 1.0]), category.uniform(-0.8, 0.8)

    def draw(rng: np.random.Generator) -> Field:
        count = int(np.clip(14000 / (length * width), 90, 420))
        places = rng.uniform(-8, SIDE + 8, (count, 1, 2))
        flow = swirl * plane.power_noise(rng, 3)
        column, row = np.clip(places[:, 0].astype(np.int64), 0, SIDE - 1).T
        turns = angle + flow[row, column] + rng.uniform(-spread, spread, count)
        bent = turns[:, None] + curl * np.linspace(-1, 1, 4)
        steps = np.stack([np.cos(bent), np.sin(bent)], axis=2) * length / 4
        lines = places + np.cumsum(steps, axis=1)
        shades = rng.integers(0, 256, count + 1)
        image = Image.new("L", (SIDE, SIDE), int(shades[-1]))
        pen = ImageDraw.Draw(image)
        for line, shade in zip(lines.reshape(count, -1).tolist(), shades.tolist(), strict=False):
            pen.line(line, fill=shade, width=width)
        return np.asarray(image, np.float32) / 255

    return draw


FAMILIES: dict[str, Callable[[np.random.Generator], Formula]] = {
    "noise": noise,
    "bands": bands,
    "gratings": gratings,
    "cells": cells,
    "tilings": tilings,
    "leaves": leaves,
    "strokes": strokes,
}
