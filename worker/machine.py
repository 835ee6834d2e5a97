"""What this machine computes with, by the names that makers give."""

import platform
import re
from pathlib import Path

import torch

_CPU_FACTS = Path("/proc/cpuinfo")


def name(device: torch.device) -> str:
    """Of the CPU or GPU, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = _CPU_FACTS.read_text(errors="replace") if _CPU_FACTS.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
