"""Whether `auto` decides well: every strategy run on every photo set with every backbone, beside what `auto` chose.

`python -m bench.quality FOLDER` prints the accuracy on a test part that no training has seen, and the time of each. A
run that was stopped goes on where it was: what is done stands in `--results`, a line of JSON each. Gives 1 where `auto`
misses another strategy by more than it may, or where fewer than nine of ten estimates of the time were right.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from app import estimates, planning
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.plan import Plan
from app.profile import Profile
from app.recipe import Recipe
from app.runtimes import memory
from bench import photos, trained
from bench import results as records
from bench.photos import PhotoSet
from worker import analyse
from worker.training.data import Splits

BACKBONES = ("formnet", "squeezenet1_1", "mobilenet_v2")
SETS = ("hymenoptera", "textures10", "sign_digits", "flowers5")
STRATEGIES: dict[str, dict[str, str]] = {
    "auto": {"strategy": "auto"},
    "head": {"strategy": "head"},
    "stage_probe best": {"strategy": "stage_probe", "stage": "best"},
    "stage_probe all": {"strategy": "stage_probe", "stage": "all"},
    "top": {"strategy": "top"},
    "full": {"strategy": "full"},
    "scratch": {"strategy": "scratch"},
}
"""What `auto` decides on by itself, and what it is to be compared with."""

LIMIT, HEAD_LIMIT = 1.0, 0.5
"""Points by which `auto` may miss the best of the others, and `head`, in the mean over the seeds that both have."""

RIGHT_SHARE, FACTOR = 0.9, 1.5
"""Of the estimates of the time, how many are to be right, and by what factor one may be off that is."""
FLOOR_SECONDS = 2.0
"""Less, told or taken, counts as so much: trainings that are over at once are changed by more than the factor by what
else the machine does."""

_PROFILE = TypeAdapter(Profile)


@dataclass(frozen=True)
class Run:
    """One training."""

    dataset: str
    backbone: str
    strategy: str
    seed: int


@dataclass(frozen=True)
class Found:
    """What came of it."""

    test: float
    """Accuracy on the test part, 0-1."""
    validation: float
    measuring: float
    """Seconds until it was decided how to train."""
    seconds: float
    """Of the training itself."""
    kept: str
    """The strategy of the classifier that was kept."""
    estimate: float | None
    """Seconds that the training itself was to take, where there was something to go by."""


def carry_out(run: Run, chosen: PhotoSet, *, fields: dict[str, str], cache: Path, folder: Path) -> Found:
    """Train, and judge by the test part. What is measured first counts for the time of `auto` alone, and for the
    estimates not at all."""
    backbone = catalogue.find(run.backbone)
    seen, test = photos.splits(chosen, seed=run.seed)
    recipe = Recipe(backbone=run.backbone, seed=run.seed, **fields)  # type: ignore[arg-type]
    file = None
    if not recipe.from_random:
        file = weights.obtain(backbone, weights_dir=folder, cache_dir=weights.default_cache_dir(), download=False)
    began = time.perf_counter()
    measured = _profile(run, seen, backbone, file, cache)
    started = time.perf_counter()
    plan = plan_for(recipe, seen, backbone, measured)
    made = trained.train(seen, plan, backbone, file, cache=cache)
    seconds = time.perf_counter() - started
    right = trained.accuracy(made, test)
    around = estimates.around(photos.facts(seen))
    estimate = None if plan.estimate is None else round(plan.estimate.seconds - around, 1)
    measuring = started - began if recipe.strategy == "auto" else 0.0
    return Found(
        test=right,
        validation=made.evaluation.accuracy,
        measuring=round(measuring, 1),
        seconds=round(seconds, 1),
        kept=made.plan.strategy,
        estimate=estimate,
    )


def _profile(run: Run, seen: Splits, backbone: Backbone, file: WeightsFile | None, cache: Path) -> Profile | None:
    """What was measured of this set with this backbone, measured now if `auto` comes first."""
    if file is None:
        return None
    kept = cache / f"{run.dataset}-{run.backbone}-{run.seed}.json"
    if kept.is_file():
        return _PROFILE.validate_json(kept.read_bytes())
    memory.keep_freed()  # as the process of a job does, whose steps are timed
    measured = analyse.measure(
        seen, backbone, file, feature_cache=cache, max_pixels=trained.MAX_PIXELS, emit=trained.say_nothing
    )
    kept.write_bytes(_PROFILE.dump_json(measured))
    return measured


def plan_for(recipe: Recipe, seen: Splits, backbone: Backbone, measured: Profile | None) -> Plan:
    plan = planning.plan(recipe, photos.facts(seen), backbone, measured)
    assert plan is not None  # what decides itself was measured
    return plan


def table(results: list[tuple[Run, Found]]) -> Iterator[str]:
    """Markdown: the mean accuracy in % over the seeds, and the mean seconds."""
    cells: dict[tuple[str, str], dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for run, found in results:
        cells[run.dataset, run.backbone][run.strategy].append(found)
    columns = list(dict.fromkeys(run.strategy for run, _ in results))
    yield "| images | backbone | " + " | ".join(columns) + " |"
    yield "|---|---|" + "--:|" * len(columns)
    for (dataset, backbone), row in cells.items():
        told = [_cell(row[column]) if column in row else "" for column in columns]
        yield f"| {dataset} | {backbone} | " + " | ".join(told) + " |"


def _cell(found: list[Found]) -> str:
    accuracy = 100 * np.mean([one.test for one in found])
    return f"{accuracy:.1f} ({np.mean([one.measuring + one.seconds for one in found]):.0f} s)"


@dataclass(frozen=True)
class Miss:
    """By how much `auto` is worse than what does best beside it, on a photo set with a backbone."""

    dataset: str
    backbone: str
    by: str
    """The strategy that it misses most."""
    points: float
    """Of accuracy; negative where it is better than all."""
    of_head: float | None
    """By which it misses `head`."""
    seeds: int

    @property
    def holds(self) -> bool:
        return self.points <= LIMIT and (self.of_head is None or self.of_head <= HEAD_LIMIT)

    def line(self) -> str:
        of_head = "" if self.of_head is None else f", head by {self.of_head:+.1f} (at most {HEAD_LIMIT})"
        return (
            f"{self.dataset}, {self.backbone}: auto misses {self.by} by {self.points:+.1f} points (at most {LIMIT})"
            f"{of_head}, seeds: {self.seeds}. {'yes' if self.holds else 'NO'}"
        )


def misses(results: list[tuple[Run, Found]]) -> Iterator[Miss]:
    """For each photo set and backbone that `auto` and other strategies were run on with the same seeds."""
    tests: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for run, found in results:
        tests[run.dataset, run.backbone][run.strategy][run.seed] = found.test
    for (dataset, backbone), of in tests.items():
        auto = of.pop("auto", {})
        missed = {
            strategy: 100 * float(np.mean([right - auto[seed] for seed, right in by_seed.items() if seed in auto]))
            for strategy, by_seed in of.items()
            if by_seed.keys() & auto.keys()
        }
        if missed:
            worst = max(missed, key=lambda strategy: missed[strategy])
            yield Miss(dataset, backbone, worst, missed[worst], missed.get("head"), len(auto.keys() & of[worst].keys()))


@dataclass(frozen=True)
class Estimates:
    """How many of the trainings took what they were to take."""

    right: int
    trainings: int

    @property
    def holds(self) -> bool:
        return self.right >= RIGHT_SHARE * self.trainings

    def line(self) -> str:
        least = f"{FLOOR_SECONDS:g}"
        return (
            f"{self.right} of {self.trainings} estimates of the time of a training were right within a factor of "
            f"{FACTOR} (at least {RIGHT_SHARE:.0%}), where less than {least} seconds, told or taken, count as {least}. "
            f"{'yes' if self.holds else 'NO'}"
        )


def true_estimates(results: list[tuple[Run, Found]]) -> Estimates:
    """Of the runs that an estimate was made for."""
    told = [(found.estimate, found.seconds) for _, found in results if found.estimate is not None]
    counted = [(max(said, FLOOR_SECONDS), max(took, FLOOR_SECONDS)) for said, took in told]
    return Estimates(right=sum(took / FACTOR <= said <= FACTOR * took for said, took in counted), trainings=len(told))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("folder", type=Path, help="with weights/ and datasets/*.zip")
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    results = list(records.read(arguments.results, Run, Found))
    known = {run for run, _ in results}
    for backbone in arguments.backbones:
        for name in arguments.sets:
            chosen = photos.read(arguments.folder / "datasets" / f"{name}.zip")
            for seed in arguments.seeds:
                for strategy in arguments.strategies:
                    run = Run(name, backbone, strategy, seed)
                    if run in known:
                        continue
                    found = carry_out(
                        run,
                        chosen,
                        fields=STRATEGIES[strategy],
                        cache=arguments.results.with_suffix(".features"),
                        folder=arguments.folder / "weights",
                    )
                    results.append((run, found))
                    records.append(arguments.results, run, found)
    print("\n".join(table(results)))
    checks: list[Miss | Estimates] = [true_estimates(results), *misses(results)]
    for check in checks:
        print(check.line())
    return 0 if all(check.holds for check in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
