"""Runtimes that are started before the first network is measured."""

import multiprocessing

import pytest
import torch

from app.optimisation import Runtime
from app.runtimes import memory, opening
from app.runtimes.form import Machine
from worker.optimising import starting

MACHINE = Machine(threads=2)


def grown_twice(runtime: Runtime, machine: Machine) -> list[int]:
    """Bytes by which a process grows that starts a runtime, and then once more."""
    found = []
    for _ in range(2):
        before = memory.used_bytes("cpu") or 0
        starting.start([runtime], machine)
        memory.give_back()
        found.append((memory.used_bytes("cpu") or 0) - before)
    return found


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_a_runtime_takes_for_itself_comes_with_the_first_network(runtime: Runtime) -> None:
    pytest.importorskip(runtime)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        first, second = pool.apply(grown_twice, (runtime, MACHINE))
    assert first > 5_000_000
    assert second < first / 2


def test_a_runtime_that_does_not_work_says_so_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail(_files: object, form: object, _machine: object) -> None:
        tried.append(form)
        raise RuntimeError("no such library")

    monkeypatch.setattr(opening, "open_form", fail)
    starting.start(["openvino", "torch", "onnxruntime"], MACHINE)
    assert len(tried) == 2


def test_nothing_is_started_where_a_gpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", pytest.fail)
    monkeypatch.setattr(opening, "open_form", pytest.fail)
    starting.start(["openvino", "torch-compiled"], Machine(threads=2, device="cuda"))
