"""From the bytes of a photo to the pixels a network sees: one path for training, evaluation and serving.

What takes most of the time is done by libjpeg-turbo and torch, which agree with Pillow: a JPEG is decoded straight into
an array, and resized by vector instructions where Pillow has none. What they cannot do, Pillow does.
"""

from contextlib import suppress

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from app.backbones import preprocess
from app.backbones.preprocess import Interpolation, Opened, Pixels, Preprocessing

CROP_TRIES = 10
CROP_AREA = (0.35, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
_LONG = 4
"""Of an image that is longer by more, only the crop's source is resized: a panorama of one pixel's height would
otherwise fill the memory."""
_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_OF_TORCH = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.default,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.default,
}
"""With antialiasing. Not by `functional.interpolate`, which makes all of an image at a scale or nothing."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the image."""


def load(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> Pixels:
    """The `(crop, crop, 3)` pixels that the network is to see of the image file `data`. Raises `BadImage`."""
    return centre_crop(decode(data, max_pixels=max_pixels, target=preprocessing.resize), preprocessing)


def decode(data: bytes, *, max_pixels: int, target: int) -> Pixels:
    """The pixels of what `preprocess.decode` makes of an image file. Raises `BadImage` as that does."""
    opened = preprocess.open_file(data, max_pixels=max_pixels, target=target)
    with opened.turn():
        return decoded(opened)


def decoded(opened: Opened) -> Pixels:
    """The pixels of an image, large or not. Raises `BadImage`."""
    if opened.is_plain:
        # Where it is damaged, Pillow decides how badly: some of such files can be read.
        with suppress(ValueError):
            # Of an image of more pixels than Pillow, whose limit holds, has read of in its header nothing is decoded.
            if simplejpeg.decode_jpeg_header(opened.data)[:2] == (opened.file.height, opened.file.width):
                return simplejpeg.decode_jpeg(opened.data, "RGB")  # type: ignore[no-any-return]
    return np.asarray(opened.decoded())


def centre_crop(image: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Resize and centre crop in one step, with the rounding of torchvision's `Resize` and `CenterCrop`."""
    resize, crop = preprocessing.resize, preprocessing.crop
    height, width = image.shape[:2]
    shorter, longer = sorted((height, width))
    rows, columns = (int(resize * side / shorter) for side in (height, width))
    top, left = round((rows - crop) / 2), round((columns - crop) / 2)
    if longer > _LONG * shorter or preprocessing.interpolation not in _OF_TORCH:
        down, across = height / rows, width / columns
        box = (left * across, top * down, (left + crop) * across, (top + crop) * down)
        return _by_pillow(image, crop, box, preprocessing.interpolation)
    # What is right of the crop and below it is not made.
    made = _made(top + crop, rows, height), _made(left + crop, columns, width)
    resized = _OF_TORCH[preprocessing.interpolation](_tensor(image), made, False, rows / height, columns / width)
    return _pixels(resized[:, :, top : top + crop, left : left + crop])


def random_crop(image: Pixels, preprocessing: Preprocessing, rng: np.random.Generator) -> Pixels:
    """A `(crop, crop, 3)` view for training: a random part of the image, mirrored every other time.

    The part has 35-100 % of the area and a width to height ratio of 3:4-4:3, as in "Going Deeper with Convolutions"
    (Szegedy et al. 2014, section 6), and is the same for the same state of `rng`.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = _random_box(width, height, rng)
    # Whole pixels, and one at least.
    x, y = min(int(left), width - 1), min(int(top), height - 1)
    part = image[y : max(y + 1, round(bottom)), x : max(x + 1, round(right))]
    pixels = squeezed(part, preprocessing.crop, preprocessing.interpolation)
    if rng.random() < 0.5:
        return np.ascontiguousarray(pixels[:, ::-1])
    return pixels


def squeezed(image: Pixels, size: int, interpolation: Interpolation) -> Pixels:
    """All of the image in `(size, size, 3)` pixels, whatever its shape."""
    if interpolation not in _OF_TORCH:
        return _by_pillow(image, size, (0, 0, image.shape[1], image.shape[0]), interpolation)
    resized = functional.interpolate(_tensor(image), (size, size), mode=interpolation, antialias=True)
    return _pixels(resized)


def _made(end: int, whole: int, before: int) -> int:
    """How many of `whole` rows or columns to make for the first `end`, of `before`; as many as before would torch take
    for nothing to be done."""
    return end + 1 if end == before != whole else end


def _tensor(image: Pixels) -> Tensor:
    """`(1, 3, H, W)` in channels-last order."""
    # Pillow's arrays cannot be written to, of which torch would warn.
    writable = image if image.flags.writeable else image.copy()
    # In this order: with the axis of images added last torch would not see that channels come last, and transpose.
    return torch.from_numpy(writable)[None].permute(0, 3, 1, 2)


def _pixels(image: Tensor) -> Pixels:
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


def _by_pillow(image: Pixels, size: int, box: Box, interpolation: Interpolation) -> Pixels:
    height, width = image.shape[:2]
    left, top, right, bottom = box
    # Rounding may put the far corner a hair outside, which Pillow refuses.
    inside = (left, top, min(right, width), min(bottom, height))
    return np.array(Image.fromarray(image).resize((size, size), _FILTERS[interpolation], box=inside))


def _random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    low, high = np.log(CROP_RATIO)
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = np.exp(rng.uniform(low, high))
        across, down = float(np.sqrt(area * ratio)), float(np.sqrt(area / ratio))
        if across <= width and down <= height:
            left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
            return left, top, left + across, top + down
    # The image is longer than any ratio allowed: as much of its middle as is.
    across = min(width, height * CROP_RATIO[1])
    down = min(height, width / CROP_RATIO[0])
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down
