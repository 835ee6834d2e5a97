"""Parameters of prediction routes as /docs shows them; the routes check them by hand."""

from typing import Any

Parameter = dict[str, Any]

REFERENCE: Parameter = {
    "name": "reference",
    "in": "path",
    "required": True,
    "description": "`name`, `name@version` or `name:alias`.",
    "schema": {"type": "string", "maxLength": 200, "examples": ["patterns"]},
}
MODEL: Parameter = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "Of a model.",
    "schema": {"type": "string", "maxLength": 200, "examples": ["patterns"]},
}
VERSION: Parameter = {
    "name": "number",
    "in": "path",
    "required": True,
    "description": "Of a version of the model.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "examples": [1]},
}
ALIAS: Parameter = {
    "name": "alias",
    "in": "path",
    "required": True,
    "description": "A movable name of a version.",
    "schema": {"type": "string", "maxLength": 63, "examples": ["production"]},
}
TIMEOUT: Parameter = {
    "name": "X-Request-Timeout",
    "in": "header",
    "required": False,
    "description": "Seconds that the answer may take; where it would take longer, that is told at once.",
    "schema": {"type": "number", "minimum": 0.001, "maximum": 3600},
}
HEADER_LENGTH: Parameter = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Bytes of JSON, where tensors follow it; 0 where the body is one image and nothing else.",
    "schema": {"type": "integer", "minimum": 0},
}
