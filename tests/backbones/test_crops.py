import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from app.backbones import crops, preprocess
from app.backbones.preprocess import Interpolation, Preprocessing
from tests.backbones.pictures import encode, picture

MAX_PIXELS = 1_000_000
AT_224 = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SIZES = [
    (256, 256),
    (300, 257),
    (257, 400),
    (500, 375),
    (640, 479),
    (100, 77),
    (31, 124),
    (31, 200),
    (226, 256),
    (256, 226),
]
SMALL = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("size", SIZES)
def test_load_equals_resize_and_centre_crop_of_torchvision(size: tuple[int, int]) -> None:
    image = picture(*size)
    resized = reference.resize(image, [AT_224.resize], reference.InterpolationMode.BILINEAR)
    expected = np.asarray(reference.center_crop(resized, [AT_224.crop])).astype(int)
    loaded = crops.load(encode(image), AT_224, max_pixels=MAX_PIXELS)
    assert loaded.shape == (224, 224, 3)
    assert loaded.dtype == np.uint8
    assert np.abs(loaded.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_an_image_is_resized_with_the_filter_that_the_weights_were_trained_with(
    interpolation: Interpolation,
) -> None:
    image = picture(300, 257)
    mode = reference.InterpolationMode(interpolation)
    expected = np.asarray(reference.center_crop(reference.resize(image, [AT_224.resize], mode), [AT_224.crop]))
    loaded = crops.load(encode(image), replace(AT_224, interpolation=interpolation), max_pixels=MAX_PIXELS)
    assert np.abs(loaded.astype(int) - expected.astype(int)).max() <= 2
    crop = replace(SMALL, interpolation=interpolation)
    one, same = (crops.random_crop(np.asarray(image), crop, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(one, same)


@settings(max_examples=60, deadline=None)
@example((226, 256), "bilinear")  # as many rows are made as there are, at another scale
@example((256, 226), "bicubic")
@example((224, 500), "bilinear")
@given(
    st.tuples(st.integers(1, 600), st.integers(1, 600)).filter(lambda size: max(size) <= 4 * min(size)),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_the_crop_is_to_the_bit_that_of_all_of_the_image_resized(
    size: tuple[int, int], interpolation: Interpolation
) -> None:
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    sides = [int(256 * side / min(size)) for side in size]
    channels_last = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    whole = functional.interpolate(channels_last, sides, mode=interpolation, antialias=True)
    expected = reference.center_crop(whole, [224])[0].permute(1, 2, 0).numpy()
    assert (crops.centre_crop(image, replace(AT_224, interpolation=interpolation)) == expected).all()


JPEGS: dict[str, tuple[Image.Image, dict[str, object]]] = {
    "usual": (picture(97, 61), {"quality": 90}),
    "whole chroma": (picture(97, 61), {"subsampling": 0}),
    "half chroma": (picture(97, 61), {"subsampling": 1}),
    "progressive": (picture(97, 61), {"progressive": True}),
    "red, green and blue": (picture(97, 61), {"keep_rgb": True}),
    "grey": (picture(97, 61).convert("L"), {}),
    "four inks": (picture(97, 61).convert("CMYK"), {}),
    "on its side": (picture(97, 61), {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"}),
    "of one pixel": (picture(1, 1), {}),
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_is_decoded_to_the_same_pixels_as_by_pillow(name: str) -> None:
    image, options = JPEGS[name]
    data = encode(image, "JPEG", **options)
    opened = preprocess.open_file(data, max_pixels=MAX_PIXELS, target=64)
    assert opened.is_plain == (name not in {"grey", "four inks", "on its side"})
    pillows = np.asarray(preprocess.decode(data, max_pixels=MAX_PIXELS, target=64))
    assert np.array_equal(np.asarray(crops.decoded(opened)), pillows)


def test_a_jpeg_of_a_kind_that_simplejpeg_does_not_know_is_read_by_pillow() -> None:
    whole = bytearray(encode(picture(64, 64), "JPEG", subsampling=0))
    whole[whole.index(b"\xff\xc0") + 11] = 0x14  # four rows of brightness for one of colour
    data = bytes(whole)
    pillows = np.asarray(preprocess.decode(data, max_pixels=MAX_PIXELS, target=64))
    assert np.array_equal(np.asarray(crops.decode(data, max_pixels=MAX_PIXELS, target=64)), pillows)


@pytest.mark.parametrize("size", [(120, 90), (90, 120), (400, 80), (80, 400)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_what_is_large_or_long_or_without_vectors_is_resized_by_pillow(
    size: tuple[int, int], interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(picture(*size), "JPEG")
    wanted = replace(SMALL, interpolation=interpolation)

    def views() -> list[NDArray[np.uint8]]:
        image = crops.decode(data, max_pixels=MAX_PIXELS, target=36)
        assert crops.size_of(image) == size
        random = [crops.random_crop(image, wanted, np.random.default_rng(seed)) for seed in range(5)]
        return [crops.centre_crop(image, wanted), crops.squeezed(image, 32, interpolation), *random]

    usual = views()
    found = {}
    for name, value in (("MOST_PIXELS", 9000), ("LONGEST", 1), ("_HAS_VECTORS", False)):
        with monkeypatch.context() as changed:
            changed.setattr(crops, name, value)
            assert isinstance(crops.decode(data, max_pixels=MAX_PIXELS, target=36), Image.Image)
            found[name] = views()
    for others in found.values():
        assert all((one == other).all() for one, other in zip(others, found["LONGEST"], strict=True))
    # In another order of rows and columns, and of parts that begin within a pixel.
    differences = [np.abs(one.astype(int) - other) for one, other in zip(usual, found["LONGEST"], strict=True)]
    assert all(difference.max() <= 4 for difference in differences[:2])
    assert all(difference.mean() < 8 for difference in differences[2:])


def test_a_damaged_jpeg_is_what_pillow_makes_of_it() -> None:
    whole = encode(picture(97, 61), "JPEG")
    scan = whole.index(b"\xff\xda") + 14
    damaged = whole[: scan + 200] + b"\xff\xd3" + whole[scan + 202 :]
    pillows = np.asarray(preprocess.decode(damaged, max_pixels=MAX_PIXELS, target=64))
    assert np.array_equal(np.asarray(crops.decode(damaged, max_pixels=MAX_PIXELS, target=64)), pillows)
    assert not np.array_equal(np.asarray(crops.decode(whole, max_pixels=MAX_PIXELS, target=64)), pillows)


def test_nothing_larger_is_decoded_than_what_the_limit_was_held_to() -> None:
    small, large = (encode(picture(*size), "JPEG") for size in ((40, 30), (97, 61)))
    opened = replace(preprocess.open_file(small, max_pixels=1200, target=64), data=large)
    assert crops.size_of(crops.decoded(opened)) == (40, 30)


def test_a_large_jpeg_that_is_decoded_at_a_fraction_of_its_size_looks_the_same() -> None:
    image = picture(1200, 800)
    data = encode(image, "JPEG", quality=95)
    assert preprocess.decode(data, max_pixels=MAX_PIXELS, target=100).size == (300, 200)
    small = Preprocessing(resize=100, crop=90, mean=AT_224.mean, std=AT_224.std)
    fast = crops.load(data, small, max_pixels=MAX_PIXELS).astype(int)
    whole = np.asarray(preprocess.decode(data, max_pixels=MAX_PIXELS, target=None))
    full = crops.centre_crop(whole, small).astype(int)
    assert np.abs(fast - full).mean() < 1
    assert np.abs(fast - full).max() <= 8


def test_an_extremely_long_image_is_loaded_without_an_extremely_large_intermediate() -> None:
    loaded = crops.load(encode(Image.new("RGB", (100_000, 1), (9, 8, 7))), AT_224, max_pixels=MAX_PIXELS)
    assert loaded.shape == (224, 224, 3)
    assert (loaded == (9, 8, 7)).all()


PEAK = """
import sys, threading
from pathlib import Path
from app.backbones import crops
from app.backbones.preprocess import Preprocessing
def status(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
def view():
    image = crops.decode(data, max_pixels=10**8, target=36)
    crops.centre_crop(image, SMALL)
    crops.squeezed(image, 32, "bilinear")
SMALL = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
data = Path(sys.argv[2]).read_bytes()
view()
data = Path(sys.argv[1]).read_bytes()
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = status("VmRSS")
threads = [threading.Thread(target=view) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(status("VmHWM") - before)
"""
LARGE = 4200, 1 + preprocess.LARGE_PIXELS // 4200


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are told in another way elsewhere")
@pytest.mark.parametrize(
    ("size", "mode", "kind", "options", "most"),
    [
        (LARGE, "RGBA", "PNG", {}, 384e6),
        (LARGE, "RGB", "JPEG", {"progressive": True, "subsampling": 0}, 384e6),
        ((1, 2_000_000), "RGB", "PNG", {}, 256e6),
        ((2_000_000, 1), "RGB", "PNG", {}, 256e6),
    ],
)
def test_large_images_are_not_in_memory_side_by_side(
    tmp_path: Path, size: tuple[int, int], mode: str, kind: str, options: dict[str, object], most: float
) -> None:
    paths = tmp_path / "large", tmp_path / "small"
    paths[0].write_bytes(encode(Image.new(mode, size), kind, **options))
    paths[1].write_bytes(encode(picture(64, 64), "JPEG"))
    ran = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < most


def test_random_crops_are_the_same_for_the_same_seed_and_differ_between_seeds() -> None:
    image = np.asarray(picture(120, 90))

    def cropped(seed: int) -> NDArray[np.uint8]:
        return crops.random_crop(image, SMALL, np.random.default_rng(seed))

    assert cropped(3).shape == (32, 32, 3)
    assert cropped(3).flags.c_contiguous
    assert (cropped(3) == cropped(3)).all()
    assert (cropped(3) != cropped(4)).any()


def test_random_crops_mirror_about_every_other_image() -> None:
    ramp = np.repeat(np.arange(0, 250, 2, dtype=np.uint8)[None, :, None], 90, 0).repeat(3, 2)
    found = [crops.random_crop(ramp, replace(SMALL, crop=16), np.random.default_rng(seed)) for seed in range(200)]
    mirrored = sum(int(crop[0, 0, 0]) > int(crop[0, -1, 0]) for crop in found)
    assert 75 <= mirrored <= 125


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (32, 33)])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_random_crops_work_for_every_shape(shape: tuple[int, int], interpolation: Interpolation) -> None:
    image, small = np.full((*shape, 3), 99, np.uint8), replace(SMALL, interpolation=interpolation)
    for seed in range(20):
        crop = crops.random_crop(image, small, np.random.default_rng(seed))
        assert crop.shape == (32, 32, 3)
        assert (crop == 99).all()
