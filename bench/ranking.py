"""Whether the ranking of backbones foretells what fine-tuning them gives: `python -m bench.ranking FOLDER`.

Every network with weights at hand, whole and cut at each of its stages, is measured on every photo set and then
fine-tuned in all layers. Prints the weighted Kendall tau between the accuracy on a test part that no training has seen
and the ranking, each of its scores, and other ways to put them together: for the network after the last step, and for
the one that strategy `full` keeps, which may be the classifier that it began with or one on the way from there. Then
the time of a ranking of five networks by the sum of one feature pass each. A run that was stopped goes on: what is done
stands in `--results`, a line of JSON each. Gives 1 where a mean tau of the ranking or the ratio misses its limit.
"""

import argparse
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import weightedtau
from torch import Tensor

from app import ranking
from app.backbones import catalogue, classifier, weights
from app.backbones.classifier import Classifier
from app.backbones.taps import WHOLE, Outlet
from app.backbones.weights import WeightsFile
from app.plan import Plan, resolve
from app.profile import HEAD
from app.recipe import Recipe
from bench import photos, quality, trained, training
from bench import results as records
from bench.photos import Photos, PhotoSet
from worker.training import between, depths, evaluate, features, fit, probe
from worker.training import ranking as measuring
from worker.training.data import Images, Splits
from worker.training.events import Emit, Event, TrainingDiverged
from worker.training.features import Extractor
from worker.training.feed import ImageFeed
from worker.training.fitting import Fitting
from worker.training.learner import Diverged
from worker.training.ranking import Candidate, Network

TAU_LIMIT = 0.6
COST_LIMIT = 1.2
COMPARED = ("formnet", "squeezenet1_1", "mobilenet_v2", "resnet18", "shufflenet_v2_x1_0")
"""Whose ranking is timed; those without weights at hand get random values, as time does not depend on them."""

_CPU = torch.device("cpu")
_MAX_PIXELS = 100_000_000
_SILENT: Emit = lambda _event: None  # noqa: E731


@dataclass(frozen=True)
class Case:
    """A network, maybe cut, on a photo set."""

    dataset: str
    backbone: str
    depth: str
    """The stage where it is cut, or `head`."""
    seed: int


@dataclass(frozen=True)
class Scores:
    """Of the frozen features, as a ranking has them."""

    log_me: float
    h_score: float
    neighbours: float
    probe: float


@dataclass(frozen=True)
class Tuned:
    """What came of training all layers for so many epochs."""

    epochs: int
    kept: float
    """Accuracy 0-1 on the test part of what strategy `full` keeps: of the network before the first step, the one after
    the last and those between, the one that explains the validation images best."""
    last: float
    """... of the network after the last step."""
    start: float
    """... of the one before the first: a linear classifier on the pre-trained features."""
    seconds: float


Row = tuple[Case, Scores, Tuned]

_COMBINATIONS: Mapping[str, Callable[[dict[str, list[float]]], list[float]]] = {
    "ranking": ranking.combined,
    "LogME + H": lambda places: _mean(places, "log_me", "h_score"),
    "LogME + H + probe": lambda places: _mean(places, "log_me", "h_score", "probe"),
    "LogME + probe": lambda places: _mean(places, "log_me", "probe"),
    "all four": lambda places: _mean(places, *ranking.SCORES),
}
"""Ways to make one order of the places by each score; less is better."""


def _mean(places: dict[str, list[float]], *names: str) -> list[float]:
    return [float(np.mean(row)) for row in zip(*(places[name] for name in names), strict=True)]


def scores(seen: Splits, backbone: str, file: WeightsFile, *, seed: int, cache: Path) -> dict[str, Scores]:
    """Of the network cut at each of its stages, and whole; from one pass."""
    built = _build(backbone, file, len(seen.labels), seed=seed)
    found = features.extract(
        seen,
        Extractor(classifier.inference_form(built), built.preprocessing, file.sha256),
        cache_dir=cache,
        max_pixels=_MAX_PIXELS,
        emit=_SILENT,
        device=trained.device(),
    )
    rows = depths.measurable(seen.train.targets, seed=seed)
    values = {depth: found.at(depth).train[rows] for depth in found.columns}
    figures = depths.measure(values, depths.numbered(seen.train.targets[rows]), seed=seed, emit=_SILENT)
    return {one.name: Scores(one.log_me, one.h_score, one.neighbours, one.probe.accuracy) for one in figures}


def tune(case: Case, seen: Splits, test: Photos, file: WeightsFile, *, epochs: int | None, cache: Path) -> Tuned:
    """Train all layers as strategy `full` does, from a linear classifier on."""
    started = time.perf_counter()
    outlet = WHOLE if case.depth == HEAD else Outlet(stage=case.depth)
    network = _build(case.backbone, file, len(seen.labels), seed=case.seed, outlet=outlet)
    plan = _plan(case, seen, epochs)
    _fit_head(network, case, seen, file, plan, cache)
    assert plan.descent is not None
    start = {name: value.clone() for name, value in network.state_dict().items()}
    before = _judged(network, seen, test)
    told: list[Event] = []
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as workdir:
        feed = ImageFeed(
            splits=seen,
            preprocessing=network.preprocessing,
            augmentation=plan.descent.augmentation,
            seed=case.seed,
            max_pixels=_MAX_PIXELS,
            device=trained.device(),
        )
        fitting = Fitting(
            splits=seen,
            feed=feed,
            descent=plan.descent,
            seed=case.seed,
            workdir=Path(workdir),
            fingerprint="",
            device=trained.device(),
            emit=told.append,
        )
        try:
            after = _judged(fit.fit(network, fitting), seen, test)
        except Diverged:
            after = _Judged(math.inf, 0.0)
    kept = before
    if not any(isinstance(event, TrainingDiverged) for event in told):
        kept = _best(network, start, (before, after), seen, test)
    seconds = round(time.perf_counter() - started, 1)
    return Tuned(plan.descent.epochs, kept.test, after.test, before.test, seconds)


def _best(
    network: Classifier, start: Mapping[str, Tensor], ends: tuple["_Judged", "_Judged"], seen: Splits, test: Photos
) -> "_Judged":
    """Of what `full` keeps of `network`, which was trained from `start`; `ends` are those two themselves."""
    end = {name: value.clone() for name, value in network.state_dict().items()}
    share, _ = between.best(
        network, start, end, known=(ends[0].loss, ends[1].loss), loss=lambda tried: _loss(tried, seen)
    )
    network.load_state_dict(between.mixed(start, end, share))
    return _judged(network, seen, test)


def _plan(case: Case, seen: Splits, epochs: int | None) -> Plan:
    recipe = Recipe(backbone=case.backbone, strategy="full", seed=case.seed, epochs=epochs)
    return resolve(recipe, photos.facts(seen), catalogue.find(case.backbone).facts)


def _build(backbone: str, file: WeightsFile, classes: int, *, seed: int, outlet: Outlet = WHOLE) -> Classifier:
    state = classifier.read_state(file.path)
    return classifier.build(
        catalogue.find(backbone), classes, state=state, seed=seed, weights=file.weights, outlet=outlet
    )


def _fit_head(network: Classifier, case: Case, seen: Splits, file: WeightsFile, plan: Plan, cache: Path) -> None:
    whole = _build(case.backbone, file, len(seen.labels), seed=case.seed)
    found = features.extract(
        seen,
        Extractor(classifier.inference_form(whole), whole.preprocessing, file.sha256),
        cache_dir=cache,
        max_pixels=_MAX_PIXELS,
        emit=_SILENT,
        device=trained.device(),
    )
    linear = probe.fit(
        found.at(case.depth).train,
        seen.train.targets,
        classes=len(seen.labels),
        l2_grid=plan.l2_grid,
        folds=plan.folds,
        seed=case.seed,
        emit=_SILENT,
    )
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(linear.weight))
        network.head.bias.copy_(torch.from_numpy(linear.bias))


@dataclass(frozen=True)
class _Judged:
    loss: float
    """On the validation images, at the best temperature."""
    test: float


def _judged(network: Classifier, seen: Splits, test: Photos) -> _Judged:
    right = _predicted(network, test).argmax(axis=1) == test.targets
    return _Judged(_loss(network, seen), float(right.mean()))


def _loss(network: Classifier, seen: Splits) -> float:
    return evaluate.tempered_log_loss(_predicted(network, seen.validation), seen.validation.targets)


def _predicted(network: Classifier, images: Images) -> NDArray[np.float64]:
    return evaluate.predict(
        classifier.inference_form(network.eval()),
        images,
        network.preprocessing,
        max_pixels=_MAX_PIXELS,
        phase="test",
        emit=_SILENT,
        device=trained.device(),
    )


def taus(rows: Sequence[Row], goal: str) -> dict[str, float]:
    """The weighted Kendall tau of each score, and of each way to put them together, with the accuracy of fine-tuning
    that `goal` names, of cases on one photo set."""
    accuracies = [getattr(tuned, goal) for _, _, tuned in rows]
    values = {name: [float(getattr(one, name)) for _, one, _ in rows] for name in ranking.SCORES}
    places = {name: ranking.ranks(found) for name, found in values.items()}
    orders = {name: [-place for place in of(places)] for name, of in _COMBINATIONS.items()}
    orders |= {ranking.TITLES[name]: found for name, found in values.items()}
    return {name: float(weightedtau(found, accuracies).statistic) for name, found in orders.items()}


def table(results: Sequence[Row], goal: str) -> tuple[list[str], float]:
    """Markdown with the taus on each photo set and their mean; and the mean of the ranking's."""
    groups: dict[tuple[str, int, int], list[Row]] = defaultdict(list)
    for row in results:
        groups[row[0].dataset, row[0].seed, row[2].epochs].append(row)
    found = {group: taus(rows, goal) for group, rows in groups.items() if len(rows) > 2}
    names = list(next(iter(found.values())))
    lines = ["| photos, seed, epochs | networks | " + " | ".join(names) + " |", "|---|--:|" + "--:|" * len(names)]
    for group, each in found.items():
        told = " | ".join(f"{each[name]:.2f}" for name in names)
        lines.append(f"| {', '.join(map(str, group))} | {len(groups[group])} | {told} |")
    means = {name: float(np.mean([each[name] for each in found.values()])) for name in names}
    lines.append("| mean | | " + " | ".join(f"{means[name]:.2f}" for name in names) + " |")
    return lines, means["ranking"]


def cost(chosen: PhotoSet, folder: Path, names: Sequence[str]) -> tuple[float, str]:
    """The time of a ranking of these networks by the sum of one feature pass each, both without what is kept of either;
    and what they took. The ratio of the CPU time is changed less by other work on the machine."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        subjects = [training.subject(name, chosen, folder, scratch=Path(scratch)) for name in names]
        candidates = [_candidate(each) for each in subjects]
        took, busy = [], 0.0
        for place, each in enumerate(subjects):
            started, worked = time.perf_counter(), time.process_time()
            network = candidates[place].make(len(chosen.labels))
            form = classifier.inference_form(network.classifier)
            features.extract(
                each.splits,
                Extractor(form, network.classifier.preprocessing, network.weights_sha256),
                cache_dir=Path(scratch) / "passes",
                max_pixels=_MAX_PIXELS,
                emit=_SILENT,
                device=_CPU,
            )
            took.append(time.perf_counter() - started)
            busy += time.process_time() - worked
        started, worked = time.perf_counter(), time.process_time()
        measuring.rank(
            subjects[0].splits,
            candidates,
            feature_cache=Path(scratch) / "ranking",
            max_pixels=_MAX_PIXELS,
            seed=0,
            emit=_SILENT,
            device=_CPU,
        )
        seconds, work = time.perf_counter() - started, time.process_time() - worked
    told = ", ".join(f"{name} {one:.1f} s" for name, one in zip(names, took, strict=True))
    said = f"{chosen.name}: ranking {seconds:.1f} s; passes {told}; CPU time {work / busy:.2f} x"
    return seconds / sum(took), said


def _candidate(subject: training.Subject) -> Candidate:
    def make(classes: int) -> Network:
        built = _build(subject.backbone.name, subject.file, classes, seed=0)
        return Network(built, subject.file.weights.name, subject.file.sha256, macs=None, has_seen=False)

    return Candidate(subject.backbone.name, make)


def main() -> int:
    arguments = _arguments()
    results = list(records.read(arguments.results, Case, Scores, Tuned))
    for row in _missing(arguments, {case for case, _, _ in results}):
        results.append(row)
        records.append(arguments.results, *row)
    means = []
    for goal in ("last", "kept") if results else ():
        lines, mean = table(results, goal)
        means.append(mean)
        print(f"Against the network that is {goal}:", *lines, sep="\n")
    ratios = []
    for name in arguments.timed:
        chosen = photos.read(arguments.folder / "datasets" / f"{name}.zip")
        ratio, told = cost(chosen, arguments.folder / "weights", COMPARED)
        ratios.append(ratio)
        print(f"{told}: {ratio:.2f} x, of {COST_LIMIT:.2f}")
    return int(any(mean < TAU_LIMIT for mean in means) or any(ratio > COST_LIMIT for ratio in ratios))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ranking", description=__doc__)
    parser.add_argument("folder", type=Path, help="with weights/ and datasets/*.zip")
    parser.add_argument("--results", type=Path, default=Path("ranking.jsonl"))
    parser.add_argument("--backbones", nargs="*", default=quality.BACKBONES)
    parser.add_argument("--sets", nargs="*", default=quality.SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="of the fine-tuning; the recipe's own if left out")
    parser.add_argument("--timed", nargs="*", default=["hymenoptera"], help="photo sets on which a ranking is timed")
    return parser.parse_args()


def _missing(arguments: argparse.Namespace, known: set[Case]) -> Iterator[Row]:
    cache = arguments.results.with_suffix(".features")
    for name in arguments.sets:
        chosen = photos.read(arguments.folder / "datasets" / f"{name}.zip")
        for seed in arguments.seeds:
            seen, test = photos.splits(chosen, seed=seed)
            for backbone in arguments.backbones:
                file = weights.obtain(
                    catalogue.find(backbone),
                    weights_dir=arguments.folder / "weights",
                    cache_dir=weights.default_cache_dir(),
                    download=False,
                )
                found = scores(seen, backbone, file, seed=seed, cache=cache)
                for depth, figures in found.items():
                    case = Case(name, backbone, depth, seed)
                    if case not in known:
                        yield case, figures, tune(case, seen, test, file, epochs=arguments.epochs, cache=cache)


if __name__ == "__main__":
    raise SystemExit(main())
