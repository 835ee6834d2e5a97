"""How much a training keeps on the disk fits within a limit: known to its plan as to the training itself."""

import math

_BYTES_OF_HALF = 2
_MARGIN = 1.25
"""A whole image is kept in so many times the pixels to a side that serving would shrink it to: parts of it are shown
in as many as the network sees."""


def views_that_fit(wanted: int, *, values: int, images: int, max_bytes: int) -> int:
    """How many views of `images` images, each with so many activation `values` in half precision, fit into `max_bytes`;
    0 for none."""
    return min(wanted, math.floor(max_bytes / max(1, bytes_of_view(values, images))))


def bytes_of_view(values: int, images: int) -> int:
    """Of the activations of one view of `images` images."""
    return _BYTES_OF_HALF * values * images


def kept_side(resize: int) -> int:
    """Pixels to a side of a training image that is kept whole, where serving would shrink it to `resize`."""
    return round(_MARGIN * resize)


def decoded_bytes(count: int, side: int) -> int:
    """Of the pixels of `count` images of `side` pixels."""
    return 3 * count * side * side
