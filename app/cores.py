"""How many cores this process may use."""

import os

from app.controlgroups import ControlGroups


def usable(groups: ControlGroups | None = None) -> int:
    """Those that it is bound to, or as many as make up the time that its container or service has, if that is less; at
    least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(groups or ControlGroups()).cores()]))
