"""The doorbell: tells workers that a job may be waiting. The jobs table is the queue, so a lost, doubled or late ring
is harmless; no ring may ever fail the request that caused it.
"""

import logging
import threading
import time
import uuid
from typing import Protocol

from kombu import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.settings import Settings

logger = logging.getLogger(__name__)

TASK_NAME = "graft.run_job"
_LEAVE_ALONE_SECONDS = 5.0
_RINGS_ENOUGH = 1000
BROKER_OPTIONS = {"socket_connect_timeout": 2, "socket_timeout": 5, "max_retries": 0}


class Doorbell(Protocol):
    def ring(self, queue: str, job_id: str) -> None:
        """Say that `job_id` waits in `queue`. Raises nothing."""


def connect(settings: Settings) -> Doorbell:
    """The doorbell of a process that has no worker of its own: the broker's, or none where there is no broker."""
    if settings.broker_url is None:
        return SilentDoorbell()
    return CeleryDoorbell(settings.broker_url)


class SilentDoorbell:
    """For a process beside which no worker listens: the sweep finds the job."""

    def ring(self, queue: str, job_id: str) -> None:
        logger.debug("job %s waits in %s", job_id, queue)


class CeleryDoorbell:
    """Writes the message that a Celery worker takes as a call of its `run_job` task (message protocol 2).

    Written with kombu alone: importing Celery would load its worker into the API process. It does not expire: Celery
    would go by the worker's clock, which may be another one.
    """

    def __init__(self, broker_url: str) -> None:
        self._connection = Connection(broker_url, transport_options=BROKER_OPTIONS, connect_timeout=2)
        self._lock = threading.Lock()
        self._away_until = 0.0

    def ring(self, queue: str, job_id: str) -> None:
        with self._lock:
            if time.monotonic() < self._away_until:
                logger.debug("the broker is away; the sweep will ring again for job %s", job_id)
                return
            try:
                self._publish(queue, job_id)
            except (OperationalError, RedisError, OSError) as error:
                logger.warning("the broker took no ring for job %s (%s); the sweep will ring again", job_id, error)
                # What is left of a broken connection would fail the next ring too; and while the broker is away, each
                # attempt takes seconds, for which every request would wait here.
                self._connection.release()
                self._connection = self._connection.clone()
                self._away_until = time.monotonic() + _LEAVE_ALONE_SECONDS

    def _publish(self, queue: str, job_id: str) -> None:
        task_id = str(uuid.uuid4())
        with self._connection.Producer() as producer:
            if producer.channel.queue_declare(queue=queue).message_count >= _RINGS_ENOUGH:
                # Workers that hear all these look by themselves for what waits.
                logger.debug("the queue %s is full of rings; none for job %s", queue, job_id)
                return
            producer.publish(
                [[job_id], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
                serializer="json",
                # The default exchange goes straight to the queue. A named one needs its binding in Redis, which kombu
                # writes once a process: after a flush every ring would be dropped without a word.
                exchange="",
                routing_key=queue,
                correlation_id=task_id,
                headers={
                    "lang": "py",
                    "task": TASK_NAME,
                    "id": task_id,
                    "root_id": task_id,
                    "parent_id": None,
                    "group": None,
                    "argsrepr": repr((job_id,)),
                    "kwargsrepr": "{}",
                },
                retry=False,
            )
