"""Views of whole batches: those that Pillow gives of one image, drawn by an image's place alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from app.augmentation import Augmentation, AugmentationPolicy
from app.backbones import crops
from app.backbones.preprocess import Interpolation, Preprocessing
from worker.training import augment, batchchanges, batchviews

_FEW = np.random.default_rng(0).integers(64, 192, (2, 8, 10, 3), dtype=np.uint8)
SMOOTH = np.stack([np.asarray(Image.fromarray(pixels).resize((60, 48), Image.Resampling.BICUBIC)) for pixels in _FEW])
"""Two images of 60 x 48 pixels, without edges so sharp that a filter would go beyond what a pixel can hold."""
SQUARES = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8))
AT_32 = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
RATIOS = np.array([0.2, 0.75, 1, 1.5, 2, 8], np.float32)


def views(wanted: Augmentation, places: Sequence[int], *, preprocessing: Preprocessing = AT_32) -> Tensor:
    chosen = np.array(places) % len(SQUARES)
    numbers = batchviews.draw(7, 1, places)
    return batchviews.views(SQUARES[chosen], RATIOS[chosen], numbers, wanted=wanted, preprocessing=preprocessing)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [16, 100])
def test_a_part_is_resized_as_pillow_resizes_it(interpolation: Interpolation, size: int) -> None:
    boxes = np.array([[0.1, 0.2, 0.9, 0.75], [0.5, 0, 1, 1]])
    mirrored = np.array([False, True])
    found = batchviews.resampled(torch.from_numpy(SMOOTH), boxes, mirrored, size, interpolation)

    for pixels, box, turned, view in zip(SMOOTH, boxes, mirrored, found, strict=True):
        corners = tuple((box * (60, 48, 60, 48)).tolist())
        kind = Image.Resampling[interpolation.upper()]
        expected = np.asarray(Image.fromarray(pixels).resize((size, size), kind, box=corners))
        assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected[:, :: -1 if turned else 1]).max() <= 1


def test_every_operation_on_single_images_has_its_like_on_batches() -> None:
    assert batchchanges.OPERATIONS.keys() == augment.OPERATIONS.keys() - {"unchanged"}


@pytest.mark.parametrize("name", list(batchchanges.OPERATIONS))
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9, -0.6])
def test_an_operation_gives_the_pixels_that_it_gives_of_one_image(name: str, strength: float) -> None:
    operation = augment.OPERATIONS[name]
    strength = strength if operation.signed else abs(strength)
    batch = torch.from_numpy(SMOOTH.copy()).permute(0, 3, 1, 2)
    number = list(augment.OPERATIONS).index(name)
    found = batchchanges.changed(batch, np.array([number, 0]), np.array([strength, strength]))

    changed, left = found.permute(0, 2, 3, 1).numpy()
    expected = np.asarray(operation.apply(Image.fromarray(SMOOTH[0]), strength))
    # Which of two pixels is the nearer one, Pillow finds in fixed point.
    assert (np.abs(changed.astype(int) - expected) <= 1).mean() > 0.99
    assert np.array_equal(left, SMOOTH[1])


@pytest.mark.parametrize("policy", ["none", "crop", "trivial", "rand"])
def test_a_view_follows_from_its_place_and_not_from_its_batch(policy: AugmentationPolicy) -> None:
    wanted = Augmentation(policy=policy, erasing=0 if policy == "none" else 0.5)
    together = views(wanted, range(60))
    apart = torch.cat([views(wanted, range(7)), views(wanted, range(7, 60))])

    assert together.shape == (60, 3, 32, 32)
    assert together.dtype == torch.uint8
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(together, apart)
    # Of a panorama all views are the middle, unless they are changed besides.
    different = {view.numpy().tobytes() for view in together}
    assert len(different) == 6 if policy == "none" else len(different) > 40


def test_another_epoch_and_another_seed_give_other_numbers() -> None:
    drawn = [batchviews.draw(seed, epoch, [3]).tobytes() for seed, epoch in ((0, 1), (0, 2), (1, 1))]

    assert len(set(drawn)) == 3


def test_without_changes_a_view_is_the_centre_that_serving_sees() -> None:
    image = SMOOTH[0]
    whole = torch.from_numpy(crops.squeezed(image, 90, "bilinear"))[None]
    numbers = batchviews.draw(0, 1, [0])
    wanted, ratios = Augmentation(policy="none"), np.array([60 / 48], np.float32)
    (found,) = batchviews.views(whole, ratios, numbers, wanted=wanted, preprocessing=AT_32)

    expected = crops.centre_crop(image, AT_32)
    distance = np.abs(found.permute(1, 2, 0).numpy() - expected.astype(float)).mean()
    beside = np.abs(np.roll(expected, 1, axis=1) - expected.astype(float)).mean()
    # Resized twice, it is a little softer.
    assert distance < beside / 3


def test_random_parts_have_the_area_and_the_shape_of_those_of_single_images() -> None:
    places = range(600)
    ratios = np.resize(RATIOS, len(places))
    numbers = batchviews.draw(0, 1, places)
    boxes = batchviews._random_boxes(numbers[:, batchviews._CROP], ratios)
    across, down = (boxes[:, 2:] - boxes[:, :2]).T
    shapes = across * ratios / down

    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-9
    assert shapes.min() > 3 / 4 - 1e-6
    assert shapes.max() < 4 / 3 + 1e-6
    fitting = (ratios > 0.5) & (ratios < 2)
    areas = (across * down)[fitting]
    assert 0.34 < areas.min() < 0.4
    assert 0.9 < areas.max() <= 1
    # As much of a panorama as its height allows.
    assert (down[ratios == 8] == 1).any()


def test_as_many_images_are_blotted_out_as_wanted_and_a_part_of_each() -> None:
    plain, wanted = Augmentation(policy="none"), Augmentation(policy="none", erasing=0.5)
    changed = (views(plain, range(200)) != views(wanted, range(200))).any(dim=1).float().mean(dim=(1, 2))

    assert 0.4 < (changed > 0).float().mean() < 0.6
    assert changed.max() < 0.4
    assert changed[changed > 0].min() > 0.01


def test_other_filters_are_those_of_the_preprocessing() -> None:
    wanted = Augmentation()
    cubic = views(wanted, range(6), preprocessing=replace(AT_32, interpolation="bicubic"))

    assert (cubic != views(wanted, range(6))).any()


def test_what_is_blotted_out_is_noise_of_its_own_in_each_image() -> None:
    plain, wanted = Augmentation(policy="none"), Augmentation(policy="none", erasing=1)
    noise = [
        found[:, (found != image).any(dim=0)].float()
        for image, found in zip(views(plain, range(6)), views(wanted, range(6)), strict=True)
    ]
    drawn = torch.cat([values.flatten() for values in noise if values.numel()])

    assert 110 < drawn.mean() < 145
    assert 68 < drawn.std() < 80
    assert len({tuple(values[:, :9].flatten().tolist()) for values in noise}) == len(noise)
