"""The HTTP application, put together from its parts."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from app import description, doorbell, errors, labels, logs, operations, problems
from app.arrivals import Arrivals
from app.backbones import anatomy_routes
from app.backbones import routes as backbones
from app.dashboard import routes as dashboard
from app.datasets import routes as datasets
from app.db import Database
from app.deps import Parts, refuse_nul, refuse_unknown_parameters
from app.doorbell import Doorbell
from app.endings import Ending
from app.experiments import routes as experiments
from app.jobs import dataset_routes, imports, optimisations, removal_routes, runtime_routes
from app.jobs import routes as jobs
from app.metrics import Metrics
from app.models import alias_routes, download_routes, evaluation_routes, serving
from app.models import routes as models
from app.models.directory import Directory
from app.models.serving import Process
from app.plans import routes as plans
from app.predictions import desk, tfserving, v2
from app.predictions import routes as predictions
from app.predictions.protocol_schemas import InferBody, ServingBody
from app.predictions.schemas import PredictBody
from app.rankings import routes as rankings
from app.runtimes import devices
from app.settings import Settings, from_environment
from app.storage import Storage

VERSION = "0.1.0"
_DESCRIPTION = """Labelled photos in, a served image classifier out.

1. `POST /v1/datasets`, then upload an archive with a folder per class to `/v1/datasets/{id}/imports`.
2. `POST /v1/jobs` fine-tunes a backbone on it, or ranks several; follow `/v1/jobs/{id}/events`.
3. `POST /v1/models/{name}/predict` labels new photos.

Whatever goes wrong is answered with a problem document (RFC 9457), whose `code` is stable.
"""

_PREDICTING = (predictions.router, v2.probes, v2.router, tfserving.router, operations.router)
_ROUTERS = (
    *_PREDICTING,  # routes are tried in this order, and predictions are in a hurry
    datasets.router,
    dataset_routes.router,
    removal_routes.of_datasets,
    imports.router,
    plans.router,
    rankings.router,
    jobs.router,
    anatomy_routes.router,  # first, or its pictures would be taken for names of backbones
    backbones.router,
    labels.router,
    experiments.router,
    models.router,
    alias_routes.router,
    evaluation_routes.router,
    runtime_routes.router,
    download_routes.router,
    optimisations.router,
    removal_routes.router,
    dashboard.router,
)


def create() -> FastAPI:
    """The application of an API process of its own, which does everything."""
    settings = from_environment()
    logs.configure(settings.log_level, process="api")
    return assemble(settings, doorbell.connect(settings))


def create_api() -> FastAPI:
    """The same, where predictions are asked of processes of their own: it keeps no models in memory for them, and
    answers those that it is asked for all the same."""
    settings = from_environment()
    logs.configure(settings.log_level, process="api")
    return assemble(settings, doorbell.connect(settings), keeps_loaded=False)


def create_predict() -> FastAPI:
    """The part of it that answers predictions, for processes that do nothing else. It does not listen before it has
    what it keeps in memory, unless that takes long: others answer meanwhile."""
    settings = from_environment()
    logs.configure(settings.log_level, process="predict")
    return assemble(settings, doorbell.connect(settings), routers=_PREDICTING, warm_seconds=desk.WARM_SECONDS)


def assemble(
    settings: Settings,
    bell: Doorbell,
    *,
    routers: Sequence[APIRouter] = _ROUTERS,
    keeps_loaded: bool = True,
    warm_seconds: float | None = None,
) -> FastAPI:
    """The application over the given settings, with nothing opened until it is started; with all its routers, or those
    given. `keeps_loaded`: whether the versions that aliases keep loaded are so in this process; `warm_seconds`: for
    how long its start waits for them, where it does."""
    app = build(routers)
    equip(app, settings, bell, keeps_loaded=keeps_loaded, warm_seconds=warm_seconds)
    return app


def build(routers: Sequence[APIRouter] = _ROUTERS) -> FastAPI:
    """The application with these routers, whatever its settings are, which `equip` gives it."""
    app: FastAPI = FastAPIOffline(
        title="Graft",
        version=VERSION,
        description=_DESCRIPTION,
        redoc_url=None,  # which fetches a picture from elsewhere
        openapi_tags=description.TAGS,
        lifespan=_lifespan,
        dependencies=[Depends(refuse_nul), Depends(refuse_unknown_parameters)],
        responses=problems.responses(422),
        separate_input_output_schemas=False,
    )
    problems.install(app)
    for router in routers:
        app.include_router(router)
    app.add_api_route("/", _home, include_in_schema=False)
    _complete_description(app)
    description.complete(app)
    return app


def equip(
    app: FastAPI,
    settings: Settings,
    bell: Doorbell,
    *,
    keeps_loaded: bool = True,
    warm_seconds: float | None = None,
) -> None:
    """Let `app` be over these settings when it is started next."""
    serving.process_pins(settings)  # names that nothing has end it here
    app.state.settings = settings
    app.state.start = Ending()
    app.state.arrivals = Arrivals(max_seconds=settings.predict_body_seconds)
    app.state.answers = Ending()
    app.state.doorbell = bell
    app.state.keeps_loaded = keeps_loaded
    app.state.warm_seconds = warm_seconds


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    devices.compute_in(settings.threads)
    devices.compute_exactly()
    storage = Storage(settings.data_dir)
    database = Database(settings.sqlalchemy_url)
    app.state.parts = Parts(settings, database, storage, app.state.doorbell)
    app.state.anatomies = anatomy_routes.workshop()
    device = devices.take(storage.devices()) if app.state.keeps_loaded else devices.shared()
    app.state.directory = Directory(
        database, poll_seconds=settings.registry_seconds, process=Process(device.kind, serving.process_pins(settings))
    )
    app.state.metrics = Metrics()
    app.state.desk = desk.assemble(
        app.state.parts, app.state.directory, app.state.metrics, device.name, keeps_loaded=app.state.keeps_loaded
    )
    await run_sync(app.state.directory.start)
    try:
        if app.state.warm_seconds is not None:
            with suppress(errors.Overloaded):  # where it is to stop
                async with app.state.start.unless_stopped():
                    await app.state.desk.warm_up(app.state.warm_seconds)
        yield
    finally:
        # First who would have more loaded; and not in the event loop, which has answers to write.
        await run_sync(app.state.directory.close)
        await run_sync(app.state.desk.close)
        device.release()
        database.close()


async def _home() -> RedirectResponse:
    return RedirectResponse("/docs")


def _complete_description(app: FastAPI) -> None:
    """Put into the OpenAPI document what FastAPI cannot see: problem documents, also in place of its own form of a
    422, and bodies that routes read themselves."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        document = plain()
        schemas: dict[str, Any] = document["components"]["schemas"]
        if problems.Problem.__name__ not in schemas:
            for model in (problems.Problem, PredictBody, InferBody, ServingBody):
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
        return document

    app.openapi = described  # type: ignore[method-assign]
