"""In which order and in which batches images are shown."""

from dataclasses import replace

import numpy as np
import pytest

from tests.training import samples
from worker.training import order

LABELS = ("red", "blue")


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(6, 3, [3, 3]), (7, 3, [3, 4]), (8, 3, [3, 3, 2]), (3, 2, [3]), (2, 8, [2]), (1, 4, [1])],
)
def test_a_single_image_left_over_joins_the_batch_before(count: int, size: int, expected: list[int]) -> None:
    shown = np.random.default_rng(0).permutation(count)
    batches = order.batches_of(shown, size)
    assert [len(batch) for batch in batches] == expected
    assert [position for batch in batches for position in batch] == shown.tolist()


def test_labels_with_few_images_are_drawn_as_often_as_others() -> None:
    splits = samples.split(samples.colours(12), LABELS, train=0.75, seed=0)
    files = samples.colours(12)
    uneven = replace(splits, train=samples.images(files[:12] + files[12:14]))
    orders = [order.of_epoch(epoch, uneven, "sampler", seed=3) for epoch in range(1, 60)]
    assert {len(shown) for shown in orders} == {14}
    assert uneven.train.targets[np.concatenate(orders)].mean() == pytest.approx(0.5, abs=0.05)
    assert order.rarity(uneven).tolist() == pytest.approx([14 / 24, 14 / 4])
