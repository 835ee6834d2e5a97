import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from worker.training import lbfgs
from worker.training.lbfgs import History


@dataclass(frozen=True)
class Smooth:
    """Functions `sum(log(2 cosh(A x - b))) + l2 / 2 |x|^2`, which are steep far from their minima and flat nearby."""

    matrices: Tensor
    """`(B, M, P)`"""
    places: Tensor
    """`(B, M)`"""
    l2: float = 0.1
    looked: list[int] = field(default_factory=list)
    """How many points so far, for each call."""

    def __call__(self, point: Tensor) -> tuple[Tensor, Tensor]:
        self.looked.append(len(point))
        away = (self.matrices @ point[..., None]).squeeze(2) - self.places
        values = torch.nn.functional.softplus(2 * away) - away
        gradient = (self.matrices.mT @ away.tanh()[..., None]).squeeze(2) + self.l2 * point
        return values.sum(dim=1) + self.l2 / 2 * point.square().sum(dim=1), gradient

    def only(self, place: int) -> "Smooth":
        return Smooth(self.matrices[place : place + 1], self.places[place : place + 1], self.l2)


def drawn(functions: int, *, steep: float = 1.0, size: int = 6) -> Smooth:
    generator = torch.Generator().manual_seed(0)
    matrices = steep * torch.randn(functions, 10, size, generator=generator, dtype=torch.float64)
    return Smooth(matrices, 3 * torch.randn(functions, 10, generator=generator, dtype=torch.float64))


def found_by_scipy(function: Smooth) -> Tensor:
    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        values, gradient = function(torch.from_numpy(x)[None])
        return float(values), gradient[0].numpy()

    size = function.matrices.shape[2]
    found = scipy.optimize.minimize(value, np.zeros(size), jac=True, method="BFGS", options={"gtol": 1e-9})
    return torch.from_numpy(found.x)


@pytest.mark.parametrize("steep", [0.1, 1.0, 30.0])
def test_the_minimum_of_each_function_is_that_of_scipy(steep: float) -> None:
    functions = drawn(4, steep=steep)
    found = lbfgs.minimum(functions, torch.zeros(4, 6, dtype=torch.float64), tolerance=1e-8, most_steps=300)
    for place in range(4):
        expected = found_by_scipy(functions.only(place))
        assert found[place].numpy() == pytest.approx(expected.numpy(), rel=0, abs=1e-6)


def test_several_functions_take_as_many_looks_as_the_slowest_of_them() -> None:
    functions, start = drawn(5), torch.zeros(5, 6, dtype=torch.float64)
    lbfgs.minimum(functions, start, tolerance=1e-8, most_steps=300)
    looks = []
    for place in range(5):
        alone = functions.only(place)
        lbfgs.minimum(alone, start[:1], tolerance=1e-8, most_steps=300)
        looks.append(len(alone.looked))
    assert max(looks) <= len(functions.looked) <= 1.5 * max(looks)


def test_a_function_that_is_solved_stays_where_it_is() -> None:
    functions = drawn(3)
    solved = lbfgs.minimum(functions, torch.zeros(3, 6, dtype=torch.float64), tolerance=1e-8, most_steps=300)
    start = solved.clone()
    start[1] += 5
    found = lbfgs.minimum(functions, start, tolerance=1e-6, most_steps=300)
    assert torch.equal(found[[0, 2]], solved[[0, 2]])
    assert found[1].numpy() == pytest.approx(solved[1].numpy(), rel=0, abs=1e-5)


def test_no_more_steps_are_taken_than_asked_for() -> None:
    functions, start = drawn(2), torch.zeros(2, 6, dtype=torch.float64)
    assert torch.equal(lbfgs.minimum(functions, start, tolerance=1e-8, most_steps=0), start)
    ends = [lbfgs.minimum(functions, start, tolerance=1e-8, most_steps=steps) for steps in (0, 1, 2, 5)]
    values = [functions(end)[0] for end in ends]
    assert all((later < earlier).all() for earlier, later in itertools.pairwise(values))


def test_values_in_single_precision_end_the_search_in_time() -> None:
    """What they say close to the minimum is noise: nothing that is finer than it is looked for for long."""
    functions = drawn(3)

    def rounded(point: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = functions(point.float().double())
        return value.float().double(), gradient.float().double()

    start = torch.zeros(3, 6, dtype=torch.float64)
    exact = lbfgs.minimum(functions, start, tolerance=1e-8, most_steps=300)
    functions.looked.clear()
    found = lbfgs.minimum(rounded, start, tolerance=1e-4, most_steps=300)
    assert len(functions.looked) < 60
    assert found.numpy() == pytest.approx(exact.numpy(), rel=0, abs=1e-3)


def solved() -> tuple[Smooth, Tensor, Tensor, int]:
    """Two functions, where they were started, their minima, and how many looks these took."""
    functions, start = drawn(2), torch.zeros(2, 6, dtype=torch.float64)
    exact = lbfgs.minimum(functions, start, tolerance=1e-8, most_steps=300)
    needed = len(functions.looked)
    functions.looked.clear()
    return functions, start, exact, needed


def test_a_function_that_leads_nowhere_does_not_hold_up_the_others() -> None:
    """Its gradient promises what its values do not keep."""
    functions, start, exact, needed = solved()

    def lying(point: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = functions(point)
        return torch.stack([value[0], point[1].square().sum()]), torch.stack([gradient[0], torch.ones(6).double()])

    found = lbfgs.minimum(lying, start, tolerance=1e-8, most_steps=300)
    assert found[0].numpy() == pytest.approx(exact[0].numpy(), rel=0, abs=1e-6)
    assert len(functions.looked) < needed + 30


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_number_stays_where_it_began(broken: float) -> None:
    functions, start, exact, needed = solved()

    def half_broken(point: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = functions(point)
        return torch.stack([value[0], value[1] * broken]), torch.stack([gradient[0], gradient[1] * broken])

    found = lbfgs.minimum(half_broken, start, tolerance=1e-8, most_steps=300)
    assert found[0].numpy() == pytest.approx(exact[0].numpy(), rel=0, abs=1e-6)
    assert torch.equal(found[1], start[1])
    assert len(functions.looked) < needed + 30


def two_loops(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """The recursion by which most write L-BFGS down, for a single function."""
    direction, shares = gradient.clone(), []
    for step, change in reversed(pairs):
        shares.append((step @ direction) / (step @ change))
        direction = direction - shares[-1] * change
    if pairs:
        step, change = pairs[-1]
        direction = direction * (step @ change) / (change @ change)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - (change @ direction) / (step @ change)) * step
    return direction


def test_the_curvature_is_that_of_the_two_loops_also_where_functions_rest() -> None:
    rng = np.random.default_rng(3)
    bends = torch.from_numpy(rng.uniform(0.5, 2, (3, 5)))
    history, pairs = History(3, 5, remembered=4), [list[tuple[Tensor, Tensor]]() for _ in range(3)]
    for number in range(12):
        step = torch.from_numpy(rng.normal(size=(3, 5)))
        step[number % 3] *= number % 5 > 0
        history.add(step, bends * step)
        gradient = torch.from_numpy(rng.normal(size=(3, 5)))
        found = history.newton(gradient)
        for place, known in enumerate(pairs):
            known.append((step[place], bends[place] * step[place]))
            moved = [pair for pair in known[-4:] if pair[0].any()]
            expected = two_loops(moved, gradient[place])
            assert found[place].numpy() == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-12)
