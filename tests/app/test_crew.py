"""The threads that help with our own convolutions, by themselves."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.runtimes import convolve

COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no g++")
SECONDS = "3"


@pytest.fixture(scope="module")
def hammer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hammer") / "hammer"
    source, headers = Path(__file__).with_name("hammer.cpp"), Path(convolve.__file__).parent
    command = [str(COMPILER), "-std=c++17", "-O3", "-pthread", "-iquote", str(headers), str(source), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


def hammered(hammer: Path, hands: int, *more: int) -> tuple[int, int]:
    """How many turns there were, and how many pieces others helped with."""
    command = [str(hammer), SECONDS, str(hands), *map(str, more)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    told = re.fullmatch(r"turns (\d+) helped (\d+) wrong 0 late 0\n", ran.stdout)
    assert told, (ran.returncode, ran.stdout, ran.stderr)
    return int(told[1]), int(told[2])


@pytest.mark.parametrize("hands", [2, 3, 7])
def test_each_piece_is_done_once_and_in_its_own_turn(hammer: Path, hands: int) -> None:
    turns, helped = hammered(hammer, hands)
    assert turns > 100
    assert helped > 0


def test_where_no_thread_can_be_started_one_does_all(hammer: Path) -> None:
    turns, helped = hammered(hammer, 64, 10 * 2**20)  # no stack of a thread has room
    assert turns > 100
    assert helped == 0
