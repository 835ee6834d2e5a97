"""Logs: which requests get a line."""

import logging
from collections.abc import Iterator

import pytest

from app import logs


@pytest.fixture
def access() -> Iterator[logging.Logger]:
    root, logger = logging.getLogger(), logging.getLogger("uvicorn.access")
    before = root.handlers[:], root.level, logger.filters[:]
    logs.configure("INFO", process="test")
    yield logger
    root.handlers[:], logger.filters[:] = before[0], before[2]
    root.setLevel(before[1])


@pytest.mark.parametrize(
    ("path", "status", "is_told"),
    [
        ("/v1/models/insects/predict?top_k=1", 200, False),
        ("/v1/models/insects:production/predict", 200, False),
        ("/v1/models/insects:predict", 200, False),
        ("/v2/models/insects/versions/1/infer", 200, False),
        ("/v1/models/insects/predict", 503, True),
        ("/v1/models/insects", 200, True),
        ("/v2/models/insects/ready", 200, True),
    ],
)
def test_predictions_that_went_well_have_no_line(
    access: logging.Logger, path: str, status: int, *, is_told: bool
) -> None:
    record = access.makeRecord(
        access.name, logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', ("127.0.0.1:1", "POST", path, "1.1", status), None
    )
    assert bool(access.filter(record)) is is_told
