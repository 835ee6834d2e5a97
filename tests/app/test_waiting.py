"""Whose image is decoded next, where requests of few and of many images wait for one model."""

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


def decode(ticket: Ticket, seconds: float) -> None:
    """One of its images was decoded, in so long."""
    ticket.decode_seconds += seconds
    ticket.decoded += 1


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
    waiting = queue(slow)
    assert waiting.take(0.0) == Item(slow, 0)
    decode(slow, 2.0)
    waiting.add(small)
    assert order(waiting, {slow: "s", small: "o"}, now=1.5) == "oss"


def test_what_a_request_has_at_once_lets_nobody_first() -> None:
    many, small = request(3), request(1, arrived=0.001)
    waiting = queue(many, small)
    assert waiting.take(0.0) == Item(many, 0)
    decode(many, AT_ONCE_SECONDS)
    assert order(waiting, {many: "m", small: "o"}) == "mmo"


def test_a_request_that_takes_long_goes_on_at_the_pace_of_all_threads_whoever_else_comes() -> None:
    slow, others = request(4), [request(1, arrived=moment) for moment in (1.0, 1.6, 2.4, 3.1, 3.2)]
    waiting, found = queue(slow, *others), ""
    assert waiting.take(0.0) == Item(slow, 0)
    decode(slow, 1.0)
    # An image of a second is what two threads do in half of one: the next ones are due at 2.0, 2.5, and 3.0.
    while (item := waiting.take(2.0)) is not None:
        found += "s" if item.ticket is slow else "o"
        decode(item.ticket, 1.0 if item.ticket is slow else 0.0)
    assert found == "oosossoo"


def test_what_is_being_decoded_counts_as_if_it_were_done() -> None:
    slow, small = request(9), request(1, arrived=1.4)
    waiting = queue(slow)
    waiting.take(0.0)
    decode(slow, 1.0)
    waiting.add(small)
    # At 1.0 one of a second is begun, which two threads do in half of one: the next is due at 1.5, and not at once.
    assert waiting.take(1.0) == Item(slow, 1)
    assert waiting.take(1.45) == Item(small, 0)


def test_of_two_slow_requests_the_first_is_finished_first() -> None:
    first, second = request(3), request(3)
    waiting, found = queue(first, second, threads=1), ""
    while (item := waiting.take(0.0)) is not None:
        decode(item.ticket, 1.0)
        found += "f" if item.ticket is first else "s"
    assert found == "ffsfss"  # but the other one begins, or nobody would know that it takes long


def test_who_has_waited_too_long_is_told_and_not_taken() -> None:
    late, small = request(2, deadline=1.0), request(1)
    waiting = queue(late, small)
    assert waiting.take(2.0) == Item(small, 0)
    assert isinstance(late.error, errors.Overloaded)
    assert len(waiting) == 0


def slow_and_waiting(count: int, *, deadline: float = 1000.0) -> tuple[Ticket, Waiting]:
    """A request of so many images, whose first took two seconds, as two threads know it at the time 1.0."""
    slow = request(count, deadline=deadline)
    waiting = queue(slow)
    waiting.take(0.0)
    decode(slow, 2.0)
    waiting.add(request(1, arrived=0.5))
    waiting.take(1.0)
    return slow, waiting


def test_a_slow_request_that_has_waited_too_long_is_told_and_not_taken() -> None:
    slow, waiting = slow_and_waiting(4, deadline=5.0)
    assert waiting.take(6.0) is None
    assert isinstance(slow.error, errors.Overloaded)
    assert len(waiting) == 0


def test_what_was_withdrawn_is_not_taken_nor_counted() -> None:
    gone, small = request(4), request(1)
    waiting = queue(gone, small)
    waiting.take(0.0)
    waiting.withdraw(gone, 0.0)
    waiting.withdraw(gone, 0.0)  # which was there no more
    assert len(waiting) == 1
    assert waiting.take(0.0) == Item(small, 0)


def test_when_a_slow_request_is_withdrawn_the_next_slow_one_goes_on_from_then() -> None:
    gone, waiting = slow_and_waiting(4)
    other = request(3, arrived=0.9)
    waiting.add(other)
    waiting.take(1.0)
    decode(other, 4.0)
    waiting.add(request(1, arrived=2.5))
    waiting.take(2.0)  # another one of the first, and the other is known to be slow
    waiting.withdraw(gone, 3.0)
    assert len(waiting) == 3
    assert waiting.ahead(0.25, now=2.9) == (1, 0.25)
    assert waiting.ahead(0.25, now=3.0) == (2, 0.25 + 4.0)


def test_all_are_taken_out_to_be_told() -> None:
    slow, waiting = slow_and_waiting(4)
    small = request(1)
    waiting.add(small)
    assert set(waiting.clear()) == {slow, small}
    assert len(waiting) == 0
    assert waiting.take(0.0) is None


def test_all_images_of_usual_requests_come_before_one_that_comes_now() -> None:
    waiting = queue(request(4), request(1))
    assert waiting.ahead(0.25, now=0.0) == (5, 1.25)
    assert waiting.seconds(0.25) == 1.25


def test_of_a_slow_request_only_what_is_due_comes_before_one_that_comes_now() -> None:
    _, waiting = slow_and_waiting(9)
    assert waiting.ahead(0.25, now=0.9) == (0, 0)
    assert waiting.ahead(0.25, now=1.0) == (1, 2.0)  # as long as the first took, and not the usual
    assert waiting.ahead(0.25, now=2.0) == (2, 4.0)
    assert waiting.ahead(0.25, now=100.0) == (8, 16.0)
    assert waiting.seconds(0.25) == 16.0


def test_what_does_not_wait_here_any_more_goes_first_unless_its_request_has_taken_long() -> None:
    slow = request(1)
    waiting = queue(request(1, arrived=1.0))
    assert waiting.is_before(slow)
    decode(slow, 2.0 + AT_ONCE_SECONDS)
    assert waiting.is_before(slow)
    decode(slow, 0.1)
    assert not waiting.is_before(slow)
    assert queue().is_before(slow)


def test_images_that_are_decoded_slowly_are_told_apart_from_others() -> None:
    slow, waiting = slow_and_waiting(9)
    waiting.add(request(3, arrived=1.0))
    assert (len(waiting), waiting.quick) == (11, 3)

    slow.decode_seconds, slow.pass_seconds = 0.005, 2.0  # it is the network that takes long
    assert waiting.quick == 11
