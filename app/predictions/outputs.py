"""Answers as tensors of the Open Inference Protocol: which there are, and how they are written."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import errors
from app.predictions import loaded
from app.predictions.asking import wrong
from app.predictions.loaded import Answer, Loaded
from app.predictions.tensors import LENGTH_BYTES, InferGiven, OutputWanted, Parameters

_MAX_CLASSES = 1000


@dataclass(frozen=True)
class Output:
    """One of the tensors that answers make."""

    datatype: str
    shape_of: Callable[[int], list[int]]
    """For the number of labels, as the metadata has it."""
    values: Callable[[Sequence[Answer]], list[Any]]
    """Row-major."""
    is_calibrated: bool = False
    """Whether only versions with a calibration have it."""
    scores: Callable[[Answer], NDArray[np.floating]] | None = None
    """What labels can be ranked by."""


OUTPUTS: dict[str, Output] = {
    "probabilities": Output(
        "FP32",
        lambda labels: [-1, labels],
        lambda answers: [value for answer in answers for value in answer.probabilities.tolist()],
        scores=lambda answer: answer.probabilities,
    ),
    "logits": Output(
        "FP32",
        lambda labels: [-1, labels],
        lambda answers: [value for answer in answers for value in answer.logits.tolist()],
        scores=lambda answer: answer.logits,
    ),
    "label": Output(
        "BYTES",
        lambda labels: [-1],
        lambda answers: [
            answer.labels[place] for answer in answers for place in loaded.best(answer.probabilities.tolist(), 1)
        ],
    ),
    "unknown": Output(
        "BOOL",
        lambda labels: [-1],
        lambda answers: [answer.is_unknown for answer in answers],
        is_calibrated=True,
    ),
    "similarity": Output(
        "FP32",
        lambda labels: [-1],
        lambda answers: [answer.similarity for answer in answers],
        is_calibrated=True,
    ),
}


@dataclass(frozen=True)
class Written:
    """An output: its description, and what of it goes behind the JSON."""

    tensor: dict[str, Any]
    behind: bytes | None


def check(given: InferGiven) -> None:
    """Raise `Invalid` for outputs that no version has, or that cannot be had in that way, and `RequestValidationError`
    for parameters that are not what they should be."""
    names = [output.name for output in given.outputs or ()]
    for name in names:
        if name not in OUTPUTS:
            raise errors.UnknownName("output", name[:100], OUTPUTS)
    if len(names) != len(set(names)):
        raise errors.Invalid("an output is asked for twice", code="output_twice")
    all_binary = _all_binary(given)
    for output in given.outputs or ():
        _is_binary(output, all_binary)
        if _classes(output) and OUTPUTS[output.name].scores is None:
            raise errors.Invalid(f"output {output.name!r} has no classes to rank", code="not_classes")
        if "shared_memory_region" in (output.parameters or {}):
            raise errors.Invalid("shared memory is not written to here", code="shared_memory")


def of_version(*, is_calibrated: bool) -> dict[str, Output]:
    """Those that a version has."""
    return {name: output for name, output in OUTPUTS.items() if is_calibrated or not output.is_calibrated}


def check_version(given: InferGiven, version: Loaded) -> None:
    """Raise `UnknownName` for outputs that it has not."""
    names = of_version(is_calibrated=version.is_calibrated)
    for wanted in given.outputs or ():
        if wanted.name not in names:
            raise errors.UnknownName("output", wanted.name, names)


def written(given: InferGiven, answers: Sequence[Answer]) -> list[Written]:
    """The outputs that are wanted, or all that the version has."""
    names = of_version(is_calibrated=answers[0].similarity is not None)
    all_binary = _all_binary(given)
    return [
        _written(wanted, answers, _is_binary(wanted, all_binary))
        for wanted in given.outputs or [OutputWanted(name) for name in names]
    ]


def _written(wanted: OutputWanted, answers: Sequence[Answer], is_binary: bool) -> Written:
    output = OUTPUTS[wanted.name]
    count = _classes(wanted)
    datatype = "BYTES" if count else output.datatype
    values = _ranked(output, answers, count) if count else output.values(answers)
    shape = [len(answers), *([len(values) // len(answers)] if count or len(output.shape_of(1)) > 1 else [])]
    tensor: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": shape}
    if not is_binary:
        return Written({**tensor, "data": values}, None)
    behind = _PACKED[datatype](values)
    return Written({**tensor, "parameters": {"binary_data_size": len(behind)}}, behind)


def _all_binary(given: InferGiven) -> bool:
    return _flag(given.parameters, "binary_data_output", ("body",), default=False)


def _is_binary(wanted: OutputWanted, all_binary: bool) -> bool:
    return _flag(wanted.parameters, "binary_data", ("body", "outputs", wanted.name), default=all_binary)


def _flag(parameters: Parameters | None, name: str, place: tuple[str, ...], *, default: bool) -> bool:
    """What a parameter says, or the default where it is left out. Raises `RequestValidationError`."""
    value = (parameters or {}).get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong((*place, "parameters", name), "should be true or false", "bool_type")
    return value


def _classes(wanted: OutputWanted) -> int:
    """How many labels are to be ranked; 0 for none. Raises `RequestValidationError`."""
    count = (wanted.parameters or {}).get("classification")
    if count is None:
        return 0
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MAX_CLASSES:
        message = f"should be a whole number from 1 to {_MAX_CLASSES}"
        raise wrong(("body", "outputs", wanted.name, "parameters", "classification"), message, "out_of_range")
    return count


def _ranked(output: Output, answers: Sequence[Answer], count: int) -> list[str]:
    assert output.scores is not None
    found = []
    for answer in answers:
        scores = output.scores(answer).tolist()
        found += [f"{scores[place]:.6f}:{place}:{answer.labels[place]}" for place in loaded.best(scores, count)]
    return found


def _packed_texts(values: Sequence[str]) -> bytes:
    encoded = [value.encode() for value in values]
    return b"".join(len(value).to_bytes(LENGTH_BYTES, "little") + value for value in encoded)


_PACKED: dict[str, Callable[[Any], bytes]] = {
    "FP32": lambda values: struct.pack(f"<{len(values)}f", *values),
    "BOOL": lambda values: struct.pack(f"<{len(values)}?", *values),
    "BYTES": _packed_texts,
}
