"""Where `auto` computes in bf16."""

import pytest
import torch

from tests.training.samples import CPU
from worker.training import precision


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, True),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, False),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9R14"}, True),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC 7R13"}, False),
        ({"avx512_bf16": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_taken_where_the_processor_multiplies_more_of_it_at_a_time(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, object], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert precision.is_half_quicker(CPU) is expected
