"""What labels lose when a model of three flowers is extended to five, in another order.

`python -m bench.warmstart FOLDER` trains on three labels, starts from that for all five, and prints what the three lose
on a test part that no training has seen: `same`, where the version holds the photos that the base was made from,
`few`, where it has twenty others of each old label, and `few with replay`. Beside them stands `cold`, a model of the
same photos as `same` that starts from no base: what it does worse for the three is the price of more labels, which
no way to start can spare. A run that was stopped goes on where it was: what is done stands in `--results`, a line of
JSON each.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app import warm as plans
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.plan import Plan
from app.recipe import Recipe, Wish
from app.warmstart import WarmStart, match
from bench import photos, quality, trained
from bench import results as records
from bench.photos import Photos, PhotoSet
from worker import analyse
from worker.training import retention
from worker.training.data import Images, Splits
from worker.training.retention import Pair
from worker.training.rivals import Trained
from worker.training.warm import Base

OLD = 3
"""Labels that the base knows."""
FEW = 25
"""Photos of each old label that the base does not get, a fifth of them to validate with."""
COLD = "cold"
CASES = ("same", "few", "few with replay", COLD)


@dataclass(frozen=True)
class Run:
    """A base, and what was made of it in one of the `CASES`."""

    backbone: str
    strategy: str
    seed: int
    case: str


@dataclass(frozen=True)
class Found:
    """What came of it; accuracies 0-1, losses in points."""

    base: float
    """The base on test photos of its labels."""
    lost: float
    """From there to the new model on the same photos, among all five labels."""
    forgotten: float
    """... among the three."""
    right: float
    """The new model on test photos of all five."""
    reported: float | None
    """`lost` as the record of the training has it, which a model without a base has not."""
    is_warned_of: bool


@dataclass(frozen=True)
class Parts:
    """The photos of one seed, whose targets are places in `labels`."""

    labels: tuple[str, ...]
    """Of all five, those that the base knows first."""
    base: Splits
    others: Splits
    """Of the labels of the base, photos that it does not get."""
    fresh: Splits
    """Of the other labels."""
    test: Photos


def divide(chosen: PhotoSet, *, seed: int) -> Parts:
    """The photos of `chosen`, with labels drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(len(chosen.labels))
    labels = tuple(chosen.labels[place] for place in order)
    seen, test = photos.divide(_named(chosen.photos, chosen.labels, labels), share=0.3, seed=seed)
    old, fresh = seen.at(np.flatnonzero(seen.targets < OLD)), seen.at(np.flatnonzero(seen.targets >= OLD))
    kept, others = photos.divide(old, share=FEW * OLD / len(old), seed=seed)
    base, *more = (_split(part, labels, seed=seed) for part in (kept, others, fresh))
    return Parts(labels, Splits(labels[:OLD], base.train, base.validation), more[0], more[1], test)


def _split(part: Photos, labels: tuple[str, ...], *, seed: int) -> Splits:
    train, validation = photos.divide(part, share=0.2, seed=seed)
    return Splits(labels, train, validation)


def _named(part: Photos, before: tuple[str, ...], after: tuple[str, ...]) -> Photos:
    """`part` with the places that its labels have `after`."""
    places = np.array([after.index(label) if label in after else -1 for label in before], np.int64)
    return Photos(part.files, places[part.targets], part.sha256)


def version(parts: Parts, case: str) -> Splits:
    """All five labels, the new ones first and in reverse, with the old ones' photos of this case."""
    labels = parts.labels[::-1]
    old = parts.base if case in ("same", COLD) else parts.others

    def both(one: Images, other: Images) -> Photos:
        targets = np.concatenate([one.targets, other.targets])
        files = (*one.read(range(len(one))), *other.read(range(len(other))))
        return _named(Photos(files, targets, (*one.sha256, *other.sha256)), parts.labels, labels)

    train, validation = both(old.train, parts.fresh.train), both(old.validation, parts.fresh.validation)
    return Splits(labels, train, validation)


@dataclass(frozen=True)
class Bench:
    """What every training of a backbone has in common."""

    backbone: Backbone
    file: WeightsFile
    cache: Path

    def train(self, splits: Splits, plan: Plan, base: Base | None = None) -> Trained:
        return trained.train(splits, plan, self.backbone, None if base else self.file, cache=self.cache, base=base)

    def make_base(self, parts: Parts, strategy: Wish, *, seed: int) -> Base:
        made = self.from_published(parts.base, strategy, seed=seed).classifier
        return Base(parts.base.labels, made.preprocessing, made.state(), made.outlet, parts.base, {})

    def from_published(self, splits: Splits, strategy: Wish, *, seed: int) -> Trained:
        """A model that starts from the published weights."""
        recipe = Recipe(backbone=self.backbone.name, strategy=strategy, seed=seed)
        measured = None
        if strategy == "auto":
            measured = analyse.measure(
                splits,
                self.backbone,
                self.file,
                feature_cache=self.cache,
                max_pixels=trained.MAX_PIXELS,
                emit=trained.say_nothing,
            )
        return self.train(splits, quality.plan_for(recipe, splits, self.backbone, measured))

    def extend(self, base: Base, parts: Parts, run: Run) -> Found:
        """Start from `base`, and judge both by the test part."""
        splits, replay = version(parts, run.case), run.case.endswith("replay")
        kept, fresh, dropped = match(base.labels, splits.labels, None)
        start = WarmStart(
            base="base@1",
            version_id="base",
            kept=kept,
            fresh=fresh,
            dropped=dropped,
            replay=replay,
            label_prior="learned",
        )
        if run.case == COLD:
            made = self.from_published(splits, run.strategy, seed=run.seed)  # type: ignore[arg-type]
        else:
            recipe = Recipe(backbone=run.backbone, strategy=run.strategy, seed=run.seed, base="base@1", replay=replay)  # type: ignore[arg-type]
            network = replace(self.backbone.facts, stages=_stages(self.backbone, base))
            made = self.train(splits, plans.plan(recipe, start, photos.facts(splits), network), base)
        test = _named(parts.test, parts.labels, splits.labels)
        unseen = Splits(splits.labels, splits.train, test)
        pair = Pair(replace(base, splits=None), run.backbone, start, made.classifier, unseen)
        (judged,) = retention.judge(
            pair, max_pixels=trained.MAX_PIXELS, emit=trained.say_nothing, device=trained.device()
        )
        return Found(
            base=judged.base_accuracy,
            lost=judged.lost,
            forgotten=judged.forgotten,
            right=trained.accuracy(made, test),
            reported=made.old_labels[0].lost if made.old_labels else None,
            is_warned_of=any(one.warning is not None for one in made.old_labels),
        )


def _stages(backbone: Backbone, base: Base) -> tuple[str, ...]:
    """Those of the base, which may be cut."""
    names = [stage.name for stage in backbone.stages]
    ends = [name for name in (base.outlet.stage, *base.outlet.taps) if name in names]
    return tuple(names[: 1 + max(map(names.index, ends))] if ends else names)


def table(results: list[tuple[Run, Found]]) -> Iterator[str]:
    """The means over all seeds, the worst of them in brackets, as Markdown."""
    cells: dict[tuple[str, str, str], list[Found]] = defaultdict(list)
    for run, found in results:
        cells[run.backbone, run.strategy, run.case].append(found)
    yield "| backbone | strategy | the version has | seeds | base | lost | forgotten | right of all | warned of |"
    yield "|---|---|---|" + "--:|" * 6
    for (backbone, strategy, case), several in cells.items():
        base = float(np.mean([one.base for one in several]))
        right = float(np.mean([one.right for one in several]))
        lost, forgotten = _told([one.lost for one in several]), _told([one.forgotten for one in several])
        warned = sum(one.is_warned_of for one in several)
        yield (
            f"| {backbone} | {strategy} | {case} | {len(several)} | {100 * base:.1f} % | {lost} | {forgotten} | "
            f"{100 * right:.1f} % | {warned} |"
        )


def _told(points: list[float]) -> str:
    return f"{np.mean(points):+.1f} ({max(points):+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.warmstart", description=__doc__)
    parser.add_argument("folder", type=Path, help="with weights/ and datasets/*.zip")
    parser.add_argument("--results", type=Path, default=Path("warmstart.jsonl"))
    parser.add_argument("--set", default="flowers5")
    parser.add_argument("--backbones", nargs="+", default=["formnet", "squeezenet1_1"])
    parser.add_argument("--strategies", nargs="+", default=["head", "auto"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    results = list(records.read(arguments.results, Run, Found))
    chosen = photos.read(arguments.folder / "datasets" / f"{arguments.set}.zip")
    for name in arguments.backbones:
        backbone = catalogue.find(name)
        file = weights.obtain(
            backbone, weights_dir=arguments.folder / "weights", cache_dir=weights.default_cache_dir(), download=False
        )
        bench = Bench(backbone, file, arguments.results.with_suffix(".features"))
        for strategy in arguments.strategies:
            for seed in arguments.seeds:
                runs = [Run(name, strategy, seed, case) for case in CASES]
                for run, found in _carry_out(bench, chosen, [one for one in runs if one not in dict(results)]):
                    results.append((run, found))
                    records.append(arguments.results, run, found)
    print("\n".join(table(results)))


def _carry_out(bench: Bench, chosen: PhotoSet, runs: list[Run]) -> Iterator[tuple[Run, Found]]:
    """The `runs`, which are of one base."""
    if runs:
        parts = divide(chosen, seed=runs[0].seed)
        base = bench.make_base(parts, runs[0].strategy, seed=runs[0].seed)  # type: ignore[arg-type]
        for run in runs:
            yield run, bench.extend(base, parts, run)


if __name__ == "__main__":
    main()
