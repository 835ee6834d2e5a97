"""What a search gains in the time it is given: the plan's own defaults and what was kept, judged on further photos.

`python -m bench.search FOLDER` measures a photo set with a backbone, as a job with strategy `auto` does, searches for
`--seconds`, and prints the trials, the time that all took, and the accuracy of the first trial's classifier and of the
one that was kept on a test part (30 %) that neither training nor choice has seen.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.backbones import catalogue, weights
from app.limits import Search
from app.plan import Plan
from app.recipe import Recipe
from bench import photos, quality, trained
from bench.photos import Photos
from worker import analyse, searching
from worker.searching import SearchWork
from worker.training import trials
from worker.training.data import Splits
from worker.training.events import Emit, Event
from worker.training.rivals import Trained
from worker.training.searchevents import SearchEnded, TrialFinished


@dataclass(frozen=True)
class Found:
    """What a search came to; accuracies on the test part, 0-1."""

    seconds: float
    default: float
    kept: float
    ended: SearchEnded


class _Told:
    """Prints each trial as it ends."""

    def __init__(self) -> None:
        self.ended: SearchEnded | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialFinished):
            print("; ".join(_line(event)), flush=True)
        elif isinstance(event, SearchEnded):
            self.ended = event


def run(seen: Splits, test: Photos, recipe: Recipe, *, folder: Path, cache: Path) -> Found:
    """Measure, decide and search, as a job does; `folder` has the weights."""
    began = time.monotonic()
    backbone = catalogue.find(recipe.backbone)
    file = weights.obtain(backbone, weights_dir=folder, cache_dir=weights.default_cache_dir(), download=False)
    told = _Told()
    measured = analyse.measure(seen, backbone, file, feature_cache=cache, max_pixels=trained.MAX_PIXELS, emit=told)
    plan, facts = quality.plan_for(recipe, seen, backbone, measured), photos.facts(seen)

    def train(plan: Plan, workdir: Path, emit: Emit) -> Trained:
        return trained.train_in(workdir, seen, plan, backbone, file, cache=cache, emit=emit)

    work = SearchWork(recipe, plan, facts, backbone, file, measured.costs, began, cache)
    kept = searching.carry_out(work, seen, train, folder=cache / "search", emit=told)
    seconds = time.monotonic() - began
    first = trials.restore(cache / "search", trials.FIRST, seen)
    assert told.ended is not None
    return Found(seconds, trained.accuracy(first, test), trained.accuracy(kept, test), told.ended)


def _line(trial: TrialFinished) -> Iterator[str]:
    yield f"trial {trial.number} {trial.outcome} in {trial.seconds:.1f} s"
    if trial.loss is not None:
        yield f"log-loss {trial.loss:.4f}, accuracy {trial.accuracy:.1%}"
    yield ", ".join(f"{name} {value}" for name, value in trial.settings.items() if value is not None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("folder", type=Path, help="with weights/ and datasets/*.zip")
    parser.add_argument("--set", default="hymenoptera", dest="name")
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chosen = photos.read(arguments.folder / "datasets" / f"{arguments.name}.zip")
    seen, test = photos.splits(chosen, seed=arguments.seed)
    recipe = Recipe(
        backbone=arguments.backbone,
        strategy=arguments.strategy,
        seed=arguments.seed,
        search=Search(seconds=arguments.seconds),
    )
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as cache:
        found = run(seen, test, recipe, folder=arguments.folder / "weights", cache=Path(cache))
    print("\n".join(found.ended.reasons))
    print(
        f"{found.seconds:.1f} s of {arguments.seconds:g} ({found.seconds / arguments.seconds:.0%}); "
        f"{len(test)} test photos: defaults {found.default:.1%}, kept {found.kept:.1%}"
    )


if __name__ == "__main__":
    main()
