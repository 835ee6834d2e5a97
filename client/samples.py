"""Sample photos drawn on the spot: woven patterns in any colours, in a zip with a folder per class."""

import io
import math
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIZE = 128
"""Side of a drawn photo, in pixels."""

_CLOTH = 192
"""Side of the cloth a photo shows a part of: turned by any angle, it still fills the photo."""


def write_archive(path: Path, *, each: int, seed: int) -> None:
    """Write a zip with `each` photos of every pattern; the same `seed` gives the same photos."""
    rng = random.Random(seed)
    with zipfile.ZipFile(path, "w") as packed:
        for label in PATTERNS:
            for number in range(each):
                packed.writestr(f"{label}/{number:03}.jpg", photo(label, rng))


def photo(label: str, rng: random.Random) -> bytes:
    """A JPEG of the pattern called `label`, in any colours, width and angle, a little blurred and noisy."""
    ground, colour = _colours(rng)
    cloth = Image.new("RGB", (_CLOTH, _CLOTH), ground)
    PATTERNS[label](ImageDraw.Draw(cloth), rng.randrange(14, 25), colour)
    turned = cloth.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
    margin = (_CLOTH - SIZE) // 2
    seen = turned.crop((margin, margin, margin + SIZE, margin + SIZE)).filter(ImageFilter.GaussianBlur(0.8))
    noise = Image.frombytes("RGB", seen.size, rng.randbytes(3 * SIZE * SIZE))
    buffer = io.BytesIO()
    Image.blend(seen, noise, 0.15).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """A ground and a colour that stands out from it, dark on light as often as light on dark."""
    dark = (rng.randrange(0, 100), rng.randrange(0, 100), rng.randrange(0, 100))
    light = (rng.randrange(140, 256), rng.randrange(140, 256), rng.randrange(140, 256))
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def _stripes(draw: ImageDraw.ImageDraw, width: int, colour: tuple[int, int, int]) -> None:
    for left in range(0, _CLOTH, width):
        draw.rectangle((left, 0, left + width // 2 - 1, _CLOTH), fill=colour)


def _checks(draw: ImageDraw.ImageDraw, width: int, colour: tuple[int, int, int]) -> None:
    for row, top in enumerate(range(0, _CLOTH, width)):
        for left in range(width * (row % 2), _CLOTH, 2 * width):
            draw.rectangle((left, top, left + width - 1, top + width - 1), fill=colour)


def _dots(draw: ImageDraw.ImageDraw, width: int, colour: tuple[int, int, int]) -> None:
    for row, top in enumerate(range(0, _CLOTH + width, width)):
        for left in range(width // 2 * (row % 2), _CLOTH + width, width):
            draw.circle((left, top), 0.28 * width, fill=colour)


def _rings(draw: ImageDraw.ImageDraw, width: int, colour: tuple[int, int, int]) -> None:
    for radius in range(width // 2, _CLOTH, width):
        draw.circle((_CLOTH / 2, _CLOTH / 2), radius, outline=colour, width=width // 2)


def _waves(draw: ImageDraw.ImageDraw, width: int, colour: tuple[int, int, int]) -> None:
    for top in range(0, _CLOTH + width, width):
        line = [(x, top + 0.45 * width * math.sin(math.tau * x / (1.6 * width))) for x in range(0, _CLOTH, 2)]
        draw.line(line, fill=colour, width=width // 3, joint="curve")


PATTERNS: dict[str, Callable[[ImageDraw.ImageDraw, int, tuple[int, int, int]], None]] = {
    "checks": _checks,
    "dots": _dots,
    "rings": _rings,
    "stripes": _stripes,
    "waves": _waves,
}
"""How each pattern is drawn on a cloth, at a width in pixels and in a colour, by label."""
