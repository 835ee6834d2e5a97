from collections.abc import Callable

import numpy as np
import pytest

from pretraining.drawing import colours, plane, scenes, shapes, textures
from pretraining.drawing.plane import SIDE, Formula
from pretraining.drawing.scenes import NOTHING, Vocabulary
from pretraining.drawing.shapes import Shape

CATEGORIES = 6
INSTANCES = 3
UPRIGHT = 0.8 * np.eye(2, dtype=np.float32)
MIDDLE = np.zeros(2, np.float32)

every_texture = pytest.mark.parametrize("family", textures.FAMILIES.values(), ids=textures.FAMILIES)
every_shape = pytest.mark.parametrize("family", shapes.FAMILIES.values(), ids=shapes.FAMILIES)


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return scenes.vocabulary(shapes_each=2, textures_each=2, seed=3)


def drawn_masks(family: Callable[[np.random.Generator], Shape], category: int) -> list[plane.Field]:
    shape = family(np.random.default_rng(category))
    return [shapes.mask(shape(np.random.default_rng((9, number))), UPRIGHT, MIDDLE) for number in range(INSTANCES)]


def drawn_fields(family: Callable[[np.random.Generator], Formula], category: int) -> list[plane.Field]:
    formula = family(np.random.default_rng(category))
    return [formula(np.random.default_rng((9, number))) for number in range(INSTANCES)]


def differ(one: plane.Field, other: plane.Field) -> bool:
    return float(np.abs(one - other).mean()) > 0.001


@every_texture
def test_every_texture_fills_its_range_and_varies_with_the_instance(
    family: Callable[[np.random.Generator], Formula],
) -> None:
    for category in range(CATEGORIES):
        fields = drawn_fields(family, category)
        for field in fields:
            assert field.shape == (SIDE, SIDE)
            assert 0 <= field.min() < field.max() <= 1
            assert field.std() > 0.03
        assert differ(fields[0], fields[1])


@every_shape
def test_every_shape_covers_a_part_of_the_image_and_mostly_varies_with_the_instance(
    family: Callable[[np.random.Generator], Shape],
) -> None:
    varied = 0
    for category in range(CATEGORIES):
        masks = drawn_masks(family, category)
        for mask in masks:
            assert mask.shape == (SIDE, SIDE)
            assert 0 <= mask.min() < mask.max() <= 1
            assert 0.01 < mask.mean() < 0.9
        varied += not np.array_equal(masks[0], masks[1])
    # Some petals are always the same before they are turned, stretched and coloured.
    assert varied >= CATEGORIES / 2


@every_shape
def test_instances_of_a_shape_are_more_alike_than_other_categories(
    family: Callable[[np.random.Generator], Shape],
) -> None:
    masks = [drawn_masks(family, category) for category in range(CATEGORIES)]
    within = np.mean([np.abs(one[0] - one[1]).mean() for one in masks])
    between = np.mean([np.abs(one[0] - other[0]).mean() for one in masks for other in masks if one is not other])
    assert within < between


@pytest.mark.parametrize(
    "draw",
    [
        *(lambda family=family: drawn_fields(family, 1)[0] for family in textures.FAMILIES.values()),
        *(lambda family=family: drawn_masks(family, 1)[0] for family in shapes.FAMILIES.values()),
    ],
    ids=[*textures.FAMILIES, *shapes.FAMILIES],
)
def test_the_same_generators_give_the_same_field(draw: Callable[[], plane.Field]) -> None:
    assert np.array_equal(draw(), draw())


def test_the_same_seed_gives_the_same_scene_and_another_one_another(words: Vocabulary) -> None:
    again = scenes.vocabulary(shapes_each=2, textures_each=2, seed=3)
    other = scenes.vocabulary(shapes_each=2, textures_each=2, seed=4)
    first = scenes.draw(words, 5, 4, np.random.default_rng(1))
    assert np.array_equal(first.pixels, scenes.draw(again, 5, 4, np.random.default_rng(1)).pixels)
    assert first.fill == scenes.draw(again, 5, 4, np.random.default_rng(1)).fill
    assert not np.array_equal(first.pixels, scenes.draw(other, 5, 4, np.random.default_rng(1)).pixels)
    assert not np.array_equal(first.pixels, scenes.draw(words, 5, 4, np.random.default_rng(2)).pixels)


def test_every_formula_gives_scenes_that_are_not_plain(words: Vocabulary) -> None:
    assert len(words.shapes) == 2 * len(shapes.FAMILIES)
    assert len(words.textures) == 2 * len(textures.FAMILIES)
    for shape in range(len(words.shapes)):
        scene = scenes.draw(words, shape, NOTHING, np.random.default_rng(shape))
        assert scene.pixels.shape == (SIDE, SIDE, 3)
        assert scene.pixels.dtype == np.uint8
        assert scene.pixels.std() > 4
    spread = [
        scenes.draw(words, NOTHING, ground, np.random.default_rng(seed)).pixels.std()
        for ground in range(len(words.textures))
        for seed in range(3)
    ]
    assert np.median(spread) > 20


def test_palettes_hold_colours_of_every_hue_and_brightness() -> None:
    found = np.concatenate([colours.palette(np.random.default_rng(seed), 4) for seed in range(200)])
    assert 0 <= found.min() < found.max() <= 1
    for channel in range(3):
        strongest = found.argmax(axis=1) == channel
        assert 0.15 < strongest.mean() < 0.6
    assert found.mean(axis=1).std() > 0.15
    assert (found.max(axis=1) - found.min(axis=1)).std() > 0.1
