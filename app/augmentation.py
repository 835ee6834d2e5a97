"""How training images are changed: a part of a recipe."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from app.numbers import Number

AugmentationPolicy = Literal["none", "crop", "trivial", "rand"]

MIXED = ("mixup", "cutmix")
"""The changes of images that mix two of them."""

_STRENGTH = 0.3


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """How training images are changed from one epoch to the next."""

    policy: Annotated[
        AugmentationPolicy,
        Field(
            description="`none` shows every image as it is; `crop` a random part of it, mirrored every other time; "
            "`trivial` and `rand` change it in shape or colour besides (TrivialAugment, RandAugment)."
        ),
    ] = "crop"
    strength: Annotated[Number, Field(ge=0, le=1, description="Of the changes (`rand`).")] = _STRENGTH
    erasing: Annotated[Number, Field(ge=0, le=1, description="Share of images of which a part is blotted out.")] = 0.0
    mixup: Annotated[Number, Field(ge=0, le=10, description="Alpha of mixup; 0 for none.")] = 0.0
    cutmix: Annotated[Number, Field(ge=0, le=10, description="Alpha of CutMix; 0 for none.")] = 0.0

    @property
    def changes_images(self) -> bool:
        """Whether an image by itself ever looks otherwise than in serving; mixtures of two are another matter."""
        return self.policy != "none" or self.erasing > 0

    @property
    def contradiction(self) -> str | None:
        """Why the strength has nothing to act on; None where it has, or is the one of the default. No error, as plans
        of before may have one."""
        if self.policy == "rand" or self.strength == _STRENGTH:
            return None
        return f"only for policy 'rand', not for '{self.policy}'"
