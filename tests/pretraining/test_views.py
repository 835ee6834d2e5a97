import numpy as np
import pytest
import torch
from torch import Tensor

from pretraining import description, views
from pretraining.description import CELLS

SIZE = 48


def pixels(count: int = 6) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 128, 128, 3), dtype=np.uint8))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stripes(*, upright: bool, colour: tuple[float, float, float] = (1, 1, 1)) -> Tensor:
    """An image `(1, 3, 64, 64)` of stripes 8 pixels wide."""
    wave = (torch.arange(64) // 8 % 2).float()
    grey = wave.expand(64, 64) if upright else wave.expand(64, 64).T
    return grey * torch.tensor(colour).view(1, 3, 1, 1)


def test_a_view_is_the_same_for_the_same_generator_and_another_one_otherwise() -> None:
    one, same, other = (views.take(pixels(), size=SIZE, generator=generator(seed)) for seed in (1, 1, 2))
    assert one.clean.shape == one.spoilt.shape == (6, 3, SIZE, SIZE)
    assert torch.equal(one.spoilt, same.spoilt)
    assert not torch.equal(one.spoilt, other.spoilt)
    assert 0 <= one.clean.min() < one.clean.max() <= 1


def test_two_views_of_an_image_differ_but_stay_closer_than_those_of_another_image() -> None:
    left = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    left[:, :, :64] = 200
    plain = torch.full((1, 128, 128, 3), 30, dtype=torch.uint8)
    spreads = [
        [float(views.take(image, size=SIZE, generator=generator(seed)).clean.std()) for seed in range(20)]
        for image in (left, plain)
    ]
    assert len(set(spreads[0])) == 20
    assert np.median(spreads[0]) > 0.1
    assert max(spreads[1]) < 0.05


def test_some_views_are_spoilt_and_most_of_the_image_stays() -> None:
    smooth = torch.linspace(60, 180, 128).to(torch.uint8).view(1, 1, 128, 1).expand(40, 128, 128, 3).contiguous()
    seen = views.take(smooth, size=SIZE, generator=generator(4))
    changed = ((seen.spoilt - seen.clean).abs() > 0.02).float().mean(dim=(1, 2, 3))
    assert (changed < 0.01).any()
    assert (changed > 0.02).any()
    assert (seen.spoilt - seen.clean).abs().mean() < 0.1


def test_a_description_tells_where_edges_run_and_in_which_direction() -> None:
    upright, flat = (description.describe(stripes(upright=upright)) for upright in (True, False))
    assert upright.shape == (1, description.SIZE)
    edges = slice(CELLS * CELLS * 3 + 64, CELLS * CELLS * 3 + 64 + 8 * CELLS * CELLS)
    directions = [one[0, edges].view(8, CELLS, CELLS) for one in (upright, flat)]
    assert directions[0].mean(dim=(1, 2)).argmax() == 0
    assert directions[1].mean(dim=(1, 2)).argmax() == 4
    assert (directions[0][0] > 0).all()


def test_a_description_tells_colours_and_their_places() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, :32] = 0.9
    found = description.describe(image)[0]
    means = found[: 3 * CELLS * CELLS].view(3, CELLS, CELLS)
    assert means[0, 0].tolist() == pytest.approx([0.9] * CELLS, abs=1e-4)
    assert means[0, -1].tolist() == [0.0] * CELLS
    shades = found[3 * CELLS * CELLS : 3 * CELLS * CELLS + 64].square()
    assert shades.sum() == pytest.approx(1)
    assert sorted(shades[shades > 0].tolist()) == pytest.approx([0.5, 0.5])
