"""Processes that answer predictions, and the GPUs that they take."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from app.runtimes import devices
from app.runtimes.devices import Device

NAMES = ["GPU-one", "GPU-two"]
HOLDER = """
import sys
from pathlib import Path
from app.runtimes.devices import first_free
place, lock = first_free(Path(sys.argv[1]), sys.argv[2:])
print(place, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path: Path) -> "subprocess.Popen[str]":
    """One that has taken what it found free."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), *NAMES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    return process


def test_each_process_has_another_gpu_and_leaves_it_however_it_ends(
    tmp_path: Path, other_process: "subprocess.Popen[str]"
) -> None:
    with other_process:
        place, lock = devices.first_free(tmp_path, NAMES)
        other_process.kill()
        other_process.wait()
    assert place == 1
    freed, _lock = devices.first_free(tmp_path, NAMES)
    assert freed == 0
    lock.release()
    assert devices.first_free(tmp_path, NAMES)[0] == 1


def test_numbers_of_another_container_do_not_matter(tmp_path: Path) -> None:
    _, first = devices.first_free(tmp_path, NAMES)
    place, second = devices.first_free(tmp_path, NAMES[::-1])
    assert place == 0
    assert first.is_locked
    assert second.is_locked


def test_where_all_are_taken_one_is_shared_that_the_fewest_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = [devices.first_free(tmp_path, NAMES) for _ in range(2)]
    assert not caplog.records
    held += [devices.first_free(tmp_path, NAMES) for _ in range(3)]
    assert [place for place, _ in held] == [0, 1, 0, 1, 0]
    assert "3 processes that answer predictions share GPU GPU-one" in caplog.messages[-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_taken_until_it_is_released(tmp_path: Path) -> None:
    found = devices.take(tmp_path)
    assert (found.name, found.kind) == ("cuda:0", "cuda")
    assert found.lock is not None
    found.release()
    assert not found.lock.is_locked


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU")
def test_without_a_gpu_it_is_the_cpu(tmp_path: Path) -> None:
    assert devices.take(tmp_path) == devices.shared() == Device("cpu")
    assert devices.take(tmp_path).kind == "cpu"
    assert not list(tmp_path.iterdir())


def test_where_the_file_system_has_no_locks_the_first_gpu_is_taken_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(NAMES))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=NAMES[number]))
    found = devices.take(tmp_path)
    assert (found.name, found.lock is not None) == ("cuda:0", True)
    found.release()

    def refuse(*_arguments: object, **_options: object) -> None:
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert devices.take(tmp_path) == Device("cuda:0")
    assert "no GPU can be kept from other processes (no locks here)" in caplog.text


def test_a_cpu_computes_always_and_a_gpu_that_is_not_there_never() -> None:
    assert devices.trouble("cpu") is None
    said = devices.trouble(f"cuda:{torch.cuda.device_count()}")
    assert said is not None
    assert said.count("\n") == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_that_computes_has_no_trouble() -> None:
    assert devices.trouble("cuda:0") is None
