"""Scenes: a textured ground, light, and shapes in front of it, with the formulas that they were drawn by."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pretraining.drawing import colours, plane, shapes, textures
from pretraining.drawing.colours import Picture
from pretraining.drawing.plane import SIDE, Field, Formula
from pretraining.drawing.shapes import Shape

Kind = TypeVar("Kind")

NOTHING = -1
"""In place of a category, where the scene has none."""

_LEAST_CONTRAST = 0.15
_TRIES = 4


@dataclass(frozen=True)
class Vocabulary:
    """The formulas that scenes are made of; a category is a position in them."""

    shapes: tuple[Shape, ...]
    textures: tuple[Formula, ...]


@dataclass(frozen=True)
class Scene:
    """An image with the categories of what is to be seen in it."""

    pixels: NDArray[np.uint8]
    """`(SIDE, SIDE, 3)`."""
    shape: int
    """Of the shape in front, or `NOTHING`."""
    ground: int
    """Texture of the ground, or `NOTHING` for a plain one."""
    fill: int
    """Texture of the shape in front, or `NOTHING`."""


def vocabulary(*, shapes_each: int, textures_each: int, seed: int) -> Vocabulary:
    """So many categories of each family; the same `seed` gives the same ones."""

    def some(families: Iterable[Callable[[np.random.Generator], Kind]], each: int, salt: int) -> tuple[Kind, ...]:
        return tuple(
            family(np.random.default_rng((seed, salt, place, number)))
            for place, family in enumerate(families)
            for number in range(each)
        )

    return Vocabulary(
        shapes=some(shapes.FAMILIES.values(), shapes_each, 0),
        textures=some(textures.FAMILIES.values(), textures_each, 1),
    )


def draw(words: Vocabulary, shape: int, ground: int, rng: np.random.Generator) -> Scene:
    """A scene with the category `shape` in front and `ground` behind, either of which may be `NOTHING`."""
    picture = _ground(words, ground, rng)
    fill = NOTHING
    if shape != NOTHING:
        for _ in range(int(rng.choice([0, 0, 1, 2]))):
            other = int(rng.integers(len(words.shapes)))
            picture, _ = _with_shape(words, picture, other, rng, size=rng.uniform(0.1, 0.35))
        size = rng.uniform(0.4, 0.95)
        copies = int(rng.choice([1, 1, 1, 1, 2, 3]))
        for _ in range(copies):
            picture, fill = _with_shape(words, picture, shape, rng, size=size / np.sqrt(copies))
    return Scene(_developed(picture, rng), shape, ground, fill)


def _ground(words: Vocabulary, category: int, rng: np.random.Generator) -> Picture:
    if category != NOTHING:
        field = words.textures[category](rng)
    else:
        # Close to plain: a slope or a cloud within a narrow palette.
        x, _ = plane.turned(*plane.coordinates(), rng.uniform(0, 2 * np.pi))
        field = plane.levels(x) if rng.random() < 0.5 else plane.levels(plane.power_noise(rng, rng.uniform(1, 3)))
        middle = rng.uniform(0, 1)
        field = middle + (field - middle) * np.float32(rng.choice([0.0, 0.1, 0.3, 0.6]))
    return colours.painted(rng, field) * _light(rng)


def _light(rng: np.random.Generator) -> Picture:
    """Shadows and highlights over the whole of a surface, `(SIDE, SIDE, 1)`."""
    depth = rng.choice([0.0, 0.15, 0.35])
    return (1 + np.float32(depth) * plane.power_noise(rng, 2.5).clip(-2, 2))[..., None]


def _with_shape(
    words: Vocabulary, picture: Picture, category: int, rng: np.random.Generator, *, size: float
) -> tuple[Picture, int]:
    """The picture with a shape of `category` laid on it, and the texture that fills it."""
    mask = _placed(words.shapes[category], rng, size)
    fill = int(rng.integers(len(words.textures))) if rng.random() < 0.4 else NOTHING
    weight = mask[..., None]
    here = max(float(weight.sum()), 1.0)
    behind = (picture * weight).sum(axis=(0, 1)) / here
    for _ in range(_TRIES):
        surface = _surface(words, fill, rng)
        if np.abs((surface * weight).sum(axis=(0, 1)) / here - behind).max() > _LEAST_CONTRAST:
            break
    if rng.random() < 0.5:
        surface = surface * _relief(mask, rng)
    if rng.random() < 0.3:
        picture = picture * (1 - rng.uniform(0.3, 0.7) * _shadow(mask, rng))
    return picture + (surface - picture) * weight, fill


def _surface(words: Vocabulary, fill: int, rng: np.random.Generator) -> Picture:
    if fill != NOTHING:
        return colours.painted(rng, words.textures[fill](rng)) * _light(rng)
    flat: Picture = colours.palette(rng, 1).astype(np.float32) * np.ones((SIDE, SIDE, 1), np.float32)
    return flat * _light(rng) if rng.random() < 0.5 else flat


def _placed(shape: Shape, rng: np.random.Generator, size: float) -> Field:
    turn = rng.normal(0, 0.35) if rng.random() < 0.8 else rng.uniform(0, 2 * np.pi)
    stretch, shear = np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.15)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = size * spin @ np.array([[stretch, shear], [0, 1 / stretch]])
    free = max(1 - size, 0.05)
    return shapes.mask(shape(rng), matrix.astype(np.float32), rng.uniform(-free, free, 2).astype(np.float32))


def _relief(mask: Field, rng: np.random.Generator) -> Picture:
    """Light from one side on the shape, as if it were swollen."""
    height = _blurred(mask, rng.uniform(1.5, 6))
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * np.gradient(height, axis=1) + np.sin(angle) * np.gradient(height, axis=0)
    lit: Picture = np.clip(1 + slope * rng.uniform(3, 12), 0.3, 1.8)[..., None].astype(np.float32)
    return lit


def _shadow(mask: Field, rng: np.random.Generator) -> Picture:
    right, down = rng.integers(-8, 9, 2)
    return np.roll(_blurred(mask, rng.uniform(1, 4)), (int(down), int(right)), axis=(0, 1))[..., None]


def _blurred(field: Field, radius: float) -> Field:
    image = Image.fromarray((field * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, np.float32) / 255


def _developed(picture: Picture, rng: np.random.Generator) -> NDArray[np.uint8]:
    """As a camera gives it: a little noise, rounded to bytes."""
    noise = rng.choice([0.0, 0.01, 0.04])
    if noise:
        picture = picture + np.float32(noise) * rng.standard_normal(picture.shape, np.float32)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)
