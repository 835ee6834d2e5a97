"""Whose image is decoded next, where requests of few and of many images wait for one model."""

import pytest

from app import errors
from app.predictions.tickets import Item, Ticket
from app.predictions.waiting import AT_ONCE_SECONDS, Waiting


def request(count: int, *, arrived: float = 0.0, deadline: float = 1000.0) -> Ticket:
    return Ticket([b""] * count, deadline=deadline, now=arrived, done=lambda _ticket: None)


def queue(*tickets: Ticket, threads: int = 2) -> Waiting:
    waiting = Waiting(threads)
    for ticket in tickets:
        waiting.add(ticket)
    return waiting


def order(waiting: Waiting, names: dict[Ticket, str], *, now: float = 0.0) -> str:
    """Who is next, until nobody waits."""
    found = ""
    while (item := waiting.take(now)) is not None:
        found += names[item.ticket]
    return found


def test_who_comes_first_is_served_first_with_all_its_images() -> None:
    many, one, few = request(4), request(1), request(2)
    assert order(queue(many, one, few), {many: "m", one: "o", few: "f"}) == "mmmmoff"


def test_images_of_a_request_come_in_their_order() -> None:
    many = request(3)
    waiting = queue(many)
    assert [waiting.take(0.0) for _ in range(4)] == [Item(many, 0), Item(many, 1), Item(many, 2), None]


def test_a_request_that_has_taken_long_lets_those_first_who_came_meanwhile() -> None:
    slow, small = request(3), request(1, arrived=1.0)
    waiting = queue(slow, small)
    assert waiting.take(1.0) == Item(slow, 0)
    slow.decode_seconds = 2.5 + AT_ONCE_SECONDS  # which two threads would have done at 1.25
    assert order(waiting, {slow: "s", small: "o"}) == "oss"


def test_what_a_request_has_at_once_lets_nobody_first() -> None:
    many, small = request(3), request(1, arrived=0.001)
    waiting = queue(many, small)
    assert waiting.take(0.0) == Item(many, 0)
    many.decode_seconds = AT_ONCE_SECONDS
    assert order(waiting, {many: "m", small: "o"}) == "mmo"


def test_a_request_that_takes_long_does_not_wait_for_all_who_come_later() -> None:
    slow = request(3)
    waiting = queue(slow)
    waiting.take(0.0)
    slow.pass_seconds = 2.0 + AT_ONCE_SECONDS
    others = [request(1, arrived=moment) for moment in (0.5, 0.9, 1.1, 1.5)]
    for other in others:
        waiting.add(other)
    names = {slow: "s"} | dict.fromkeys(others, "o")
    assert order(waiting, names) == "oossoo"


def test_two_slow_requests_take_turns() -> None:
    first, second = request(3), request(3)
    waiting, found = queue(first, second, threads=1), ""
    while (item := waiting.take(0.0)) is not None:
        item.ticket.decode_seconds += 1.0
        found += "f" if item.ticket is first else "s"
    assert found == "fsfsfs"


def test_who_has_waited_too_long_is_told_and_not_taken() -> None:
    late, small = request(2, deadline=1.0), request(1)
    waiting = queue(late, small)
    assert waiting.take(2.0) == Item(small, 0)
    assert isinstance(late.error, errors.Overloaded)
    assert len(waiting) == 0


def test_what_was_withdrawn_is_not_taken_nor_counted() -> None:
    gone, small = request(4), request(1)
    waiting = queue(gone, small)
    waiting.take(0.0)
    waiting.withdraw(gone)
    waiting.withdraw(gone)  # which was there no more
    assert len(waiting) == 1
    assert waiting.take(0.0) == Item(small, 0)


def test_all_are_taken_out_to_be_told() -> None:
    many, small = request(4), request(1)
    waiting = queue(many, small)
    assert set(waiting.clear()) == {many, small}
    assert len(waiting) == 0
    assert waiting.take(0.0) is None


def test_all_images_of_usual_requests_come_before_one_that_comes_now() -> None:
    waiting = queue(request(4), request(1))
    assert waiting.ahead(0.25, now=0.0) == (5, 1.25)
    assert waiting.seconds(0.25) == 1.25


def test_of_a_slow_request_only_what_is_due_comes_before_one_that_comes_now() -> None:
    slow = request(9)
    waiting = queue(slow, request(1, arrived=0.5))
    waiting.take(0.0)
    slow.decode_seconds = 2.0 + AT_ONCE_SECONDS  # the next is due at 1.0
    waiting.take(0.5)

    assert waiting.ahead(0.25, now=0.5) == (0, 0)
    assert sum(waiting.ahead(0.25, now=1.0)) == pytest.approx(1 + 2.1)  # as long as the first took, and not the usual
    assert sum(waiting.ahead(0.25, now=2.0)) == pytest.approx((1 + 2 / 2.1) + (2.1 + 2.0))
    assert waiting.seconds(0.25) == pytest.approx(8 * 2.1)
