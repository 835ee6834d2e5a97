"""Photos to serve: those of an archive, or drawn ones with the spectrum of photos; all of one size, as JPEGs."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench import photos

SIZE = (500, 375)
SENT_BYTES = 80_000
"""About so large is the photo that is sent."""

_LABELS = tuple(f"texture{number}" for number in range(10))
_EACH = 20
_HELD_OUT = 0.4
_QUALITY = 90
# The amplitude of photos falls about as the frequency rises, that of their colours faster.
_FALL, _COLOUR_FALL = 1.1, 1.5
_CONTRAST, _COLOUR_CONTRAST, _TINT = 35.0, 10.0, 60.0


@dataclass(frozen=True)
class Pictures:
    """JPEGs with labels, in a part to fit a classifier to and one to check its answers on."""

    labels: tuple[str, ...]
    train: photos.Photos
    validation: photos.Photos
    sent: bytes
    """The photo that all servers are asked about under load."""


def make(archive: Path | None) -> Pictures:
    """Those of an archive with a folder per class, or drawn ones for None."""
    found = _drawn() if archive is None else _read(archive)
    train, validation = photos.divide(found.photos, share=_HELD_OUT, seed=0)
    return Pictures(found.labels, train, validation, sent=_of_size(validation.files[0]))


def _read(archive: Path) -> photos.PhotoSet:
    found = photos.read(archive)
    files = tuple(_jpeg(_opened(file), _QUALITY) for file in found.photos.files)
    return photos.PhotoSet(found.name, found.labels, _photos(files, found.photos.targets))


def _drawn() -> photos.PhotoSet:
    targets = np.repeat(np.arange(len(_LABELS)), _EACH)
    files = tuple(_jpeg(_texture(int(target), seed), _QUALITY) for seed, target in enumerate(targets))
    return photos.PhotoSet("drawn", _LABELS, _photos(files, targets))


def _photos(files: tuple[bytes, ...], targets: NDArray[np.int64]) -> photos.Photos:
    return photos.Photos(files, targets, tuple(hashlib.sha256(file).hexdigest() for file in files))


def _opened(file: bytes) -> Image.Image:
    return ImageOps.fit(Image.open(io.BytesIO(file)).convert("RGB"), SIZE)


def _of_size(file: bytes) -> bytes:
    """The photo at the quality at which it has nearly `SENT_BYTES`."""
    image = Image.open(io.BytesIO(file))
    tries = [_jpeg(image, quality) for quality in range(40, 100, 4)]
    return min(tries, key=lambda found: abs(len(found) - SENT_BYTES))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _texture(target: int, seed: int) -> Image.Image:
    """A label is a direction, how fine the pattern is, and a tint."""
    rng = np.random.default_rng(seed)
    angle = np.pi * target / len(_LABELS)
    stretch = 2.0 + target % 3
    light = _CONTRAST * _field(rng, angle, stretch, _FALL)
    hue = np.cos(2 * np.pi * (np.arange(3) / 3 + target / len(_LABELS)))
    colour = _TINT + _COLOUR_CONTRAST * _field(rng, angle, stretch, _COLOUR_FALL)
    pixels = 128 + light[..., None] + colour[..., None] * hue
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _field(rng: np.random.Generator, angle: float, stretch: float, fall: float) -> NDArray[np.float64]:
    """Noise `(height, width)` with mean 0 and deviation 1, whose amplitude falls with the frequency."""
    width, height = SIZE
    across, down = np.meshgrid(np.fft.rfftfreq(width), np.fft.fftfreq(height))
    along = across * np.cos(angle) + down * np.sin(angle)
    aside = down * np.cos(angle) - across * np.sin(angle)
    frequency = np.hypot(along * stretch, aside / stretch)
    frequency[0, 0] = np.inf
    spectrum = frequency**-fall * np.exp(2j * np.pi * rng.random(frequency.shape))
    field = np.fft.irfft2(spectrum, (height, width))
    scaled: NDArray[np.float64] = (field - field.mean()) / field.std()
    return scaled
