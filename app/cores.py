"""How many cores this process may use."""

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def usable(groups: Path = _GROUPS, own_group: Path = _OWN_GROUP) -> int:
    """Those that it is bound to, or as many as make up the time that its container or service has, if that is less
    ("Control Group v2", cpu.max, in Linux's documentation); at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_limits(groups, own_group)]))


def _limits(groups: Path, own_group: Path) -> list[int]:
    """Of the process's own group, and of all that this one is in."""
    try:
        lines = own_group.read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folder = groups / own
    places = [place for place in (folder, *folder.parents) if place.is_relative_to(groups)]
    return [limit for place in places if (limit := _read(place / "cpu.max")) is not None]


def _read(file: Path) -> int | None:
    """None where there is no limit, or none that can be read."""
    try:
        quota, period = file.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None
