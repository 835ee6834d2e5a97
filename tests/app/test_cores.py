"""How many cores a process may use, by what it is bound to and by the time that its control groups have."""

import os
from pathlib import Path

import pytest

from app import cores


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))


def usable(folder: Path, group: str, **limits: str) -> int:
    """In `group`, where the folders named so have these limits."""
    (folder / "own").write_text(f"12:cpu:/old\n0::/{group}\n")
    for name, limit in limits.items():
        place = folder / "groups" / name.replace("_", "/").removeprefix("root")
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpu.max").write_text(limit)
    return cores.usable(folder / "groups", folder / "own")


def test_without_a_limit_they_are_those_that_the_process_is_bound_to(tmp_path: Path) -> None:
    assert usable(tmp_path, "") == 16
    assert usable(tmp_path, "", root="max 100000\n") == 16
    assert cores.usable(tmp_path / "none", tmp_path / "none") == 16


@pytest.mark.parametrize(
    ("limit", "count"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("6400000 100000", 16), ("100000 50000", 2)],
)
def test_a_container_has_as_many_as_its_time_makes_up(tmp_path: Path, limit: str, count: int) -> None:
    assert usable(tmp_path, "", root=f"{limit}\n") == count


def test_the_least_of_a_service_and_what_it_is_in_counts(tmp_path: Path) -> None:
    assert usable(tmp_path, "slice/service", slice_service="800000 100000", slice="300000 100000") == 3
    assert usable(tmp_path, "slice/service", slice_service="100000 100000", slice="300000 100000") == 1


def test_a_file_of_another_form_limits_nothing(tmp_path: Path) -> None:
    for other in ("", "2 cores", "max\n"):
        assert usable(tmp_path, "", root=other) == 16
