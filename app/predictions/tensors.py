"""Requests of the Open Inference Protocol: tensors by name, and which ones are wanted back.

A tensor is in the JSON, or as bytes after it ("binary tensor data extension"): numbers little-endian and row-major,
texts each after its length in four bytes.
"""

import msgspec

from app.predictions.asking import wrong

Parameters = dict[str, str | int | float | bool | None]

LENGTH_BYTES = 4


class TensorGiven(msgspec.Struct):
    """An input as the JSON describes it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw = msgspec.Raw()

    @property
    def binary_size(self) -> int | None:
        """Bytes of it behind the JSON; None where it is in it. Raises `RequestValidationError`."""
        size = (self.parameters or {}).get("binary_data_size")
        if size is None:
            return None
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise wrong(("body", "inputs", 0, "parameters", "binary_data_size"), "should be a number of bytes", "size")
        return size


class OutputWanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: Parameters | None = None


class InferGiven(msgspec.Struct):
    """A request, without what comes behind its JSON."""

    inputs: list[TensorGiven]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[OutputWanted] | None = None
