"""From the bytes of a photo to the pixels a network sees: one path for training, evaluation and serving.

Photos of a usual size and shape are arrays that torch resizes, and most of them come into these straight from
libjpeg-turbo; this takes two thirds of the time. All others are Pillow's images and resized by Pillow, which needs less
memory for them. Where the processor has no vector instructions that torch knows to resize with, so are all.
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

Decoded = Pixels | Image.Image

CROP_TRIES = 10
CROP_AREA = (0.35, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
MOST_PIXELS = 4_000_000
"""Of an array: it takes 3 bytes for each, and as much again while it is made of an image of Pillow's."""
LONGEST = 4
"""Times as long as it is high, or the other way round, is an array. All of it is resized but for what is right of the
crop and below it: of a panorama of one pixel's height that would fill the memory."""
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
_HAS_VECTORS = torch.backends.cpu.get_cpu_capability().startswith("AVX")
"""Without them torch takes four times as long as Pillow."""

_UNREADABLE = (ValueError, KeyError, RuntimeError, MemoryError)
"""What simplejpeg raises of files that are damaged, or sampled in a way that it has no name for, and where it has no
memory."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the image."""


def load(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> Pixels:
    """The `(crop, crop, 3)` pixels that the network is to see of the image file `data`. Raises `BadImage`."""
    return centre_crop(decode(data, max_pixels=max_pixels, target=preprocessing.resize), preprocessing)


def decode(data: bytes, *, max_pixels: int, target: int) -> Decoded:
    """What `preprocess.decode` makes of an image file. Raises `BadImage`."""
    opened = preprocess.open_file(data, max_pixels=max_pixels, target=target)
    with opened.turn():
        return decoded(opened)


def decoded(opened: Opened) -> Decoded:
    """An image, large or not. Raises `BadImage`."""
    if opened.is_plain and _is_usual(*opened.file.size):
        # Pillow decides then: some can be read.
        with suppress(*_UNREADABLE):
            # Of an image of more pixels than Pillow, whose limit holds, has read of in its header nothing is decoded.
            if simplejpeg.decode_jpeg_header(opened.data)[:2] == (opened.file.height, opened.file.width):
                return simplejpeg.decode_jpeg(opened.data, "RGB")  # type: ignore[no-any-return]
    image = opened.decoded()
    return np.array(image) if _is_usual(*image.size) else image


def size_of(image: Decoded) -> tuple[int, int]:
    """Width and height."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def centre_crop(image: Decoded, preprocessing: Preprocessing) -> Pixels:
    """Resize and centre crop in one step, with the rounding of torchvision's `Resize` and `CenterCrop`."""
    resize, crop = preprocessing.resize, preprocessing.crop
    width, height = size_of(image)
    shorter = min(width, height)
    columns, rows = (int(resize * side / shorter) for side in (width, height))
    left, top = round((columns - crop) / 2), round((rows - crop) / 2)
    image = _resizable(image, preprocessing.interpolation)
    if isinstance(image, Image.Image):
        # Only the crop's source is resized.
        across, down = width / columns, height / rows
        box = (left * across, top * down, (left + crop) * across, (top + crop) * down)
        return _by_pillow(image, crop, box, preprocessing.interpolation)
    made = _made(top + crop, rows, height), _made(left + crop, columns, width)
    resized = _OF_TORCH[preprocessing.interpolation](_tensor(image), made, False, rows / height, columns / width)
    return _pixels(resized)[top : top + crop, left : left + crop].copy()


def random_crop(image: Decoded, preprocessing: Preprocessing, rng: np.random.Generator) -> Pixels:
    """A `(crop, crop, 3)` view for training: a random part of the image, mirrored every other time.

    The part has 35-100 % of the area and a width to height ratio of 3:4-4:3, as in "Going Deeper with Convolutions"
    (Szegedy et al. 2014, section 6), and is the same for the same state of `rng`. Of an array it is whole pixels.
    """
    width, height = size_of(image)
    box = _random_box(width, height, rng)
    if isinstance(image, Image.Image):
        pixels = _by_pillow(image, preprocessing.crop, box, preprocessing.interpolation)
    else:
        left, top, right, bottom = box
        x, y = min(int(left), width - 1), min(int(top), height - 1)
        part = image[y : max(y + 1, round(bottom)), x : max(x + 1, round(right))]
        pixels = squeezed(part, preprocessing.crop, preprocessing.interpolation)
    if rng.random() < 0.5:
        return np.ascontiguousarray(pixels[:, ::-1])
    return pixels


def squeezed(image: Decoded, size: int, interpolation: Interpolation) -> Pixels:
    """All of the image in `(size, size, 3)` pixels, whatever its shape."""
    image = _resizable(image, interpolation)
    if isinstance(image, Image.Image):
        return _by_pillow(image, size, (0, 0, *image.size), interpolation)
    resized = functional.interpolate(_tensor(image), (size, size), mode=interpolation, antialias=True)
    return np.ascontiguousarray(_pixels(resized))


def _is_usual(width: int, height: int) -> bool:
    """Whether an image of that size is to be an array."""
    is_long = max(width, height) > LONGEST * min(width, height)
    return _HAS_VECTORS and not is_long and width * height <= MOST_PIXELS


def _resizable(image: Decoded, interpolation: Interpolation) -> Decoded:
    """Pillow's image where Pillow is to resize it."""
    if isinstance(image, Image.Image) or (interpolation in _OF_TORCH and _is_usual(*size_of(image))):
        return image
    return Image.fromarray(image)


def _made(end: int, whole: int, before: int) -> int:
    """How many of `whole` rows or columns to make for the first `end`, of `before`; as many as before would torch take
    for nothing to be done."""
    return end + 1 if end == before != whole else end


def _tensor(image: Pixels) -> Tensor:
    """`(1, 3, H, W)` in channels-last order."""
    # Of arrays that cannot be written to torch would warn, and others it would copy in all of its threads.
    suits = image if image.flags.writeable and image.flags.c_contiguous else image.copy()
    # By numpy, since with each step torch lets go of the interpreter. And with the axis of images first: added last
    # torch would not see that channels come last, and transpose.
    return torch.from_numpy(suits.reshape(1, *suits.shape).transpose(0, 3, 1, 2))


def _pixels(image: Tensor) -> Pixels:
    """`(H, W, 3)`."""
    pixels: Pixels = image.numpy()[0].transpose(1, 2, 0)
    return pixels


def _by_pillow(image: Image.Image, size: int, box: Box, interpolation: Interpolation) -> Pixels:
    left, top, right, bottom = box
    # Rounding may put the far corner a hair outside, which Pillow refuses.
    inside = (left, top, min(right, image.width), min(bottom, image.height))
    return np.array(image.resize((size, size), _FILTERS[interpolation], box=inside))


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
