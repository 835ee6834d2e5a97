"""What a search learns from its trials: which values to try next, and which training is not worth its end.

Each question is answered from the trials alone, by a study made anew for it: so a search that was interrupted asks what
an uninterrupted one would have asked.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from app.space import Numbers, Space, Values, Ways
from worker.training.trials import Trial

_RANDOM_TRIALS = 5
"""Before there is anything to learn from."""
_UNPRUNED_TRIALS = 3
_UNPRUNED_SHARE = 50
"""Hundredths of its epochs that every training gets: until the learning rate falls, the higher one looks worse."""


def proposal(space: Space, trials: Sequence[Trial], *, seed: Sequence[int]) -> Values:
    """Values to try after `trials`, by a tree-structured Parzen estimator (Bergstra et al. 2011)."""
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    study = _study(space, trials, TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=state))
    return study.ask(_distributions(space)).params


def is_hopeless(space: Space, trials: Sequence[Trial], values: Values, reported: Mapping[int, float]) -> bool:
    """Whether a training with `values`, which `reported` these losses after so many hundredths of its epochs, has done
    worse so far than half of `trials` at the same point (Golovin et al. 2017, median stopping)."""
    study = _study(space, trials, TPESampler(seed=0))
    study.enqueue_trial(dict(values))
    trial = study.ask(_distributions(space))
    for step in sorted(reported):
        trial.report(reported[step], step)
    return trial.should_prune()


def _study(space: Space, trials: Sequence[Trial], sampler: TPESampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_SHARE)
    study = optuna.create_study(direction="minimize", sampler=sampler, pruner=pruner)
    distributions = _distributions(space)
    for trial in trials:
        if trial.values is not None and trial.outcome not in ("out_of_time", "stopped"):
            study.add_trial(_frozen(trial, distributions))
    return study


def _frozen(trial: Trial, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    is_finished = trial.outcome == "finished"
    return optuna.create_trial(
        # One that failed reported nothing, which is taken for the worst.
        state=TrialState.COMPLETE if is_finished else TrialState.PRUNED,
        value=_learnt(trial) if is_finished else None,
        params=dict(trial.values or {}),
        distributions=dict(distributions),
        intermediate_values={} if trial.outcome == "failed" else dict(trial.reported),
    )


def _learnt(trial: Trial) -> float | None:
    """What the training came to, also where what was kept of it is the network before its first step: otherwise all
    bad trainings would look alike."""
    return trial.reported[max(trial.reported)] if trial.reported else trial.loss


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: _distribution(dimension) for name, dimension in space.dimensions.items()}


def _distribution(dimension: Numbers | Ways) -> BaseDistribution:
    if isinstance(dimension, Numbers):
        return FloatDistribution(dimension.low, dimension.high, log=True)
    return CategoricalDistribution(list(dimension.fields))
