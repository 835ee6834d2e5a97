"""What the API's description says besides its routes, for those who read it at `/docs`: what each group of routes is
for, in the order in which somebody new needs them, and values to try them with."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

TAGS: list[dict[str, Any]] = [
    {"name": "datasets", "description": "Labelled photos: upload archives with a folder for each class."},
    {"name": "jobs", "description": "Whatever takes a while, such as a training: start, follow, pause and cancel it."},
    {
        "name": "plans",
        "description": "What a training would do and why, and what was measured for it, without training.",
    },
    {"name": "models", "description": "What trainings have made: versions, how good they are, aliases, and runtimes."},
    {"name": "predictions", "description": "The labels of new photos."},
    {"name": "backbones", "description": "The networks that there are to start from, layer by layer if need be."},
    {"name": "rankings", "description": "Which backbone or model suits a data set best."},
    {"name": "experiments", "description": "Whether pre-training raised the final score, or only got there faster."},
    {"name": "open inference protocol", "description": "Predictions for clients of Triton and KServe (protocol V2)."},
    {"name": "tensorflow serving", "description": "Predictions for clients of TensorFlow Serving."},
    {"name": "operations", "description": "For whoever runs the service: is it well, and what has it counted."},
]
"""Of the OpenAPI document, in the order in which the page shows them."""


def complete(app: FastAPI) -> None:
    """Put values to try into the description, and let whoever only looks whether its pages are there do so by HEAD."""
    plain = app.openapi

    def completed() -> dict[str, Any]:
        document = plain()
        for operations in document["paths"].values():
            for operation in operations.values():
                for parameter in operation.get("parameters", []):
                    _show_value(parameter)
        return document

    app.openapi = completed  # type: ignore[method-assign]
    for route in app.routes:
        if isinstance(route, APIRoute) and not route.include_in_schema and route.methods == {"GET"}:
            route.methods = {"GET", "HEAD"}


def _show_value(parameter: dict[str, Any]) -> None:
    """The page fills in what a parameter has as its own example, but not the examples of its schema; filters it must
    leave empty."""
    if parameter["in"] == "path" and parameter["schema"].get("examples"):
        parameter["example"] = parameter["schema"]["examples"][0]
