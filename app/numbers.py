"""Numbers and flags of JSON bodies, for what people send: of JSON's own types, as the API's description says.

Pydantic by itself takes `true` for 1, and `"10"` for 10: mistakes that would train something that nobody asked for.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, StrictBool
from pydantic_core import PydanticKnownError

__all__ = ("Flag", "Integer", "Number")

Flag = StrictBool


def _no_integer(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticKnownError("int_type")
    return value


def _no_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticKnownError("float_type")
    return value


Integer = Annotated[int, BeforeValidator(_no_integer)]
"""`10.0` is one, too, as JSON knows no difference."""
Number = Annotated[float, BeforeValidator(_no_number)]
