from pathlib import Path

import numpy as np
import pytest

from pretraining import pictures
from pretraining.drawing.scenes import NOTHING
from pretraining.pictures import Order

pytestmark = pytest.mark.usefixtures("forkserver")

ORDER = Order(images=600, shapes_each=2, textures_each=2, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    pictures.drawn(ORDER, folder, processes=2)
    return folder


def test_images_lie_in_their_place_whichever_process_drew_them(folder: Path) -> None:
    found = pictures.drawn(ORDER, folder, processes=1)
    assert found.pixels.shape == (ORDER.images, 128, 128, 3)
    assert found.categories.shape == (ORDER.images, 3)
    words = ORDER.vocabulary()
    for number in (0, 511, 512, 599):
        scene = pictures.scene(words, ORDER, number)
        assert np.array_equal(found.pixels[number], scene.pixels)
        assert found.categories[number].tolist() == [scene.shape, scene.ground, scene.fill]


def test_every_category_is_drawn_and_some_scenes_lack_a_shape_or_a_texture(folder: Path) -> None:
    shapes, grounds, fills = pictures.drawn(ORDER, folder, processes=1).categories.T
    words = ORDER.vocabulary()
    assert set(shapes.tolist()) == {NOTHING, *range(len(words.shapes))}
    assert set(grounds.tolist()) == {NOTHING, *range(len(words.textures))}
    assert 0.15 < (shapes == NOTHING).mean() < 0.35
    assert set(fills[shapes == NOTHING].tolist()) == {NOTHING}
    assert not ((shapes == NOTHING) & (grounds == NOTHING)).any()


def test_what_an_interrupted_call_has_drawn_is_kept_and_the_rest_added(folder: Path) -> None:
    before = pictures.drawn(ORDER, folder, processes=1)
    whole, kept = np.array(before.pixels), (folder / "categories-00000.npy").stat().st_mtime_ns
    (folder / "categories-00001.npy").unlink()
    np.load(folder / "pixels.npy", mmap_mode="r+")[512:] = 0
    assert np.array_equal(pictures.drawn(ORDER, folder, processes=1).pixels, whole)
    assert (folder / "categories-00000.npy").stat().st_mtime_ns == kept


def test_another_order_is_drawn_anew(tmp_path: Path) -> None:
    one, other = (Order(images=4, shapes_each=2, textures_each=2, seed=seed) for seed in (1, 2))
    first = np.array(pictures.drawn(one, tmp_path, processes=1).pixels)
    assert not np.array_equal(pictures.drawn(other, tmp_path, processes=1).pixels, first)
    assert np.array_equal(pictures.drawn(one, tmp_path, processes=1).pixels, first)
