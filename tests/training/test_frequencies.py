"""How frequent the labels of a base are taken to be in what is trained from it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.recipe import LabelPrior, Recipe
from app.warmstart import WarmStart
from tests.training import samples
from tests.training.samples import Recorder
from tests.training.test_strategies import plan_for
from tests.training.test_warm import extended, of, plan_from, run, start_for, tinted, version
from worker.training import frequencies
from worker.training.data import Splits
from worker.training.events import OldLabelsRaised
from worker.training.warm import Base

OLD = ("blue", "red")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A classifier of red and blue, from nine images of each."""
    splits = version(OLD)
    plan = plan_for(splits, Recipe(backbone="formnet", strategy="head"))
    return of(run(splits, plan, tmp_path_factory.mktemp("base")), splits)


def few(counts: dict[str, int], first: int = 100) -> Splits:
    """So many training images of each label, others than the base has, and one of each to validate with."""
    labels = tuple(counts)
    train = [(tinted(label, first + n), at) for at, label in enumerate(labels) for n in range(counts[label])]
    validation = [(tinted(label, first - 1), at) for at, label in enumerate(labels)]
    return Splits(labels, samples.images(train), samples.images(validation))


def as_learned(base: Base, splits: Splits, label_map: dict[str, str] | None = None) -> WarmStart:
    return replace(start_for(base, splits, label_map), label_prior="learned")


def raised(base: Base, splits: Splits, start: WarmStart) -> tuple[list[float], list[OldLabelsRaised]]:
    """By how much the biases of a classifier rise, and what is told of it."""
    told = Recorder()
    built = classifiers.build(catalogue.find("formnet"), len(splits.labels), state=None, seed=0)
    before = {name: value.clone() for name, value in built.state().items()}
    frequencies.raise_old(built, splits, base, start, told)
    others = {name: value for name, value in built.state().items() if name != "head.bias"}
    assert all(torch.equal(value, before[name]) for name, value in others.items())
    return (built.state()["head.bias"] - before["head.bias"]).tolist(), told.of(OldLabelsRaised)


def test_images_of_the_base_count_once() -> None:
    base = Base(OLD, None, {}, None, version(OLD), {})  # type: ignore[arg-type]
    same, others = version(("red", "grey", "blue")), few({"red": 3, "grey": 5, "blue": 4})
    assert frequencies.learned(same, base, start_for(base, same)) == {"red": 9, "grey": 9, "blue": 9}
    assert frequencies.learned(others, base, start_for(base, others)) == {"red": 12, "grey": 5, "blue": 13}
    assert frequencies.learned(others, None, None) == {"red": 3, "grey": 5, "blue": 4}


def test_what_a_base_had_from_its_own_base_counts_and_may_be_the_same_images() -> None:
    base = Base(OLD, None, {}, None, version(OLD), {"blue": 300, "red": 5})  # type: ignore[arg-type]
    splits = few({"green": 3, "grey": 5, "blue": 4})
    start = start_for(base, splits, {"red": "green"})
    assert frequencies.learned(splits, base, start) == {"green": 12, "grey": 5, "blue": 300}
    assert frequencies.learned(splits, replace(base, splits=None), start) == {"green": 5, "grey": 5, "blue": 300}


def test_old_labels_become_as_frequent_as_the_base_learnt_them_all_alike(made: Base) -> None:
    splits = few({"red": 2, "grey": 40, "blue": 4})
    risen, told = raised(made, splits, as_learned(made, splits))
    # Three images of an old label on average, and nine more that the base has.
    assert risen == pytest.approx([math.log(4), 0, math.log(4)])
    assert told == [OldLabelsRaised(images=3, new=40, learned=12, times=4)]


def test_old_labels_become_no_more_frequent_than_new_ones(made: Base) -> None:
    splits = few({"red": 2, "grey": 6, "blue": 4})
    assert raised(made, splits, as_learned(made, splits))[0] == pytest.approx([math.log(2), 0, math.log(2)])


@pytest.mark.parametrize(
    ("counts", "prior", "gone"),
    [
        ({"red": 2, "grey": 40, "blue": 4}, "training", False),
        ({"red": 2, "blue": 4}, "learned", False),  # none is new
        ({"red": 9, "grey": 7, "blue": 9}, "learned", False),  # which are as frequent
        ({"red": 20, "grey": 21, "blue": 20}, "learned", False),  # or nearly so
        ({"red": 2, "grey": 40, "blue": 4}, "learned", True),  # and how many there were is not known
    ],
)
def test_otherwise_they_stay_as_they_are(made: Base, counts: dict[str, int], prior: LabelPrior, gone: bool) -> None:
    base = replace(made, splits=None) if gone else made
    splits = few(counts)
    risen, told = raised(base, splits, replace(as_learned(base, splits), label_prior=prior))
    assert (set(risen), told) == ({0.0}, [])


@pytest.mark.parametrize(("strategy", "fields"), [("head", {}), ("top", {"epochs": 1, "batch_size": 8})])
def test_each_strategy_does_so_once_and_says_it(
    made: Base, strategy: str, fields: dict[str, int], tmp_path: Path
) -> None:
    splits = few({"red": 2, "grey": 8, "blue": 2})
    recipe = Recipe(backbone="formnet", strategy=strategy, base="a@1", **fields)  # type: ignore[arg-type]
    found = {}
    for prior in ("learned", "training"):
        start = replace(start_for(made, splits), label_prior=prior)
        told = Recorder()
        trained = run(splits, plan_from(recipe, start, splits), tmp_path / prior, told, base=made)
        found[prior] = trained.classifier.head.bias.detach()
        said = [reason for reason in trained.plan.reasons if "4.0 times as frequent" in reason]
        assert (len(said), len(told.of(OldLabelsRaised))) == ((1, 1) if prior == "learned" else (0, 0))
    rise = (found["learned"] - found["training"]).tolist()
    assert rise == pytest.approx([math.log(4), 0, math.log(4)], abs=1e-5)


def test_few_photos_of_three_flowers_beside_many_of_two_more_do_not_make_the_three_rare(
    test_data: Path, tmp_path: Path
) -> None:
    base, splits = extended(test_data, tmp_path, known=100, share=0.6, few=10, many=80)
    recipe = Recipe(backbone="formnet", strategy="head", base="a@1")
    lost, forgotten = {}, {}
    for prior in ("learned", "training"):
        start = replace(start_for(base, splits), label_prior=prior)
        judged = run(splits, plan_from(recipe, start, splits), tmp_path, base=base).old_labels[0]
        lost[prior], forgotten[prior] = judged.lost, judged.forgotten
    assert lost["learned"] < lost["training"] - 15
    assert forgotten["learned"] == forgotten["training"]
