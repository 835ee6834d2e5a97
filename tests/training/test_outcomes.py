"""What a training turned out to keep, in the words of its plan."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from app.recipe import Recipe
from tests.training.samples import Recorder
from tests.training.test_report import splits_of, trained
from tests.training.test_strategies import plan_for
from worker.training import evaluate, outcomes
from worker.training.events import (
    Emit,
    EpochKept,
    Event,
    FeaturesSelected,
    Progress,
    StageChosen,
    StageTried,
    StartKept,
    StoppedEarly,
    TrainingDiverged,
    WeightsMixed,
)
from worker.training.rivals import Trained

SPLITS = splits_of(40, 4)
TARGETS = SPLITS.validation.targets


def sure(said: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nearly all of the probability for each of the labels `said (N,)`."""
    found: NDArray[np.float64] = np.full((len(said), 4), 0.01)
    found[np.arange(len(said)), said] = 0.97
    return found


def carried_out(recipe: Recipe, told: Event, probabilities: NDArray[np.float64]) -> tuple[str, ...]:
    """The reasons that are added to the plan of a training by `recipe` that tells this."""
    plan = plan_for(SPLITS, recipe)
    made = replace(
        trained(SPLITS, count=40, classes=4),
        plan=plan,
        probabilities=probabilities,
        evaluation=evaluate.evaluate(probabilities, TARGETS, SPLITS.labels),
    )

    def carry_out(emit: Emit) -> Trained:
        emit(told)
        return made

    recorder = Recorder()
    found = outcomes.noted(carry_out, recorder, TARGETS)
    assert recorder.events == [told]
    assert found.plan.reasons[: len(plan.reasons)] == plan.reasons
    return found.plan.reasons[len(plan.reasons) :]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Progress("train", 1, 1), "Kept is the network after the last step."),
        (StartKept(0.25, 0.5), "Kept is the network with which the training began"),
        (WeightsMixed(0.75, 0.4, 0.3, 0.2), "75.0 % of the way from the network at the start"),
        (TrainingDiverged(epoch=3, kept_epoch=0), "diverged in epoch 3; kept is the network with which it began."),
        (
            TrainingDiverged(epoch=3, kept_epoch=2, is_mixed=True),
            "kept is a mixture of the network with which it began and the network after epoch 2.",
        ),
        (TrainingDiverged(epoch=3, kept_epoch=2), "diverged in epoch 3; kept is the network after epoch 2."),
    ],
)
def test_what_is_kept_of_trained_layers_is_said(told: Event, said: str) -> None:
    (reason,) = carried_out(Recipe(backbone="tinynet", strategy="full"), told, sure(TARGETS))
    assert said in reason


def test_how_far_a_training_has_come_is_not_held_until_its_end() -> None:
    made = trained(SPLITS, count=40, classes=4)
    first: list[weakref.ref[Progress]] = []

    def carry_out(emit: Emit) -> Trained:
        step = Progress("train", 1, 2)
        first.append(weakref.ref(step))
        emit(step)
        del step
        assert first[0]() is None
        return made

    outcomes.noted(carry_out, lambda _event: None, TARGETS)
    assert first


def test_with_patience_the_epoch_is_said() -> None:
    recipe = Recipe(backbone="tinynet", strategy="full", patience=2)
    (reason,) = carried_out(recipe, StoppedEarly(epoch=7, best_epoch=5), sure(TARGETS))
    assert reason == "The training ended early, with epoch 7; kept is the network after epoch 5."
    (reason,) = carried_out(recipe, EpochKept(5), sure(TARGETS))
    assert reason == "Kept is the network after epoch 5, which did best."
    (reason,) = carried_out(recipe, EpochKept(0), sure(TARGETS))
    assert reason == "Kept is the network with which it began, which did best."


def test_the_features_that_were_chosen_are_named() -> None:
    tried = (StageTried("stem", 8, 0.1, 0.5, 0.75), StageTried("stage1", 16, 0.1, 0.3, 0.9))
    recipe = Recipe(backbone="tinynet", strategy="stage_probe")
    (reason,) = carried_out(recipe, StageChosen("stage1", tried), sure(TARGETS))
    assert reason == "Stage stage1 did best, 90.0 % right in cross-validation; it sees that."
    (reason,) = carried_out(recipe, FeaturesSelected(9, {"stem": 2, "stage1": 7}, ()), sure(TARGETS))
    assert reason == "It sees 9 features: 2 of stem, 7 of stage1."


def test_a_classifier_that_guesses_is_told_of() -> None:
    recipe = Recipe(backbone="tinynet", strategy="scratch")
    (reason,) = carried_out(recipe, Progress("train", 1, 1), sure((TARGETS + 1) % 4))
    assert reason.startswith("It tells the validation images apart no better than a guess")
    assert carried_out(recipe, Progress("train", 1, 1), sure(TARGETS)) == ()


def test_a_classifier_that_may_be_guessing_is_told_of() -> None:
    said = np.where(np.arange(len(TARGETS)) < 15, TARGETS, (TARGETS + 1) % 4)  # 15 of 40, for four labels
    recipe = Recipe(backbone="tinynet", strategy="scratch")
    unsure = np.full((len(said), 4), 0.2)
    unsure[np.arange(len(said)), said] = 0.4
    (reason,) = carried_out(recipe, Progress("train", 1, 1), unsure)
    assert reason.startswith("It is not shown to do better than guessing")
