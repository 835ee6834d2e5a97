"""Profiles as a policy is told of them, made up."""

from collections.abc import Sequence

from app.profile import HEAD, Costs, CurvePoint, Depth, Probe, Profile

COSTS = Costs(decode=0.002, forward=0.01, step=0.03, device="cpu", threads=2)


def probe(accuracy: float, *, error: float = 0.01) -> Probe:
    return Probe(accuracy=accuracy, log_loss=2 * (1 - accuracy), error=error)


def depths(accuracies: Sequence[float], *, error: float = 0.01) -> tuple[Depth, ...]:
    """Stages of these accuracies; the last one is the head's, and the last stage has it, too."""
    names = [*(f"stage{place}" for place in range(1, len(accuracies))), HEAD]
    return tuple(
        Depth(
            name=name,
            features=64,
            probe=probe(accuracy, error=error),
            log_me=accuracy,
            h_score=accuracy,
            neighbours=accuracy,
        )
        for name, accuracy in zip(names, accuracies, strict=True)
    )


def profile(
    *,
    images: int,
    classes: int = 5,
    stages: Sequence[float] = (0.4, 0.6, 0.8, 0.9, 0.9),
    random: float = 0.45,
    together: float | None = None,
    gain: float = 0.03,
    error: float = 0.01,
) -> Profile:
    """What a policy would be told; `gain` is what the last doubling of the images gave."""
    top = stages[-1]
    return Profile(
        backbone="resnet18",
        weights="IMAGENET1K_V1",
        weights_sha256="0" * 64,
        classes=classes,
        images=images,
        smallest_class=images // classes,
        largest_class=images // classes,
        measured=images,
        depths=depths(stages, error=error),
        together=probe(top if together is None else together, error=error),
        curve=(
            CurvePoint(images=images // 2, probe=probe(top - gain, error=error)),
            CurvePoint(images=images, probe=probe(top, error=error)),
        ),
        random=depths([random] * len(stages), error=error),
        random_images=min(images, 512),
        reference=() if images <= 512 else depths(stages, error=error),
        costs=COSTS,
    )
