"""How many cores a process may use, by what it is bound to and by the time that its control groups have, and what else
these say."""

import os
from pathlib import Path

import pytest

from app import cores
from app.controlgroups import ControlGroups


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))


def usable(folder: Path, group: str, **limits: str) -> int:
    """In `group`, where the folders named so have these limits."""
    groups = folder / "groups"
    for name, limit in limits.items():
        write(groups / name.replace("_", "/").removeprefix("root") / "cpu.max", limit)
    return cores.usable(of(folder, f"12:pids:/old\n0::/{group}\n"))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def of(folder: Path, own: str) -> ControlGroups:
    """Those in `folder`, of a process whose own groups are these."""
    write(folder / "own", own)
    return ControlGroups(folder / "groups", folder / "own")


def test_without_a_limit_they_are_those_that_the_process_is_bound_to(tmp_path: Path) -> None:
    assert usable(tmp_path, "") == 16
    assert usable(tmp_path, "", root="max 100000\n") == 16
    assert cores.usable(ControlGroups(tmp_path / "none", tmp_path / "none")) == 16


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


@pytest.mark.parametrize("where", ["cpu", "cpu/docker", "cpu/docker/1"])
def test_groups_of_version_1_limit_too(tmp_path: Path, where: str) -> None:
    place = tmp_path / "groups" / where
    groups = of(tmp_path, "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n")
    write(place / "cpu.cfs_quota_us", "-1\n")
    write(place / "cpu.cfs_period_us", "100000\n")
    assert cores.usable(groups) == 16
    write(place / "cpu.cfs_quota_us", "250000\n")
    assert cores.usable(groups) == 3


def test_the_memory_is_that_of_the_least_group(tmp_path: Path) -> None:
    groups = of(tmp_path, "5:memory:/slice/service\n0::/slice/service\n")
    assert groups.memory_bytes() == []
    write(tmp_path / "groups/slice/service/memory.max", "max\n")
    write(tmp_path / "groups/slice/memory.max", "3000\n")
    write(tmp_path / "groups/memory/slice/memory.limit_in_bytes", "2000\n")
    assert sorted(groups.memory_bytes()) == [2000, 3000]


def test_processes_that_were_killed_for_memory_are_counted_in_the_own_group(tmp_path: Path) -> None:
    groups = of(tmp_path, "0::/slice/service\n")
    assert groups.memory_kills() == 0
    write(tmp_path / "groups/slice/memory.events", "low 0\noom 9\noom_kill 9\noom_group_kill 0\n")
    assert groups.memory_kills() == 9
    for text, count in (("oom 3\noom_kill 2\n", 2), ("oom_kill 0\n", 0), ("of another form\n", 9), ("oom 3\n", 9)):
        write(tmp_path / "groups/slice/service/memory.events", text)
        assert groups.memory_kills() == count


def test_groups_of_version_1_count_what_was_killed_for_memory_too(tmp_path: Path) -> None:
    groups = of(tmp_path, "4:memory:/docker/1\n0::/\n")
    write(tmp_path / "groups/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert groups.memory_kills() == 3
    write(tmp_path / "groups/memory/docker/1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert groups.memory_kills() == 1
