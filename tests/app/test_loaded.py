"""A classifier that is made ready: how many images it is best given at once."""

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.predictions.loaded import Loaded
from app.runtimes.form import PLAIN, Images, Machine, Passed
from tests.app.scheduling import PREPROCESSING, Net


@dataclass
class OfTheGpu(Net):
    """A network that takes `by_count[N]` seconds on a clock of its own for N images, and a minute for the first of so
    many."""

    by_count: dict[int, float] = field(default_factory=dict)
    now: float = 0.0

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self.now += self.by_count[len(images)] if len(images) in self.batches else 60
        return super().run(images, alone=alone)


@pytest.mark.parametrize(
    ("by_count", "batch"),
    [
        ({1: 0.002, 8: 0.004, 32: 0.008}, 32),
        ({1: 0.002, 8: 0.004, 32: 0.03}, 8),
        ({1: 0.002, 8: 0.015}, 1),
    ],
)
def test_what_a_number_of_images_takes_but_once_does_not_speak_against_it(
    by_count: dict[int, float], batch: int
) -> None:
    net = OfTheGpu(by_count=by_count)
    found = Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(1, "cuda")
    )
    pace = found.measure(batch=None, clock=lambda: net.now)
    assert pace.seconds == pytest.approx(by_count[1])
    assert pace.batch == batch


def test_a_number_of_images_that_gains_nothing_is_passed_no_more_often_than_it_takes_to_see() -> None:
    net = OfTheGpu(by_count={1: 0.001, 8: 0.02})
    found = Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(1, "cuda")
    )
    found.measure(batch=None, clock=lambda: net.now)
    assert Counter(net.batches)[8] == 2


@dataclass
class Sleeping(Net):
    """A network that sleeps `by_count[N]` seconds for N images."""

    by_count: dict[int, float] = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.by_count[len(images)])
        self.at_once -= 1
        return super().run(images, alone=alone)

    def widen(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("by_count", "batch"),
    [
        ({1: 0.005, 4: 0.01}, 4),
        ({1: 0.005, 4: 0.03}, 1),
    ],
)
def test_what_is_passed_side_by_side_is_timed_so(by_count: dict[int, float], batch: int) -> None:
    net = Sleeping(by_count=by_count)
    found = Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(threads=2)
    )
    assert found.measure(batch=None).batch == batch
    assert net.most_at_once == 2


@dataclass
class OfTheCpu(Net):
    """A network that takes `takes[True]` seconds, on a clock of its own, for an image on all threads, `takes[False]` on
    one."""

    takes: dict[bool, float] = field(default_factory=dict)
    now: float = 0.0
    is_widened: bool = False

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        assert self.is_widened or not alone
        self.now += self.takes[alone]
        return super().run(images, alone=alone)

    def widen(self) -> None:
        self.is_widened = True


def on_two_threads(net: OfTheCpu) -> Loaded:
    return Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(threads=2)
    )


def share_on_all_threads(net: OfTheCpu, found: Loaded, passes: int) -> float:
    net.alone.clear()
    for _ in range(passes):
        found.answers([np.zeros((8, 8, 3), np.uint8)], alone=True)
    return net.alone.count(True) / passes


def test_a_lone_image_is_passed_on_all_threads_where_that_is_quicker_than_on_one() -> None:
    net = OfTheCpu(takes={True: 0.02, False: 0.03})
    found = on_two_threads(net)
    found.measure(batch=1, clock=lambda: net.now)
    assert share_on_all_threads(net, found, 50) == 1
    found.answers([np.zeros((8, 8, 3), np.uint8)], alone=False)
    assert not net.alone[-1]


def test_where_others_want_the_cores_a_lone_image_is_passed_on_one_thread_until_they_do_not() -> None:
    net, another = (OfTheCpu(takes={True: 0.02, False: 0.03}) for _ in range(2))
    found = on_two_threads(net)
    pace = found.measure(batch=1, clock=lambda: net.now + another.now)
    net.takes = {True: 0.04, False: 0.03}
    assert share_on_all_threads(net, found, 1000) < 0.1
    net.takes = {True: 0.02, False: 0.03}
    share_on_all_threads(net, found, 1000)
    assert share_on_all_threads(net, found, 1000) > 0.9

    again = on_two_threads(another)
    again.warm_up(pace)
    assert share_on_all_threads(another, again, 20) > 0.9


@pytest.mark.parametrize("takes", [{True: 0.02, False: 0.03}, {True: 0.04, False: 0.03}], ids=["wide", "single"])
def test_what_an_image_takes_on_one_thread_is_known_by_lone_ones_though_it_took_longer_at_first(
    takes: dict[bool, float],
) -> None:
    net = OfTheCpu(takes={way: 100 * seconds for way, seconds in takes.items()})
    found = on_two_threads(net)
    pace = found.measure(batch=1, clock=lambda: net.now)
    assert pace.seconds == pytest.approx(3.0)
    net.takes = takes
    share_on_all_threads(net, found, 1)
    assert found.pace.seconds == pytest.approx(0.03, rel=0.5)
    assert found.pace.seconds >= 0.03 - 1e-9

    again = on_two_threads(net)
    again.warm_up(pace)
    assert again.pace.seconds == found.pace.seconds


def test_the_way_that_takes_far_longer_is_hardly_tried() -> None:
    net = OfTheCpu(takes={True: 0.02, False: 0.2})
    found = on_two_threads(net)
    found.measure(batch=1, clock=lambda: net.now)
    assert share_on_all_threads(net, found, 9000) == 1
    assert share_on_all_threads(net, found, 2000) == 1 - 1 / 2000


def test_a_pass_that_was_held_up_says_nothing() -> None:
    net = OfTheCpu(takes={True: 0.02, False: 0.03})
    found = on_two_threads(net)
    found.measure(batch=1, clock=lambda: net.now)
    share_on_all_threads(net, found, 5)
    net.takes = {True: 1.0, False: 0.03}
    share_on_all_threads(net, found, 2)
    net.takes = {True: 0.02, False: 0.03}
    assert share_on_all_threads(net, found, 20) == 1


def test_a_quick_network_has_no_second_copy() -> None:
    net = OfTheCpu(takes={False: 0.001})
    assert on_two_threads(net).measure(batch=1, clock=lambda: net.now).lone is None
    assert not net.is_widened


@pytest.mark.parametrize(("known", "batch"), [(None, 1), (4, 4)])
def test_what_would_take_long_to_time_is_taken_from_the_optimisation(known: int | None, batch: int) -> None:
    net = Sleeping(by_count={1: 0.02, 4: 0.03})
    found = Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(threads=2)
    )
    assert found.measure(batch=None, known=known).batch == batch
    assert net.most_at_once == 1


def test_what_is_soon_timed_is_timed_whatever_the_optimisation_found() -> None:
    net = Sleeping(by_count={1: 0.005, 4: 0.03})
    found = Loaded(
        net, PLAIN, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=Machine(threads=2)
    )
    assert found.measure(batch=None, known=4).batch == 1
