"""What the control groups of this process allow: of its own group, as a service or a container has one, and of all that
this one is in ("Control Group v2", and of version 1 "cpu" and "memory", in Linux's documentation)."""

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ControlGroups:
    """Where they are mounted, and the file that names those of the process."""

    mounted: Path = Path("/sys/fs/cgroup")
    own: Path = Path("/proc/self/cgroup")

    def cores(self) -> list[int]:
        """As many as make up the time that each group has, for those that have a limit."""
        shares = [_numbers(place / "cpu.max") for place in self._places("")]
        shares += [
            [*_numbers(place / "cpu.cfs_quota_us"), *_numbers(place / "cpu.cfs_period_us")]
            for place in self._places("cpu")
        ]
        return [math.ceil(share[0] / share[1]) for share in shares if len(share) == 2 and min(share) > 0]

    def memory_bytes(self) -> list[int]:
        """That each group may take; version 1 says a number that is larger than any memory where there is no limit."""
        files = [place / "memory.max" for place in self._places("")]
        files += [place / "memory.limit_in_bytes" for place in self._places("memory")]
        return [found[0] for file in files if (found := _numbers(file))]

    def memory_kills(self) -> int:
        """How many processes of the process's own group, and of groups in it, were killed for want of memory since it
        was made, whoever it was that had none; 0 where that is not counted."""
        files = [place / "memory.events" for place in self._places("")]
        files += [place / "memory.oom_control" for place in self._places("memory")]
        return next((count for file in files if (count := _counted(file, "oom_kill")) is not None), 0)

    def _places(self, controller: str) -> list[Path]:
        """The folders of the groups: of version 2, which has one tree for all, without a `controller`."""
        try:
            lines = [line.split(":", 2) for line in self.own.read_text().splitlines()]
        except OSError:
            lines = []
        root = self.mounted / controller
        named = (line[2] for line in lines if len(line) == 3 and controller in line[1].split(","))
        # Inside of a container what is mounted may begin at its own group, whose name is that outside.
        folder = root / next(named, "").lstrip("/")
        return [place for place in (folder, *folder.parents) if place.is_relative_to(root)]


def _numbers(file: Path) -> list[int]:
    """None of them where it says `max`, which is no limit, or cannot be read."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []


def _counted(file: Path, name: str) -> int | None:
    """What stands behind `name` in a line of its own; None where there is no such line, or it cannot be read."""
    try:
        counts = dict(line.split() for line in file.read_text().splitlines())
        return int(counts[name])
    except (OSError, ValueError, LookupError):
        return None
