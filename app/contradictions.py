"""Fields that do not go together, said of each by its path."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def refuse(fields: dict[str, tuple[Any, str]]) -> None:
    """From a validator: say of each of `fields`, by its path, what is wrong with its value; of none, nothing."""
    if not fields:
        return
    raise ValidationError.from_exception_data(
        "Recipe",
        [
            InitErrorDetails(
                type=PydanticCustomError("contradiction", "{said}", {"said": said}),
                loc=tuple(path.split(".")),
                input=value,
            )
            for path, (value, said) in fields.items()
        ],
    )
