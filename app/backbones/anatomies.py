"""Anatomies of the catalogue's networks, each computed once and kept as long as there is room."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from app import errors
from app.backbones import anatomy, catalogue, networks
from app.backbones.anatomy import Anatomy, Stages
from app.backbones.catalogue import Backbone


@dataclass(frozen=True)
class Question:
    """Which anatomy somebody asks for."""

    backbone: str
    size: int
    batch: int
    dtype: str


class Anatomies:
    """Those asked for last. Any number of threads may ask; whoever asks for one being computed waits for it."""

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._found: OrderedDict[Question, Future[Anatomy]] = OrderedDict()
        self._changing = threading.Lock()

    def get(self, question: Question) -> Anatomy:
        """The anatomy asked for. Raises `UnknownName`, and what `anatomy.of` raises."""
        backbone = catalogue.find(question.backbone)
        with self._changing:
            future = self._found.get(question)
            is_new = future is None
            if future is None:
                future = self._found[question] = Future()
            self._found.move_to_end(question)
            while len(self._found) > self._capacity:
                self._found.popitem(last=False)
        if is_new:
            self._compute(backbone, question, future)
        return future.result()

    def _compute(self, backbone: Backbone, question: Question, future: "Future[Anatomy]") -> None:
        try:
            computed = anatomy.of(
                _network(backbone),
                size=question.size,
                batch=question.batch,
                dtype=question.dtype,
                stages=_stages(backbone),
            )
        except BaseException as error:
            with self._changing:
                self._found.pop(question, None)
            # Whoever waits gets it, and nobody waits for ever.
            future.set_exception(error)
        else:
            future.set_result(computed)


class _Hollow(TorchFunctionMode):
    """While it is entered, new parameters are without values, but numbers that networks compute with are not.

    On the meta device alone RegNet and many networks of timm could not be made, as they read off tensors how many
    blocks they have.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones) and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)


def _network(backbone: Backbone) -> nn.Module:
    """The network as it answers requests, without values and auxiliary heads. Raises `Invalid` if it needs values."""
    reason = ""
    mode: AbstractContextManager[Any]
    for mode in (torch.device("meta"), _Hollow()):
        try:
            with mode:
                return networks.make(backbone, auxiliary=False)
        except (RuntimeError, NotImplementedError) as error:
            # How torch says that a value is needed. The second way goes further, so its reason is the one that counts.
            reason = str(error)
    raise errors.Invalid(f"{backbone.name} cannot be made without values", code="no_anatomy", detail={"reason": reason})


def _stages(backbone: Backbone) -> Stages:
    """The stages of a network, each with the names of its modules; none where only its library knows them."""
    if backbone.chain is None:
        return ()
    return [(stage.name, [step for step in stage.steps if not step.startswith(":")]) for stage in backbone.chain.stages]
