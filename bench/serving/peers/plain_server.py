"""FastAPI and uvicorn with a handler as a tutorial writes it: `python -m bench.serving.peers.plain_server`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, UploadFile

from bench.serving.peers import task
from bench.serving.peers.classifier import Answer, Classifier

_START_SECONDS = 120
"""A process that is still importing torch is not to be taken for a dead one."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.classifier = Classifier(task.given())
    yield


async def _predict(request: Request, file: UploadFile) -> Answer:
    classifier: Classifier = request.app.state.classifier
    return classifier.answer(await file.read())


def _predict_in_thread(request: Request, file: UploadFile) -> Answer:
    classifier: Classifier = request.app.state.classifier
    return classifier.answer(file.file.read())


def create() -> FastAPI:
    """The application of one process."""
    app = FastAPI(lifespan=_lifespan)
    in_threads = task.given().layout.variant == task.IN_THREADS
    app.post("/predict")(_predict_in_thread if in_threads else _predict)
    return app


if __name__ == "__main__":
    wanted = task.given()
    uvicorn.run(
        "bench.serving.peers.plain_server:create",
        factory=True,
        host="127.0.0.1",
        port=wanted.port,
        workers=wanted.layout.processes,
        log_level="warning",
        timeout_worker_healthcheck=_START_SECONDS,
    )
