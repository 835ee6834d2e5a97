"""Which forms a machine can run, and a classifier opened in the first of them that works."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from app import errors
from app.optimisation import FORMS_ON, Precision, Runtime
from app.optimisation import Machine as MadeOn
from app.runtimes import in_onnx, in_openvino, in_torch
from app.runtimes.form import PLAIN, Files, Form, Machine, Network, Passed, named

logger = logging.getLogger(__name__)

_CLOSE: Mapping[Precision, float] = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.05, "int8": 0.5}
"""How far logits may be from those that the optimisation saw in the same form, by the root mean square: a form may
have chosen other instructions there, but one that is further off was not loaded as it should be."""


ELSEWHERE = "this machine's CPU or GPU does not run it"
"""Why a form that other machines run cannot be had here."""


@dataclass(frozen=True)
class Check:
    """What a form is known to make of a few images, to see that it does the same here."""

    images: NDArray[np.uint8]
    """`(N, H, W, 3)`."""
    logits: Mapping[str, NDArray[np.float32]]
    """For the name of each form `(N, K)`."""
    made_on: MadeOn | None = None
    """Where it was seen to; None before it is written beside the report that says so."""


Made = TypeVar("Made")


def forms(device: torch.device) -> tuple[Form, ...]:
    """Every form that may run on `device`, whether or not its runtime is installed; `PLAIN` first."""
    names = FORMS_ON["cuda" if device.type == "cuda" else "cpu"]
    has_half = device.type == "cuda" or _has_any("avx512_bf16", "amx_bf16")
    possible = (named(name) for name in names)
    return tuple(one for one in possible if has_half or one.precision != "bf16")


def usual_forms(device: torch.device) -> tuple[Form, ...]:
    """Those of them that are compared where nobody says which."""
    found = forms(device)
    compiled = [one for one in found if one.runtime == "torch-compiled"]
    # To compile takes longer than to compare all others, so it is done once; where there is bf16, in that.
    left_out = [one for one in compiled if one.precision == "fp32"] if len(compiled) > 1 else []
    return tuple(one for one in found if one not in left_out)


def saturates() -> bool:
    """Whether this CPU adds products of 8 bits in 16, where two of them may not fit (x86 without VNNI)."""
    return not _has_any("avx512_vnni", "avx_vnni")


def _has_any(*instructions: str) -> bool:
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in instructions)


def open_form(files: Files, form: Form, machine: Machine) -> Network:
    """The classifier in `form`. Raises `Unavailable` where that cannot be had here."""
    return _OPENERS[form.runtime](files, form, machine)


def open_first(
    files: Files,
    wanted: Sequence[Form],
    machine: Machine,
    *,
    make: Callable[[Network, Form], Made],
    pass_over: Callable[[Form, str], None],
    check: Check | None = None,
) -> Made:
    """What `make` makes of the classifier in the first of the forms `wanted` that `machine` runs, that loads, passes
    the `check` where there is one, and can be made so; in `PLAIN` where none does, however far its answers are from
    those of the check. `pass_over` is told each form that does not run, and why. Raises `Unavailable`, or what `make`
    raises, where even the plain form cannot be had, or its answers are no numbers."""
    for form in dict.fromkeys((*wanted, PLAIN)):
        try:
            return _made(files, form, machine, make, check)
        except Exception as error:  # runtimes raise what they like, and the next one may do
            if form == PLAIN:
                raise
            pass_over(form, str(error))
    raise AssertionError("the plain form is always among them")


def _made(
    files: Files, form: Form, machine: Machine, make: Callable[[Network, Form], Made], check: Check | None
) -> Made:
    """By itself, so that what fails is not in memory any more when the next form is opened."""
    _verify_machine(machine, form, check)
    network = open_form(files, form, machine)
    _verify(network, form, check)
    return make(network, form)


def _verify_machine(machine: Machine, form: Form, check: Check | None) -> None:
    """Raise `Unavailable` where `machine` lacks what the form was made for: the few images of a check may not show
    it."""
    if form not in forms(torch.device(machine.device)):
        raise errors.Unavailable(ELSEWHERE, code="runtime_unavailable")
    made_on = None if check is None else check.made_on
    has_all_bits = made_on is not None and made_on.int8_saturates is False
    if form.precision == "int8" and has_all_bits and saturates():
        reason = "its weights have 8 bits, for a CPU with VNNI, and sums of their products saturate on this one"
        raise errors.Unavailable(reason, code="runtime_unavailable")


def distance(found: Passed, expected: NDArray[np.float32]) -> float:
    """The root mean square of the logits' differences by that of the logits; infinite where one is not finite."""
    if not np.isfinite(found.logits).all():
        return float("inf")
    return float(np.sqrt(np.square(found.logits - expected).mean() / max(np.square(expected).mean(), 1e-12)))


def _verify(network: Network, form: Form, check: Check | None) -> None:
    if check is None or form.name not in check.logits:
        return
    far = distance(network.run(check.images), check.logits[form.name])
    if far <= _CLOSE[form.precision]:
        return
    reason = f"its answers here are {far:.2g} away from those that were seen when it was chosen"
    if form != PLAIN or np.isinf(far):
        raise errors.Unavailable(reason, code="runtime_unavailable")
    # There is no other form to take, and its weights are those of the artifact: this machine rounds otherwise.
    logger.warning("%s is run all the same: %s", form.name, reason)


_OPENERS: dict[Runtime, Callable[[Files, Form, Machine], Network]] = {
    "torch": in_torch.open_plain,
    "torch-winograd": in_torch.open_winograd,
    "torch-compiled": in_torch.open_compiled,
    "onnxruntime": in_onnx.open_onnx,
    "openvino": in_openvino.open_openvino,
    "tensorrt": in_onnx.open_tensorrt,
}
