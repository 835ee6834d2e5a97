import threading
from collections.abc import Iterator

import numpy as np
import pytest

from app.backbones import crops
from app.backbones.preprocess import Pixels, Preprocessing
from tests.training import samples
from worker.training import data

AT_8 = Preprocessing(resize=8, crop=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Broken(Exception):
    pass


def view(_position: int, file: bytes) -> Pixels:
    return crops.load(file, AT_8, max_pixels=samples.MAX_PIXELS)


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_results_come_in_order_though_later_work_is_done_first() -> None:
    later_is_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert later_is_done.wait(timeout=60)
        else:
            later_is_done.set()
        return number * number

    assert list(data.prefetched(range(20), work, threads=2, window=4)) == [number * number for number in range(20)]


@pytest.mark.parametrize(("threads", "window"), [(1, 1), (2, 3), (4, 8)])
def test_the_work_is_at_most_a_window_ahead_of_the_caller(threads: int, window: int) -> None:
    begun: list[int] = []

    def sources() -> Iterator[int]:
        for number in range(30):
            begun.append(number)
            yield number

    for place, result in enumerate(data.prefetched(sources(), lambda number: number, threads=threads, window=window)):
        assert result == place
        assert len(begun) <= place + 1 + window
    assert len(begun) == 30


def test_work_goes_on_in_other_threads_while_the_caller_is_busy() -> None:
    others_are_done = threading.Event()

    def work(number: int) -> str:
        if number == 3:
            others_are_done.set()
        return threading.current_thread().name

    names = data.prefetched(range(4), work, threads=1, window=4)
    first = next(names)
    assert others_are_done.wait(timeout=60)
    assert {first, *names} != {threading.current_thread().name}


def test_an_exception_in_the_work_reaches_the_caller_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise Broken("number 3")
        return number

    results = data.prefetched(range(10), work, threads=2, window=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Broken, match="number 3"):
        next(results)
    assert prefetch_threads() == []


def test_an_exception_in_the_sources_reaches_the_caller() -> None:
    def sources() -> Iterator[int]:
        yield from range(4)
        raise Broken("no fifth")

    with pytest.raises(Broken, match="no fifth"):
        list(data.prefetched(sources(), lambda number: number, threads=2, window=2))
    assert prefetch_threads() == []


def test_nothing_more_is_begun_when_the_caller_loses_interest() -> None:
    begun: list[int] = []
    results = data.prefetched(range(1000), lambda number: begun.append(number), threads=2, window=6)
    next(results)
    del results
    assert prefetch_threads() == []
    assert len(begun) <= 7


def test_nothing_to_do_gives_nothing() -> None:
    assert list(data.prefetched([], lambda number: number, threads=2, window=2)) == []


def test_batches_hold_the_images_at_their_positions() -> None:
    files = samples.colours(4)
    images = samples.images(files)
    parts = [[5, 0, 3], [1], [7, 7]]
    found = list(data.batches(images, parts, view, threads=2))
    assert [batch.shape for batch in found] == [(3, 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 8)]
    for batch, part in zip(found, parts, strict=True):
        expected = np.stack([view(position, files[position][0]) for position in part]).transpose(0, 3, 1, 2)
        assert np.array_equal(batch.numpy(), expected)


def test_batches_lie_in_channels_last_order() -> None:
    (batch,) = data.batches(samples.images(samples.colours(1)), [[0, 1]], view, threads=1)
    assert batch.permute(0, 2, 3, 1).is_contiguous()


def test_the_view_is_told_the_position() -> None:
    def coloured(position: int, _file: bytes) -> Pixels:
        return np.full((2, 2, 3), position, np.uint8)

    (batch,) = data.batches(samples.images(samples.colours(2)), [[3, 1, 2]], coloured, threads=1)
    assert batch[:, 0, 0, 0].tolist() == [3, 1, 2]


@pytest.mark.parametrize(("count", "size", "expected"), [(0, 3, []), (2, 3, [2]), (6, 3, [3, 3]), (7, 3, [3, 3, 1])])
def test_parts_cover_all_positions_in_order(count: int, size: int, expected: list[int]) -> None:
    parts = data.parts_of(count, size)
    assert [len(part) for part in parts] == expected
    assert [position for part in parts for position in part] == list(range(count))
