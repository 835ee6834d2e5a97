"""The broker's doorbell: what it writes is what a Celery worker takes, and a broker that is away harms nobody."""

import logging

import pytest
import redis
from celery import Celery
from kombu import Connection

from app.doorbell import TASK_NAME, CeleryDoorbell


def test_a_ring_is_a_message_that_celery_understands(redis_url: str) -> None:
    CeleryDoorbell(redis_url).ring("gpu", "job_1")

    with Connection(redis_url) as connection:
        message = connection.SimpleQueue("gpu").get(timeout=5)
    assert message.headers["task"] == TASK_NAME
    assert "expires" not in message.headers  # which would go by the clock of the worker that hears it
    args, kwargs, _embedded = message.decode()
    assert (args, kwargs) == (["job_1"], {})
    reference = Celery(broker=redis_url).amqp.as_task_v2("id", TASK_NAME, args=("job_1",), kwargs={})
    assert set(message.headers) <= set(reference.headers)


def test_a_broker_that_is_away_costs_a_warning_and_no_wait(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    doorbell = CeleryDoorbell("redis://127.0.0.1:1/0")
    with caplog.at_level(logging.WARNING):
        doorbell.ring("gpu", "job_1")

    assert "the sweep will ring again" in caplog.text
    assert not waits


def test_a_broker_that_was_away_is_rung_again_when_it_is_back(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doorbell._LEAVE_ALONE_SECONDS", 0.0)
    bell, broker = CeleryDoorbell(redis_url), redis.Redis.from_url(redis_url)
    bell.ring("gpu", "job_1")
    broker.client_kill_filter(_type="normal", skipme=True)
    bell.ring("gpu", "job_2")
    bell.ring("gpu", "job_3")

    assert broker.llen("gpu") >= 2
    broker.close()


def test_rings_that_nobody_hears_do_not_pile_up_without_end(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doorbell._RINGS_ENOUGH", 5)
    bell = CeleryDoorbell(redis_url)
    for number in range(20):
        bell.ring("gpu", f"job_{number}")

    broker = redis.Redis.from_url(redis_url)
    assert broker.llen("gpu") == 5
    broker.close()
