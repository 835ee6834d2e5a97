"""Threads that wait for work."""

import threading
import time
from queue import Queue

from app.predictions.shift import Shift

PATIENCE = 30.0


def waiting(shift: Shift, woken: Queue[int], number: int) -> threading.Thread:
    """A thread that waits from now on, and tells when it was woken."""
    begun = threading.Event()

    def work() -> None:
        with shift:
            begun.set()
            shift.wait(None)
            woken.put(number)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(PATIENCE)
    with shift:  # which it has let go of, so it waits
        return thread


def test_who_has_waited_least_is_woken_first() -> None:
    shift, woken = Shift(), Queue[int]()
    threads = [waiting(shift, woken, number) for number in range(4)]
    for expected in (3, 2):
        with shift:
            shift.notify()
        assert woken.get(timeout=PATIENCE) == expected
    threads.append(waiting(shift, woken, 4))
    with shift:
        shift.notify()
    assert woken.get(timeout=PATIENCE) == 4
    with shift:
        shift.notify_all()
    assert {woken.get(timeout=PATIENCE) for _ in range(2)} == {0, 1}
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_wait_ends_by_itself_and_counts_for_nobody_afterwards() -> None:
    shift, woken = Shift(), Queue[int]()
    with shift:
        for seconds in (-1.0, 0.0, 0.01):
            shift.wait(seconds)
    waiting(shift, woken, 1)
    with shift:
        shift.notify(5)
    assert woken.get(timeout=PATIENCE) == 1
    with shift:
        shift.notify()  # nobody waits: it is not kept for whoever comes next
        started = time.monotonic()
        shift.wait(0.05)
    assert time.monotonic() - started >= 0.04
