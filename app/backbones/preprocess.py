"""How photos are prepared for a network, and from the bytes of a photo to a decoded image.

Everything here takes untrusted bytes and answers them with an image or with `BadImage`, never with anything else.
Knows no torch: what a network sees of an image is cut by `crops`.
"""

import io
import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from app import errors

Pixels = NDArray[np.uint8]
"""An RGB image as `(height, width, 3) uint8`."""

Interpolation = Literal["bilinear", "bicubic", "lanczos"]

# A JPEG may be decoded at a fraction of its size where that stays this many times larger than what is needed:
# the resize that follows then hides the difference.
_DRAFT_MARGIN = 2
LARGE_PIXELS = 16_000_000
"""Where one has to be decoded in full, images with more are decoded one after the other: each takes 8 bytes a pixel, as
WebP 16, however few its file has."""
_TURN = threading.Lock()
_BAND_PIXELS = 1_000_000
MAX_SCANS = 100
"""Of a progressive JPEG; cameras and programs write ten, and twenty at most."""
_MAX_MARKERS = 10_000
# What libjpeg takes for the next marker of a JPEG, leaving out those that nothing depends on: fill bytes, restarts.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_END, _SCAN = b"\xd9", b"\xda"
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image: resized (antialiased) so that its shorter side has `resize` pixels, the centre square
    of `crop` pixels cut out, scaled to 0-1, and normalised with `mean` and `std` per channel (RGB).
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bilinear"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` is the way back."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Preprocessing":
        """The value that `to_json` or `dataclasses.asdict` wrote."""
        return cls(
            resize=int(document["resize"]),
            crop=int(document["crop"]),
            mean=_triple(document["mean"]),
            std=_triple(document["std"]),
            # Artifacts of the first release do not name it.
            interpolation=document.get("interpolation", "bilinear"),
        )


@dataclass(frozen=True)
class ImageFacts:
    """What ingest keeps of an image; size in pixels as it is displayed."""

    format: str
    width: int
    height: int
    difference_hash: int
    """64 bits, unsigned: the brightness gradients along the rows of a 9x8 miniature; near copies differ in few bits."""


@dataclass(frozen=True)
class Opened:
    """An image file of which the header has been read and nothing is decoded."""

    file: ImageFile
    data: bytes
    large_pixels: int
    """How many pixels are in memory while it is decoded, of an image that has so many that it is to be decoded while no
    other such image is; 0 for others."""
    is_plain: bool
    """Whether it is a JPEG in colour that is decoded as it is, at its full size and upright: any decoder will do."""

    def decoded(self) -> Image.Image:
        """As `decode`, except that large images are left to the caller's care."""
        try:
            self.file.load()
            return _upright(_to_rgb(self.file), _exif_of(self.file))
        except Exception as error:
            raise _broken(error) from error

    def turn(self) -> AbstractContextManager[object]:
        """To be held while it is decoded: of large images only one has it."""
        return _TURN if self.large_pixels else nullcontext()


def decode(data: bytes, *, max_pixels: int, target: int | None) -> Image.Image:
    """The RGB image in a JPEG, PNG or WebP file, upright, transparency laid on white.

    Where `target` is given, the image may come out smaller, with a shorter side of at least twice `target` pixels.
    Of those that do not, large ones wait for each other. Raises `BadImage`: empty_image, not_an_image, broken_image,
    image_too_large.
    """
    opened = open_file(data, max_pixels=max_pixels, target=target)
    with opened.turn():
        return opened.decoded()


def open_file(data: bytes, *, max_pixels: int, target: int | None) -> Opened:
    """What `decode` decodes. Raises `BadImage`."""
    image = _open(data, max_pixels=max_pixels)
    size = image.size
    is_plain = False
    if isinstance(image, JpegImageFile):
        # All at once: within what is coded arithmetically libjpeg cannot wait for more.
        image.decodermaxblock = max(image.decodermaxblock, len(data))
        if target is not None:
            try:
                image.draft("RGB", (_DRAFT_MARGIN * target, _DRAFT_MARGIN * target))
            except Exception as error:
                raise _broken(error) from error
        is_plain = image.mode == "RGB" and image.size == size and _orientation(_exif_of(image)) not in _ORIENTATIONS
    # All of a progressive JPEG is in memory, however small it comes out.
    width, height = size if "progressive" in image.info else image.size
    is_large = target is not None and width * height > LARGE_PIXELS
    return Opened(image, data, width * height if is_large else 0, is_plain)


def inspect(data: bytes, *, max_pixels: int) -> ImageFacts:
    """Facts of an image file, which is decoded in full to make sure that it can be. Raises `BadImage` as `decode`."""
    image = decode(data, max_pixels=max_pixels, target=None)
    return ImageFacts(
        format=_signature(data) or "",
        width=image.width,
        height=image.height,
        difference_hash=_difference_hash(image),
    )


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """The resolution does not matter here, and to read it from damaged EXIF data gives warnings."""


_READERS: dict[str, type[ImageFile]] = {"JPEG": _Jpeg, "PNG": PngImageFile, "WEBP": WebPImageFile}


def _signature(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def _open(data: bytes, *, max_pixels: int) -> ImageFile:
    """The image with its header read and nothing decoded."""
    if not data:
        raise errors.BadImage("the file is empty", code="empty_image")
    signature = _signature(data)
    if signature is None:
        raise errors.BadImage("not a JPEG, PNG or WebP image", code="not_an_image")
    try:
        # The reader itself and not `Image.open`, which warns of sizes (and of multi-picture photos) before one can
        # look at them, and warnings cannot be caught in threads.
        image = _READERS[signature](io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise errors.BadImage(
            f"the image has more pixels than the {max_pixels:,} allowed",
            code="image_too_large",
            detail={"max_pixels": max_pixels},
        ) from error
    except Exception as error:
        raise _broken(error) from error
    _check_size(image.width, image.height, max_pixels)
    # Where scans are whole, as in most files, more of them need a larger file.
    if "progressive" in image.info:
        _check_scans(data)
    return image


def _check_scans(data: bytes) -> None:
    """Refuse a JPEG that takes hours to decode: of a flat image a scan has 14 bytes, and goes through all of it."""
    # Nearly all files are done with here. The others may have a film or pictures behind them, or large profiles.
    if data.count(b"\xff" + _SCAN) <= MAX_SCANS:
        return
    place, scans = 2, 0
    for _ in range(_MAX_MARKERS):
        found = _MARKER.search(data, place)
        if found is None or found[1] == _END:
            return
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        scans += found[1] == _SCAN
        if scans > MAX_SCANS:
            break
    raise errors.BadImage(
        f"the image is damaged: it has more than {MAX_SCANS} scans or {_MAX_MARKERS:,} parts", code="broken_image"
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise errors.BadImage(
            f"the image is {width} x {height} = {width * height:,} pixels, over the limit of {max_pixels:,}",
            code="image_too_large",
            detail={"width": width, "height": height, "max_pixels": max_pixels},
        )


def _broken(error: Exception) -> errors.BadImage:
    # The decoders raise nearly every built-in exception on damaged files, so all of them mean the same here.
    reason = str(error) or type(error).__name__
    return errors.BadImage("the file is damaged or cut off", code="broken_image", detail={"reason": reason})


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255 where the upper half of the range is wanted.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "RGB" and not image.has_transparency_data:
        # To convert it would copy it, into memory that the system has to hand out first: as dear as decoding it.
        return image
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """In bands, since all at once would be four images in memory."""
    found = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = image.crop(box).convert("RGBA")
        opaque = Image.new("RGBA", band.size, "white")
        opaque.alpha_composite(band)
        found.paste(opaque.convert("RGB"), box)
    return found


def _exif_of(image: Image.Image) -> bytes:
    exif = image.info.get("exif", b"")
    return exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""


def _upright(image: Image.Image, exif: bytes) -> Image.Image:
    turn = _ORIENTATIONS.get(_orientation(exif))
    return image if turn is None else image.transpose(turn)


def _orientation(exif: bytes) -> int:
    """The orientation tag of a TIFF header, 1 (upright) where there is none or the data is damaged.

    Read by hand, since Pillow warns of damage in parts that nobody wants to see here.
    """
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is None:
        return 1

    def number(start: int, length: int) -> int:
        return int.from_bytes(exif[start : start + length], "little" if order == "little" else "big")

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(exif)), 12):
        if number(entry, 2) == _ORIENTATION_TAG:
            return number(entry + 8, 2)
    return 1


def _difference_hash(image: Image.Image) -> int:
    miniature = np.asarray(ImageOps.grayscale(image).resize((9, 8), Image.Resampling.LANCZOS))
    bits = miniature[:, 1:] > miniature[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)
