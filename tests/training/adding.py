"""Work of several processes, in a module of its own: each of them imports no more than this."""

import os
from collections.abc import Iterator

import torch

from worker.training.peers import Peers


def bring(place: Peers, value: float, messages: Iterator[str]) -> None:
    for _ in messages:
        place.add_up([torch.full((2, 3), value).t(), torch.tensor(value)])


def tell_priority(place: Peers, _work: None, messages: Iterator[str]) -> None:
    for _ in messages:
        place.add_up([torch.tensor(float(os.nice(0)))])


def vote(place: Peers, _work: None, messages: Iterator[str]) -> None:
    """1 where a GPU may compute in TF32 what is in fp32."""
    for _ in messages:
        place.add_up([torch.tensor(float(torch.backends.cudnn.allow_tf32))])
