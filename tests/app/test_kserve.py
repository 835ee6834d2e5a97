"""The KServe client as the package registry has it, in an environment of its own: it wants an older psutil than the
tests."""

import base64
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.serving import LABELS, Listening

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PHOTOS = tuple(factories.image(colour) for colour in factories.COLOURS.values())
CALLS = Path(__file__).parent / "kserve_calls.py"
REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "kserve.txt"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the client: the one that `GRAFT_TEST_KSERVE_PYTHON` names, or a new one where there is an index
    of packages."""
    given = os.environ.get("GRAFT_TEST_KSERVE_PYTHON")
    if given is not None:
        return given
    folder = tmp_path_factory.mktemp("kserve")
    uv = Path(sys.executable).with_name("uv")
    venv.create(folder, with_pip=not uv.is_file())
    python = str(folder / "bin" / "python")
    install = [uv, "pip", "install", "--python", python] if uv.is_file() else [python, "-m", "pip", "install"]
    command = [*install, "--quiet", "--require-hashes", "--requirement", REQUIREMENTS]
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"no KServe client could be installed: {installed.stderr.strip()[-300:]}")
    return python


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Listening]:
    with serving.listening(Settings(data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=1)) as found:
        yield found


def test_the_kserve_client_gets_the_answers_of_the_evaluation(here: Listening, interpreter: str) -> None:
    texts = json.dumps([base64.b64encode(photo).decode() for photo in PHOTOS])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [interpreter, str(CALLS), here.url], input=texts, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = serving.evaluated(PHOTOS)

    assert (found["live"], found["ready"], found["model_ready"], found["other_ready"]) == (True, True, True, False)
    for answer in (found["in_json"], found["in_binary"]):
        np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-4)
        assert answer["label"] == [LABELS[place] for place in expected.argmax(axis=1)]
        assert answer["id"] == "42"
    for row, values in zip(found["v1"]["predictions"], expected, strict=True):
        told = dict(zip(row["labels"], row["probabilities"], strict=True))
        np.testing.assert_allclose([told[label] for label in LABELS], values, rtol=0, atol=1e-4)
    assert (found["error"]["status"], found["error"]["code"]) == (422, "not_base64")
    assert found["error"]["error"] == found["error"]["detail"]
