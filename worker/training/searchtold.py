"""What a search tells of its trials, and what it came to in words for the plan of what is kept."""

from collections import Counter
from collections.abc import Iterator

from app.wording import counted, percent
from worker.training.searchevents import SearchEnded, TrialFinished
from worker.training.trials import FIRST, Outcome, State, Trial


def finished(trial: Trial) -> TrialFinished:
    """The event that says how it ended."""
    return TrialFinished(
        number=trial.number,
        outcome=trial.outcome,
        settings=trial.settings,
        loss=trial.loss,
        accuracy=trial.accuracy,
        seconds=trial.seconds,
        epochs=trial.epochs,
    )


def told(ended: SearchEnded, state: State, best: Trial, *, images: int) -> Iterator[str]:
    """The sentences on a search that has `ended` in `state`, whose `best` trial was judged by so many images."""
    if ended.trials == 1:
        (first,) = state.trials
        cut = f", cut short after {counted(first.epochs, 'epoch')}" if first.is_cut else ""
        yield (
            f"A search of {ended.seconds:.0f} s ended after the first training, the one as planned{cut}: "
            f"{ended.reason}."
        )
        return
    counts = Counter(trial.outcome for trial in state.trials)
    others = [f"{counts[outcome]} {said}" for outcome, said in _OUTCOMES.items() if counts[outcome]]
    yield (
        f"A search of {ended.seconds:.0f} s tried {ended.trials} trainings, the first one as planned "
        f"({', '.join(others)}), and ended as {ended.reason}."
    )
    figures = f"log-loss {ended.best_loss:.3f} nats and {percent(ended.best_accuracy)} right"
    did = f"trial {ended.best} ({_described(best)}), {figures}"
    if ended.default_loss is None or ended.default_accuracy is None:
        yield f"The training as planned failed; kept is the best, {did} on {images} validation images."
    elif ended.chance is None:
        yield f"None did better than the first on {images} validation images, so that is kept."
    else:
        against = f"against {ended.default_loss:.3f} and {percent(ended.default_accuracy)} of the first"
        odds = f"by chance alone the best of so many would gain as much with a probability of {ended.chance:.2g}"
        kept = "The first is kept, as the gain is no proof: " if ended.kept == FIRST else "Kept is the best: "
        yield f"{kept}{did} {against} on {images} validation images; {odds}."
    if ended.kept != FIRST:
        yield (
            f"These figures are those of the best of {ended.finished} on the images it was chosen by, and so promise a "
            "little too much."
        )


_OUTCOMES: dict[Outcome, str] = {
    "finished": "finished",
    "pruned": "ended early as hopeless",
    "out_of_time": "stopped by the clock",
    "stopped": "stopped on demand",
    "failed": "failed",
}


def _described(trial: Trial) -> str:
    given = {name: value for name, value in trial.settings.items() if value is not None}
    augmentation = given.pop("augmentation", None)
    parts = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in given.items()]
    if augmentation is not None:
        erasing = f" with erasing {augmentation['erasing']:g}" if augmentation["erasing"] else ""
        parts.append(f"augmentation {augmentation['policy']}{erasing}")
    return ", ".join(parts)
