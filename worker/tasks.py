"""The worker of the distributed mode: a Celery application whose one task runs the job it is told of.

Started by `celery --app worker.tasks worker --pool threads --concurrency 1 --queues cpu,gpu`.
"""

import logging
from typing import Any

from celery import Celery, bootsteps

from app import doorbell, logs
from app.doorbell import BROKER_OPTIONS, TASK_NAME
from app.settings import from_environment
from worker import station

logger = logging.getLogger(__name__)

# Celery asks for its application by the name of a module, so this entry point is made when it is imported.
settings = from_environment()
app = Celery("graft", broker=settings.broker_url)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options=BROKER_OPTIONS,
    task_acks_late=False,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    # Celery's stand-in for standard error swallows what our own handler writes there.
    worker_redirect_stdouts=False,
)


class StationStep(bootsteps.StartStopStep):
    """Starts the station with the Celery worker, and stops it first, so that a warm shutdown need not wait for jobs."""

    requires = {"celery.worker.components:Pool"}

    def start(self, worker: Any) -> None:
        logs.configure(settings.log_level, process="worker")
        app.queues = sorted(worker.app.amqp.queues.consume_from)
        app.station = station.build(settings, doorbell.connect(settings), app.queues)
        app.station.start()

    def stop(self, worker: Any) -> None:
        app.station.stop()


app.steps["worker"].add(StationStep)


@app.task(name=TASK_NAME, bind=True)
def run_job(self: Any, job_id: str) -> None:
    """Run the job unless another worker has it or it has ended, and then whatever waits: rings may have been lost."""
    if self.app.station.run(job_id, self.app.queues):
        while self.app.station.run_next(self.app.queues):
            pass
