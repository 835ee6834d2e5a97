"""Near copies by their difference hashes."""

import random
from itertools import combinations

import pytest

from app.datasets import alike


def changed(one: int, *bits: int) -> int:
    for bit in bits:
        one ^= 1 << bit
    return one


A, B = 0x0123456789ABCDEF, 0xFEDCBA9876543210


@pytest.mark.parametrize(
    ("hashes", "groups"),
    [
        ([], []),
        ([A], [A]),
        ([A, A, B], [A, A, B]),
        ([changed(A, 0, 63), A], [A, A]),
        ([changed(A, 21, 42), B, A], [min(A, changed(A, 21, 42)), B, min(A, changed(A, 21, 42))]),
        ([changed(A, 0, 21, 42), A], [changed(A, 0, 21, 42), A]),  # three are too many
    ],
    ids=["none", "one", "the same", "at both ends", "in two parts", "too far"],
)
def test_copies_differ_in_two_bits_at_most(hashes: list[int], groups: list[int]) -> None:
    assert alike.groups(hashes) == groups


def test_copies_of_copies_are_in_the_group_whatever_their_order() -> None:
    chain = [changed(0, *range(2 * place)) for place in range(10)]
    for seed in range(5):
        random.Random(seed).shuffle(chain)
        assert alike.groups(chain) == [0] * 10


def test_all_pairs_that_are_near_are_found() -> None:
    rng = random.Random(0)
    hashes = [rng.getrandbits(64) for _ in range(100)]
    hashes += [changed(one, rng.randrange(64), rng.randrange(64)) for one in hashes]
    found = alike.groups(hashes)
    for one, other in combinations(range(len(hashes)), 2):
        if (hashes[one] ^ hashes[other]).bit_count() <= 2:
            assert found[one] == found[other]
    assert len(set(found)) == 100


def test_what_very_many_have_in_common_tells_nothing_by_itself() -> None:
    plain = [number << 42 for number in range(2**12)]
    other = [A, changed(A, 1)]
    assert alike.groups([*plain, *other])[-2:] == [min(other)] * 2
    assert alike.groups([*plain])[1:3] == [1 << 42, 2 << 42]
