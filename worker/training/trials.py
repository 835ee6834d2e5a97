"""The trials of a search on disk: what each came to, and the classifiers that may be what is kept in the end.

A JSON file says what there is, and is written last and in one step; what it names is never changed. So a search that
ends at any moment leaves the state before or after, and the next attempt goes on with it.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from app.backbones import classifier as classifiers
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import Outlet
from app.plan import Plan
from app.profile import Costs
from app.space import Values
from worker.training import checkpoint, evaluate
from worker.training.data import Splits
from worker.training.rivals import Trained

logger = logging.getLogger(__name__)

Outcome = Literal["finished", "pruned", "out_of_time", "stopped", "failed"]

FIRST = 1
"""The number of the trial that is the plan as it would be without a search."""

_INDEX = "search.json"
_TRIES = 5
_STATE = "state."
_ANSWERS = ("probabilities", "similarities", "means")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training that has ended."""

    number: int
    """From 1."""
    values: Values | None
    """Of the space that is searched; None where it is not among what that offers."""
    settings: dict[str, Any]
    outcome: Outcome
    loss: float | None
    """On the validation images, in nats, at its best temperature."""
    accuracy: float | None
    reported: dict[int, float]
    """That loss after so many hundredths of its epochs."""
    epochs: int
    seconds: float
    is_cut: bool = False
    """Whether it was ended before its last epoch, with what it had."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """One that has not."""

    number: int
    values: Values | None
    reported: dict[int, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    begun: int = 0
    """How often, without an end or an interruption that all processes of the training have lived to see."""
    is_cut: bool = False
    """Whether it was ended before its last epoch, with what it had."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a search stands."""

    fingerprint: str
    """Of all that its trials depend on."""
    costs: Costs | None
    """By which the first attempt made its plans; the next ones make the same."""
    seconds: float = 0.0
    """That it has taken, pauses apart."""
    trials: tuple[Trial, ...] = ()
    running: Running | None = None

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.outcome == "finished"]

    @property
    def best(self) -> Trial | None:
        """The one with the smallest loss; the earlier one where two have the same."""
        return min(self.finished, key=_loss, default=None)


_FORM = TypeAdapter(State)
_PLAN = TypeAdapter(Plan)


def load(folder: Path) -> State | None:
    """The state of `folder`; None where there is none or it is damaged."""
    try:
        state = _FORM.validate_json((folder / _INDEX).read_bytes())
        for name in _names(state):
            with safetensors.safe_open(folder / name, framework="pt"):
                pass
    except (OSError, ValidationError, safetensors.SafetensorError):
        return None
    return state


def save(folder: Path, state: State) -> None:
    """Make `state` that of `folder`, where all is kept that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write(folder / _INDEX, _FORM.dump_json(state))
    names = _names(state)
    for path in folder.glob("*.safetensors*"):
        if path.name not in names:
            path.unlink()


def keep(folder: Path, number: int, trained: Trained, targets: NDArray[np.int64]) -> None:
    """Keep what came of a trial, for a state that names it as finished."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_STATE}{name}": value for name, value in trained.classifier.state().items()}
    tensors |= {name: torch.from_numpy(getattr(trained, name)) for name in _ANSWERS}
    facts = {
        "plan": _PLAN.dump_json(trained.plan).decode(),
        "preprocessing": json.dumps(trained.preprocessing.to_json()),
        "outlet": json.dumps(asdict(trained.classifier.outlet)),
    }
    losses = torch.from_numpy(evaluate.tempered_losses(trained.probabilities, targets))
    checkpoint.write(folder / _losses(number), safetensors.torch.save({"losses": losses}))
    checkpoint.write(folder / _classifier(number), safetensors.torch.save(_contiguous(tensors), facts))


def restore(folder: Path, number: int, splits: Splits) -> Trained:
    """What came of the first trial, or of the best one."""
    with safetensors.safe_open(folder / _classifier(number), framework="pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    plan = _PLAN.validate_json(facts["plan"])
    outlet = json.loads(facts["outlet"])
    probabilities, similarities, means = (tensors.pop(name).numpy() for name in _ANSWERS)
    return Trained(
        classifier=classifiers.restore(
            plan.backbone,
            len(splits.labels),
            Preprocessing.from_json(json.loads(facts["preprocessing"])),
            {name.removeprefix(_STATE): value for name, value in tensors.items()},
            outlet=Outlet(stage=outlet["stage"], taps=tuple(outlet["taps"])),
        ),
        evaluation=evaluate.evaluate(probabilities, splits.validation.targets, splits.labels),
        probabilities=probabilities,
        similarities=similarities,
        means=means,
        plan=plan,
    )


def losses(folder: Path, trials: Iterable[Trial]) -> NDArray[np.float64]:
    """Of each of these finished trials and each validation image `(M, N)`."""
    return np.stack([safetensors.torch.load_file(folder / _losses(trial.number))["losses"] for trial in trials])


def workdir(folder: Path, number: int) -> Path:
    """Where a trial's own checkpoints are."""
    return folder / f"trial-{number:04}"


def take_over(folder: Path, others: Iterable[Path]) -> None:
    """Make the furthest state among `others` that of the new folder `folder`, too, with the checkpoints of the trial
    that was running; nothing where they have none.

    Whoever wrote them may still be at it, so their files may go while this looks at them, but never change.
    """
    others = list(others)
    for other in sorted(others, key=reach, reverse=True):
        for _ in range(_TRIES):
            try:
                state = _link(other, folder)
            except FileNotFoundError:
                continue  # a newer state took the place of the one that was read about
            except (OSError, ValidationError) as error:
                logger.warning("the search of %s cannot be gone on with: %s", other, error)
                break
            if state.running is not None:
                number = state.running.number
                checkpoint.take_over(workdir(folder, number), [workdir(one, number) for one in others])
            return


def reach(folder: Path) -> tuple[int, ...]:
    """How many trials the state of `folder` has behind it, and what of the one that runs; less than of any other where
    there is no state."""
    try:
        state = _FORM.validate_json((folder / _INDEX).read_bytes())
    except (OSError, ValidationError):
        return (-1,)
    if state.running is None:
        return (len(state.trials),)
    return len(state.trials), state.running.epochs, *checkpoint.reach(workdir(folder, state.running.number))


def _link(source: Path, folder: Path) -> State:
    index = (source / _INDEX).read_bytes()
    state = _FORM.validate_json(index)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _names(state):
        checkpoint.hand_on(source / name, folder / name)
    checkpoint.write(folder / _INDEX, index)
    return state


def _names(state: State) -> set[str]:
    """The files that the state needs: of the first trial and the best one the classifiers, of all the losses."""
    best = state.best
    kept = {trial.number for trial in state.finished if trial.number == FIRST or trial is best}
    return {*map(_classifier, kept), *(_losses(trial.number) for trial in state.finished)}


def _loss(trial: Trial) -> float:
    assert trial.loss is not None
    return trial.loss


def _losses(number: int) -> str:
    return f"losses-{number:04}.safetensors"


def _classifier(number: int) -> str:
    return f"trial-{number:04}.safetensors"


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu().contiguous() for name, value in tensors.items()}
