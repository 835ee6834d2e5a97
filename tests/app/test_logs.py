"""Logs: which requests get a line."""

import logging

import pytest

from app import logs


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
    caplog: pytest.LogCaptureFixture, path: str, status: int, *, is_told: bool
) -> None:
    with caplog.at_level(logging.INFO, "requests"):
        logs.Requests(logging.getLogger("requests")).info(
            '%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "POST", path, "1.1", status
        )
    assert caplog.messages == ([f'127.0.0.1:1 - "POST {path} HTTP/1.1" {status}'] if is_told else [])
