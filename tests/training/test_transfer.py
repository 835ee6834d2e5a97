"""Batches on their way: in order, and in pieces where the whole does not fit. What needs a GPU is in test_cuda."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training import samples
from worker.training import transfer


def test_batches_come_in_order_from_however_many_sources_make_them() -> None:
    def made(count: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.tensor(count), torch.tensor(place)) for place in range(count)]

    found = [(int(one), int(other)) for one, other in transfer.ahead([2, 0, 1], made, samples.CPU)]

    assert found == [(2, 0), (2, 1), (1, 0)]


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_what_does_not_fit_is_computed_in_pieces_and_in_order(most: int) -> None:
    sizes = []

    def work(batch: Tensor) -> Tensor:
        if len(batch) > most:
            samples.no_memory()
        sizes.append(len(batch))
        return batch + 1

    found = torch.cat(transfer.in_pieces(work, torch.arange(7)))

    assert torch.equal(found, torch.arange(1, 8))
    assert max(sizes) <= most


def test_a_single_image_that_does_not_fit_is_told() -> None:
    def work(_batch: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        transfer.in_pieces(work, torch.arange(4))


def test_arrays_that_may_only_be_read_are_copied() -> None:
    values = np.arange(4)
    values.flags.writeable = False
    sent = transfer.send_array(values, samples.CPU)
    sent += 1

    assert values.tolist() == [0, 1, 2, 3]
    assert sent.tolist() == [1, 2, 3, 4]
