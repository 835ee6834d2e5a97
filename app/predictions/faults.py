"""What is said where a runtime fails: there was too little memory, which passes, or what failed cannot go on."""

from app import errors


def no_memory() -> errors.Overloaded:
    """What is said of that, since others on the same machine come and go."""
    return errors.Overloaded("there is too little memory for this now; try again in a moment")


def failed(what: str) -> errors.Unavailable:
    """What is said of `what` a runtime failed in, otherwise than for want of memory."""
    return errors.Unavailable(
        f"{what} failed, and the model has to be loaded anew; try again in a moment", code="runtime_unavailable"
    )
