"""A service that is asked by the Open Inference Protocol, and what it is asked with."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from app.settings import Settings
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.serving import Listening

PHOTO = factories.image(factories.COLOURS["red"])
OTHER = factories.image(factories.COLOURS["blue"])
URL = "/v2/models/insects/infer"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("serving")
    given = Settings(
        data_dir=folder / "data",
        database_url=sqlite_url(folder),
        threads=1,
        max_images_per_predict=8,
        max_image_bytes=1_000_000,
        max_predict_bytes=3_000_000,
        max_json_numbers=50_000,
    )
    with serving.listening(given) as found:
        yield found


@pytest.fixture
def client(here: Listening) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(here.address) as found:
        yield found


@pytest.fixture
def http(here: Listening) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=here.url, timeout=60) as found:
        yield found


def files(*photos: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(photos), 1], "BYTES")
    return tensor.set_data_from_numpy(np.array(photos, np.object_)[:, None])


def tensor(**changed: Any) -> dict[str, Any]:
    """An input in JSON that is right but for what is changed."""
    pixels = {"name": "raw_pixels", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": [127] * 64 * 64 * 3}
    return {name: value for name, value in {**pixels, **changed}.items() if value is not None}


def binary(header: dict[str, Any], behind: bytes, length: int | None = None) -> dict[str, Any]:
    encoded = json.dumps(header).encode()
    return {
        "content": encoded + behind,
        "headers": {"Inference-Header-Content-Length": str(len(encoded) if length is None else length)},
    }
