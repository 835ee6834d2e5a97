"""Libraries that would report home do not, and the objects of the large ones are in nobody's way."""

import subprocess
import sys
from pathlib import Path

OPENED = """
import os, threading
from app.libraries import onnxruntime, openvino
onnxruntime.InferenceSession, openvino.Core()
names = [os.readlink(f"/proc/self/fd/{place}") for place in os.listdir("/proc/self/fd") if place != "3"]
print([name for name in names if "/" in name and "DeveloperTools" in name], threading.active_count())
"""

SEARCHED = """
import gc
from app import libraries
libraries.import_deferred()
left_out, searched = gc.get_freeze_count(), len(gc.get_objects())
kept = [[] for _ in range(1000)]
libraries.import_deferred()
print(left_out > 100_000, searched < 1_000, gc.get_freeze_count() <= left_out)
"""


def printed(program: str, home: Path) -> str:
    """By the `program`, for a user with this home."""
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[2],
    )
    return found.stdout.strip()


def test_importing_them_opens_no_store_of_events_and_starts_no_sender(tmp_path: Path) -> None:
    assert printed(OPENED, tmp_path) == "[] 1"
    assert list(tmp_path.iterdir()) == []


def test_what_was_imported_is_searched_for_garbage_once(tmp_path: Path) -> None:
    assert printed(SEARCHED, tmp_path) == "True True True"
