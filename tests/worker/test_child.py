"""The process of a job."""

import errno
import os
import platform
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest
import torch

from app import cores
from worker import child
from worker.forkserver import Forkserver
from worker.messages import Done, Failed
from worker.training.events import Emit


def may_round(_work: None, _emit: Emit) -> tuple[bool, bool]:
    """Whether a GPU may compute in TF32 what is in fp32."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def outcome(forkserver: Forkserver, target: Callable[..., None], *given: object) -> object:
    """What a process of its own tells at its end."""
    connection, process = forkserver.start(target, *given)
    told: object = connection.recv()
    process.join()
    return told


def ask(connection: Connection) -> None:
    child._CARRIED_OUT["ask"] = may_round
    child.main(connection, "ask", None, threads=1, log_level="INFO")


def test_what_is_in_fp32_is_computed_so_on_every_device(forkserver: Forkserver) -> None:
    assert outcome(forkserver, ask) == Done((False, False))


def threads(_work: None, _emit: Emit) -> int:
    return torch.get_num_threads()


def ask_for_threads(connection: Connection, wanted: int) -> None:
    """On four cores as torch sees them, of which three may be used."""
    torch.set_num_threads(4)
    vars(cores)["usable"] = lambda: 3
    child._CARRIED_OUT["threads"] = threads
    child.main(connection, "threads", None, threads=wanted, log_level="INFO")


@pytest.mark.parametrize(("wanted", "taken"), [(0, 3), (2, 2), (5, 5)])
def test_a_job_computes_in_as_many_threads_as_there_are_cores_to_use_or_as_were_asked_for(
    forkserver: Forkserver, wanted: int, taken: int
) -> None:
    assert outcome(forkserver, ask_for_threads, wanted) == Done(taken)


def fill_the_disk(_work: None, _emit: Emit) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ask_for_room(connection: Connection) -> None:
    child._CARRIED_OUT["room"] = fill_the_disk
    child.main(connection, "room", None, threads=1, log_level="INFO")


def test_a_job_for_which_the_disk_has_no_room_says_so(forkserver: Forkserver) -> None:
    told = outcome(forkserver, ask_for_room)
    assert isinstance(told, Failed)
    assert told.failure.code == "no_room"
    assert "No space left on device" in told.failure.message


PIECES, ROUNDS = 8, 10


def faults(_work: None, _emit: Emit) -> int:
    """Pages that the system has to hand out for pieces of 16 MB that are freed together and asked for again."""
    for _ in range(3):
        del [torch.ones(2**22) for _ in range(PIECES)][:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        del [torch.ones(2**22) for _ in range(PIECES)][:]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def count(connection: Connection, kind: str) -> None:
    child._CARRIED_OUT[kind] = faults
    child.main(connection, kind, None, threads=1, log_level="INFO")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_a_training_keeps_the_memory_that_it_frees_for_the_next_step(forkserver: Forkserver) -> None:
    connection, process = forkserver.start(count, "train")
    told = connection.recv()
    process.join()
    assert isinstance(told, Done)
    pages = ROUNDS * PIECES * 2**24 // resource.getpagesize()
    # Without that all of them, unless something lies behind the pieces by chance.
    assert told.outcome < pages / 10
