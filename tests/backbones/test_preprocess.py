import base64
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app import errors
from app.backbones import crops, preprocess
from app.backbones.preprocess import ImageFacts, Preprocessing
from tests.backbones.pictures import encode, picture

MAX_PIXELS = 1_000_000
AT_224 = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SMALL = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

# Left half dark, upper right bright: every orientation looks different.
SIGNPOST = np.zeros((32, 48, 3), np.uint8)
SIGNPOST[:16, 24:] = 255

ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2P/yQARCAAgACADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AKAMHDjLfH52GlnwQgoJvGJZUkV+"
    "NRjDU8pTWHeI+cgquKRMx78bfm5YvutUpEtCWJkkVPQo3Mnk2bZ61yfB9PI2tAscjzq9Eyqitadh5Bley/Xg/9k="
)
"""A JPEG of 32 x 32 pixels with arithmetic coding, which Pillow does not write."""


def decoded(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(preprocess.decode(data, max_pixels=MAX_PIXELS, target=None))


def refused(data: bytes) -> errors.BadImage:
    with pytest.raises(errors.BadImage) as caught:
        crops.load(data, SMALL, max_pixels=MAX_PIXELS)
    return caught.value


def test_the_filter_of_artifacts_that_do_not_name_it_is_bilinear() -> None:
    document = AT_224.to_json()
    assert Preprocessing.from_json(document) == AT_224
    del document["interpolation"]
    assert Preprocessing.from_json(document) == AT_224


def test_a_jpeg_less_than_four_times_as_large_is_decoded_in_full() -> None:
    data = encode(picture(399, 399), "JPEG")
    # Twice the target must be left: 398 would need 796.
    assert preprocess.decode(data, max_pixels=MAX_PIXELS, target=100).size == (399, 399)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_come_out_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(SIGNPOST)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = upright if turn is None else upright.transpose(turn)
    data = encode(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.abs(decoded(data).astype(int) - SIGNPOST).max() < 30
    facts = preprocess.inspect(data, max_pixels=MAX_PIXELS)
    assert (facts.format, facts.width, facts.height) == (kind, 48, 32)


@pytest.mark.parametrize("order", ["II", "MM"])
def test_orientation_is_read_in_both_byte_orders(order: str) -> None:
    mark = "<" if order == "II" else ">"
    tiff = order.encode() + struct.pack(f"{mark}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, 3, 0, 0)
    data = encode(Image.fromarray(SIGNPOST[::-1, ::-1]), "JPEG", exif=b"Exif\0\0" + tiff)
    assert np.abs(decoded(data).astype(int) - SIGNPOST).max() < 30


def test_damaged_exif_data_does_not_make_a_photo_unusable() -> None:
    tiff = b"II" + struct.pack("<HIHHHII", 42, 8, 9, 0x011A, 5, 1, 0xFFFFFF)
    data = encode(Image.fromarray(SIGNPOST), "JPEG", exif=b"Exif\0\0" + tiff)
    assert np.abs(decoded(data).astype(int) - SIGNPOST).max() < 30


def test_a_16_bit_grey_png_keeps_its_upper_byte() -> None:
    grey = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    expected = np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    assert (decoded(encode(Image.fromarray(grey))) == expected).all()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("RGBA", "WEBP")],
)
def test_every_colour_mode_comes_out_as_rgb(mode: str, kind: str) -> None:
    grey = Image.fromarray(SIGNPOST).convert("L")
    source = grey if mode in ("L", "1", "LA") else grey.convert("RGB")
    result = decoded(encode(source.convert(mode), kind))
    assert result.shape == (32, 48, 3)
    assert np.abs(result.astype(int) - SIGNPOST).max() < 30


def _with_alpha(mode: str) -> Image.Image:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 4, 8))
    return image.convert(mode)


def _palette_with_transparent_entry() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([200, 0, 0, 0, 0, 0])
    image.paste(0, (0, 0, 4, 8))
    image.info["transparency"] = 1
    return image


def _palette_with_alpha_values() -> Image.Image:
    image = _palette_with_transparent_entry()
    image.info["transparency"] = bytes([255, 0])
    return image


def _rgb_with_transparent_colour() -> Image.Image:
    image = _with_alpha("RGBA").convert("RGB")
    image.info["transparency"] = (0, 0, 0)
    return image


@pytest.mark.parametrize(
    "make",
    [
        lambda: _with_alpha("RGBA"),
        _palette_with_transparent_entry,
        _palette_with_alpha_values,
        _rgb_with_transparent_colour,
    ],
)
def test_transparency_is_laid_on_white(make: Callable[[], Image.Image]) -> None:
    image = make()
    options = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    result = decoded(encode(image, "PNG", **options))
    assert (result[:, :4] == (200, 0, 0)).all()
    assert (result[:, 4:] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_a_transparent_image_of_several_bands_is_that_of_one(mode: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (1100, 990, 4), np.uint8))
    data = encode(image.convert(mode) if mode != "PA" else image.quantize(32))
    whole = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    white.alpha_composite(whole)
    found = preprocess.decode(data, max_pixels=2 * MAX_PIXELS, target=None)
    assert (np.asarray(found) == np.asarray(white.convert("RGB"))).all()


def test_refusals_say_what_is_wrong() -> None:
    photo = encode(picture(64, 48), "JPEG")
    assert refused(b"").code == "empty_image"
    assert refused(b"hello").code == "not_an_image"
    assert refused(encode(picture(9, 9), "GIF")).code == "not_an_image"
    assert refused(photo[: len(photo) // 2]).code == "broken_image"
    assert refused(photo[:20]).code == "broken_image"
    for cut in (photo[: len(photo) // 2], photo[:20], photo[:3]):
        assert refused(cut).message == "the file is damaged or cut off"
        assert refused(cut).detail["reason"]


def progressive(*, more_scans: int) -> bytes:
    """A flat JPEG whose last scan comes that many times more."""
    data = encode(Image.new("RGB", (64, 48), (90, 120, 30)), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[data.rindex(b"\xff\xda") : end] * more_scans + data[end:]


def test_a_jpeg_with_scans_without_end_is_refused_before_it_is_decoded() -> None:
    error = refused(progressive(more_scans=preprocess.MAX_SCANS))
    assert error.code == "broken_image"
    assert "scans" in error.message
    with pytest.raises(errors.BadImage, match="scans"):
        preprocess.inspect(progressive(more_scans=10_000), max_pixels=MAX_PIXELS)
    with pytest.raises(errors.BadImage, match="parts"):
        preprocess.inspect(progressive(more_scans=0)[:-2] + b"\xff\xfe\0\4\xff\xda" * 20_000, max_pixels=MAX_PIXELS)


def test_a_jpeg_with_as_many_scans_as_are_written_is_taken() -> None:
    whole = progressive(more_scans=0)
    assert decoded(progressive(more_scans=30)).shape == (48, 64, 3)
    assert (decoded(progressive(more_scans=30)) == decoded(whole)).all()


def test_what_looks_like_scans_in_a_profile_or_behind_the_image_does_not_count() -> None:
    photo = encode(picture(64, 48), "JPEG", icc_profile=b"\xff\xda" * 1000)
    film = photo + b"\xff\xda\0\x08" * 1000
    assert (decoded(film) == decoded(encode(picture(64, 48), "JPEG"))).all()


def test_a_jpeg_with_arithmetic_coding_is_taken_however_large() -> None:
    long = ARITHMETIC[:2] + b"\xff\xfe\xff\0" + bytes(0xFF00 - 2) + ARITHMETIC[2:]
    assert 2**16 < len(long) < 2**16 + 50  # so that a piece of 64 KiB ends within the scan
    assert (decoded(long) == decoded(ARITHMETIC)).all()
    expected = crops.load(ARITHMETIC, SMALL, max_pixels=MAX_PIXELS)
    assert (crops.load(long, SMALL, max_pixels=MAX_PIXELS) == expected).all()


def test_an_image_over_the_limit_is_refused_by_its_header() -> None:
    header = struct.pack(">IIBBBBB", 40_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    error = refused(data)
    assert error.code == "image_too_large"
    assert error.detail == {"width": 40_000, "height": 30_000, "max_pixels": MAX_PIXELS}
    assert "40000 x 30000" in error.message
    assert "1,000,000" in error.message


def test_an_image_of_exactly_the_limit_is_taken() -> None:
    data = encode(Image.new("RGB", (10, 10)))
    assert preprocess.inspect(data, max_pixels=100).width == 10
    with pytest.raises(errors.BadImage):
        preprocess.inspect(data, max_pixels=99)


SAMPLES = {
    "jpeg": encode(picture(40, 30), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"),
    "progressive": encode(picture(40, 30), "JPEG", progressive=True),
    "png": encode(picture(40, 30)),
    "palette": encode(_palette_with_alpha_values(), "PNG", transparency=bytes([255, 0])),
    "webp": encode(picture(40, 30), "WEBP"),
    "webp with alpha": encode(_with_alpha("RGBA"), "WEBP"),
}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_whatever_raise_anything_but_bad_image(data: st.DataObject) -> None:
    sample = SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))]
    content = bytearray(sample[: data.draw(st.integers(1, len(sample)))])
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = preprocess.inspect(bytes(content), max_pixels=MAX_PIXELS)
        pixels = crops.load(bytes(content), SMALL, max_pixels=MAX_PIXELS)
    except errors.BadImage:
        return
    assert facts.width * facts.height <= MAX_PIXELS
    assert pixels.shape == (32, 32, 3)


def test_the_difference_hash_is_the_same_for_copies_and_differs_for_other_pictures() -> None:
    def facts(image: Image.Image, kind: str = "PNG") -> ImageFacts:
        return preprocess.inspect(encode(image, kind), max_pixels=MAX_PIXELS)

    original, copy, other = facts(picture(200, 150)), facts(picture(200, 150).resize((100, 75)), "JPEG"), None
    other = facts(picture(200, 150, seed=1))
    assert 0 <= original.difference_hash < 2**64
    assert (original.difference_hash ^ copy.difference_hash).bit_count() <= 4
    assert (original.difference_hash ^ other.difference_hash).bit_count() >= 12


def test_preprocessing_survives_json() -> None:
    assert Preprocessing.from_json(AT_224.to_json()) == AT_224
