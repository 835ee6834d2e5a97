"""Libraries that would report home do not, and the objects of the large ones are in nobody's way."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, threading
from app.libraries import onnxruntime, openvino
onnxruntime.InferenceSession, openvino.Core()
names = [os.readlink(f"/proc/self/fd/{place}") for place in os.listdir("/proc/self/fd") if place != "3"]
print([name for name in names if "/" in name and "DeveloperTools" in name], threading.active_count())
"""


def test_importing_them_opens_no_store_of_events_and_starts_no_sender(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )

    assert found.stdout.strip() == "[] 1"
    assert list(tmp_path.iterdir()) == []


SEARCHED = """
import gc
from app import libraries
libraries.import_deferred()
left_out, searched = gc.get_freeze_count(), len(gc.get_objects())
kept = [[] for _ in range(1000)]
libraries.import_deferred()
print(left_out > 100_000, searched < 1_000, gc.get_freeze_count() <= left_out)
"""


def test_what_was_imported_is_searched_for_garbage_once(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    found = subprocess.run(
        [sys.executable, "-c", SEARCHED],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout.strip() == "True True True"
