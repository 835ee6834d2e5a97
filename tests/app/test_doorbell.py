"""The broker's doorbell: what it writes is what a Celery worker takes, and a broker that is away harms nobody."""

import logging
import time

import pytest
from celery import Celery
from kombu import Connection

from app.doorbell import TASK_NAME, CeleryDoorbell


def test_a_ring_is_a_message_that_celery_understands(redis_url: str) -> None:
    CeleryDoorbell(redis_url, expires_seconds=30).ring("gpu", "job_1")

    with Connection(redis_url) as connection:
        message = connection.SimpleQueue("gpu").get(timeout=5)
    assert message.headers["task"] == TASK_NAME
    args, kwargs, _embedded = message.decode()
    assert (args, kwargs) == (["job_1"], {})
    reference = Celery(broker=redis_url).amqp.as_task_v2("id", TASK_NAME, args=("job_1",), kwargs={})
    assert set(message.headers) <= set(reference.headers)


def test_a_broker_that_is_away_costs_a_warning_and_little_time(caplog: pytest.LogCaptureFixture) -> None:
    doorbell = CeleryDoorbell("redis://127.0.0.1:1/0", expires_seconds=30)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        doorbell.ring("gpu", "job_1")

    assert "the sweep will ring again" in caplog.text
    assert time.monotonic() - started < 5
