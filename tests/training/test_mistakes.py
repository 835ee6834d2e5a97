"""The worst mistakes and their thumbnails."""

import io

import numpy as np
import pytest
from PIL import Image

from app import errors
from tests import factories
from tests.training import samples
from worker.training import mistakes


def test_the_surest_mistakes_come_first_and_what_is_right_is_left_out() -> None:
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    images = samples.images([(bytes([place]), 1 if place < 3 else 0) for place in range(4)])
    worst = mistakes.worst(probabilities, images.targets)
    assert worst.tolist() == [2, 3, 0]
    first = mistakes.described(worst, probabilities, images, ("ants", "bees"))[0]
    assert (first.label, first.predicted) == ("bees", "ants")
    assert (first.probability, first.label_probability) == (0.8, 0.2)
    assert first.sha256 == images.sha256[2]


def test_there_is_an_end_to_them() -> None:
    assert len(mistakes.worst(np.tile([0.9, 0.1], (100, 1)), np.ones(100, np.int64))) == mistakes.MOST


@pytest.mark.parametrize("size", [(640, 400), (400, 640), (20, 10), (2000, 3)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_thumbnail_is_a_small_jpeg_of_the_whole_image(size: tuple[int, int], kind: str) -> None:
    file = factories.image(factories.COLOURS["red"], size=size, kind=kind)
    found = Image.open(io.BytesIO(mistakes.thumbnail(file, max_pixels=samples.MAX_PIXELS)))
    assert found.format == "JPEG"
    assert max(found.size) == min(mistakes.SIDE, max(size))
    assert min(found.size) == max(1, round(min(size) * min(1.0, mistakes.SIDE / max(size))))
    red, green, _ = found.resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 2 * green


def test_what_is_no_image_is_named_as_such() -> None:
    with pytest.raises(errors.BadImage):
        mistakes.thumbnail(b"no image", max_pixels=samples.MAX_PIXELS)
