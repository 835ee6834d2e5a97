"""Too little memory is one error, whatever says so."""

import pytest
import torch

from app import errors
from app.runtimes import memory


def test_what_a_processor_has_no_memory_for_is_told_as_for_a_gpu() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="allocate"), memory.told_alike():
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(torch.OutOfMemoryError), memory.told_alike():
        bytearray(1 << 60)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), errors.Unavailable("the other one is out of memory")]
)
def test_other_errors_are_told_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, memory.told_alike():
        raise error
    assert raised.value is error
