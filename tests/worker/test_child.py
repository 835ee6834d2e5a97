"""The process of a job."""

from multiprocessing.connection import Connection

import torch

from worker import child
from worker.forkserver import Forkserver
from worker.messages import Done
from worker.training.events import Emit


def may_round(_work: None, _emit: Emit) -> tuple[bool, bool]:
    """Whether a GPU may compute in TF32 what is in fp32."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def ask(connection: Connection) -> None:
    child._CARRIED_OUT["ask"] = may_round
    child.main(connection, "ask", None, threads=1, log_level="INFO")


def test_what_is_in_fp32_is_computed_so_on_every_device(forkserver: Forkserver) -> None:
    connection, process = forkserver.start(ask)
    told = connection.recv()
    process.join()
    assert told == Done((False, False))
