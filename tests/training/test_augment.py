"""Changes to images: the same for the same random numbers, never the labels', and mixtures that add up."""

import numpy as np
import pytest
import torch
from PIL import Image

from app.augmentation import Augmentation, AugmentationPolicy
from app.backbones.preprocess import Pixels
from worker.training import augment

IMAGE: Pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
BATCH = torch.stack([torch.full((3, 16, 16), 10 * place, dtype=torch.uint8) for place in range(8)])
TARGETS = torch.arange(8) % 4


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_every_view_is_an_image_of_the_same_size_and_follows_from_the_seed(policy: AugmentationPolicy) -> None:
    wanted = Augmentation(policy=policy, erasing=0.5)
    views = [augment.view(IMAGE, wanted, rng(seed)) for seed in range(60)]

    assert {(view.shape, view.dtype) for view in views} == {(IMAGE.shape, IMAGE.dtype)}
    assert len({view.tobytes() for view in views}) > 40
    assert all(np.array_equal(view, augment.view(IMAGE, wanted, rng(seed))) for seed, view in enumerate(views))


@pytest.mark.parametrize("policy", ["none", "crop"])
def test_the_quiet_policies_leave_what_they_are_given(policy: AugmentationPolicy) -> None:
    assert np.array_equal(augment.view(IMAGE, Augmentation(policy=policy), rng(0)), IMAGE)


def test_every_operation_leaves_the_image_alone_at_strength_nought() -> None:
    # Contrast stretching and equalising know no strength.
    without_strength = 2
    for operation in list(augment.OPERATIONS.values())[:-without_strength]:
        same = np.asarray(operation.apply(Image.fromarray(IMAGE), 0.0))
        assert np.abs(same.astype(int) - IMAGE).max() <= 1


def test_a_part_of_some_two_to_thirty_three_percent_is_blotted_out() -> None:
    wanted = Augmentation(policy="crop", erasing=1.0)
    shares = [(augment.view(IMAGE, wanted, rng(seed)) != IMAGE).any(axis=2).mean() for seed in range(50)]

    assert min(shares) > 0.01
    assert max(shares) < 0.4


def test_without_mixing_images_and_targets_are_what_they_were() -> None:
    images, targets = augment.mix(BATCH, TARGETS, Augmentation(), classes=4, rng=rng(0))

    assert images is BATCH
    assert targets is TARGETS


def test_mixup_mixes_labels_in_the_proportion_of_the_images() -> None:
    images, shares = augment.mix(BATCH, torch.arange(8), Augmentation(mixup=0.4), classes=8, rng=rng(1))

    # Image i is 10 i all over, so the shares tell its value.
    assert torch.allclose(images.mean(dim=(1, 2, 3)), shares @ (10.0 * torch.arange(8)), atol=1e-3)
    assert torch.allclose(shares.sum(dim=1), torch.ones(8))
    assert (shares.max(dim=1).values < 1).any()


def test_cutmix_gives_each_label_the_share_of_its_pixels() -> None:
    for seed in range(20):
        images, shares = augment.mix(BATCH, torch.arange(8), Augmentation(cutmix=1.0), classes=8, rng=rng(seed))
        for place in range(8):
            for label in range(8):
                counted = (images[place, 0] == 10 * label).float().mean()
                assert float(counted) == pytest.approx(float(shares[place, label]), abs=1e-6)


def test_where_both_are_wanted_both_come() -> None:
    wanted = Augmentation(mixup=1.0, cutmix=1.0)
    batches = [augment.mix(BATCH, TARGETS, wanted, classes=4, rng=rng(seed))[0] for seed in range(40)]
    has_window = {bool((images[0] != images[0, 0, 0, 0]).any()) for images in batches}

    assert has_window == {True, False}
