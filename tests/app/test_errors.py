"""Errors that several callers are told of."""

import pytest

from app import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("no model 'm'", code="model_not_found").at("recipe.base"),
        errors.UnknownName("runtime", "trch", ["torch"]),
        errors.WeightsUnavailable("tinynet", ["a folder: it is empty"]),
        errors.Busy("10 images wait", detail={"images": 10}, retry_after_seconds=7.5),
    ],
)
def test_an_error_for_one_more_caller_says_the_same_and_was_never_raised(error: errors.GraftError) -> None:
    with pytest.raises(type(error)) as raised:
        raise error
    again = raised.value.anew()

    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert again.__traceback__ is None
    again.detail["image"] = 1
    assert "image" not in error.detail
