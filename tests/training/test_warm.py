"""Training from a finished classifier: its rows by name, its values, what its labels lose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app import warm as plans
from app.backbones import catalogue, weights
from app.backbones import classifier as classifiers
from app.backbones.taps import WHOLE
from app.facts import VersionFacts
from app.plan import Plan
from app.recipe import Recipe
from app.warmstart import WarmStart, match
from tests.training import samples
from tests.training.samples import Recorder
from tests.training.test_strategies import plan_for
from worker.training import retention, strategies, warm
from worker.training.data import Joined, Relabelled, Selection, Splits
from worker.training.events import (
    BaseHasSeen,
    EpochFinished,
    FeaturesReady,
    OldLabelsJudged,
    StartEvaluated,
    TooMuchLost,
)
from worker.training.retention import Pair
from worker.training.rivals import Trained
from worker.training.warm import Base

FORMNET = catalogue.find("formnet")
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200), "grey": (120, 120, 120)}


def tinted(label: str, number: int) -> bytes:
    rng = np.random.default_rng([number, *COLOURS[label]])
    red, green, blue = np.clip(np.array(COLOURS[label]) + rng.integers(-35, 36, 3), 0, 255).tolist()
    return samples.plain((red, green, blue))


def version(labels: tuple[str, ...], each: int = 12, *, named: dict[str, str] | None = None) -> Splits:
    """A version with these labels, which may be called otherwise than their colours."""
    files = [(tinted((named or {}).get(label, label), n), at) for at, label in enumerate(labels) for n in range(each)]
    return samples.split(files, labels, train=0.75, seed=0)


def run(splits: Splits, plan: Plan, folder: Path, emit: Recorder | None = None, *, base: Base | None = None) -> Trained:
    file = None
    if base is None:
        file = weights.obtain(FORMNET, weights_dir=None, cache_dir=folder, download=False)
    return strategies.train(
        splits,
        plan,
        backbone=FORMNET,
        weights=file,
        feature_cache=folder / "features",
        workdir=folder / "work",
        max_pixels=samples.MAX_PIXELS,
        max_activation_bytes=10**8,
        emit=emit or Recorder(),
        device=samples.CPU,
        base=base,
    )


def of(trained: Trained, splits: Splits, *, gone: bool = False) -> Base:
    classifier = trained.classifier
    kept = None if gone else splits
    return Base(splits.labels, classifier.preprocessing, classifier.state(), classifier.outlet, kept, {})


def extended(test_data: Path, folder: Path, *, known: int, share: float, few: int, many: int) -> tuple[Base, Splits]:
    """A classifier of three flowers from `known` photos of each, of which a `share` is to train on; and a version of
    five that has `few` other photos of each of these, and `many` of each new one."""
    files, labels = samples.photos(test_data / "datasets" / "flowers5.zip")
    old = ("tulips", "daisy", "sunflowers")
    each = {label: [file for file, target in files if labels[target] == label] for label in labels}
    first = [(file, at) for at, label in enumerate(old) for file in each[label][:known]]
    second = [
        (file, at)
        for at, label in enumerate(labels)
        for file in (each[label][known : known + few] if label in old else each[label][:many])
    ]
    splits = samples.split(first, old, train=share, seed=0)
    base = of(run(splits, plan_for(splits, Recipe(backbone="formnet", strategy="head")), folder), splits)
    return base, samples.split(second, labels, train=0.7, seed=0)


def start_for(
    base: Base, splits: Splits, label_map: dict[str, str] | None = None, *, replay: bool = False
) -> WarmStart:
    kept, fresh, dropped = match(base.labels, splits.labels, label_map)
    return WarmStart(base="a@1", version_id="mv_1", kept=kept, fresh=fresh, dropped=dropped, replay=replay)


def plan_from(recipe: Recipe, start: WarmStart, splits: Splits) -> Plan:
    facts = VersionFacts(
        classes=len(splits.labels),
        train_images=len(splits.train),
        validation_images=len(splits.validation),
        smallest_class=int(np.bincount(splits.train.targets).min()),
    )
    return plans.plan(recipe, start, facts, FORMNET.facts)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A classifier of red and blue."""
    splits = version(("blue", "red"))
    plan = plan_for(splits, Recipe(backbone="formnet", strategy="head"))
    return of(run(splits, plan, tmp_path_factory.mktemp("base")), splits)


def test_rows_go_by_name_bit_for_bit_and_new_ones_favour_nobody(made: Base) -> None:
    labels = ("red", "green", "blue")
    kept, _, _ = match(made.labels, labels, None)
    head = warm.head(made, labels, kept)
    blue, red = made.state["head.weight"]
    assert torch.equal(head.weight[0], red)
    assert torch.equal(head.weight[2], blue)
    assert torch.equal(head.bias[[2, 0]], made.state["head.bias"])
    assert torch.equal(head.weight[1], (red + blue) / 2)


def test_an_old_row_is_held_as_its_images_allow(made: Base) -> None:
    splits = version(("red", "green", "blue"), each=24)
    kept, _, _ = match(made.labels, splits.labels, None)
    # 9 images of each old label then, 18 now.
    assert warm.prior(made, splits, kept).hold.tolist() == [warm.HOLD / 2, 0, warm.HOLD / 2]
    assert warm.prior(replace(made, splits=None), splits, kept).hold.tolist() == [warm.HOLD, 0, warm.HOLD]
    # Of a label of which its own base had more, too.
    chained = replace(made, splits=None, learned={"red": 12, "blue": 40})
    assert warm.prior(chained, splits, kept).hold.tolist() == pytest.approx([warm.HOLD * 12 / 18, 0, warm.HOLD])


def test_as_many_labels_with_other_names_get_a_new_head(made: Base) -> None:
    labels = ("grey", "red")
    kept, _, _ = match(made.labels, labels, None)
    built = warm.build("formnet", made, labels, kept)
    assert built.head.weight.shape == made.state["head.weight"].shape
    assert torch.equal(built.head.weight[1], made.state["head.weight"][1])
    assert not torch.equal(built.head.weight[0], made.state["head.weight"][0])


def test_the_network_begins_with_the_bases_values_in_tensors_of_its_own(made: Base) -> None:
    kept, _, _ = match(made.labels, ("blue", "red"), None)
    built = warm.build("formnet", made, ("blue", "red"), kept)
    assert all(torch.equal(value, made.state[name]) for name, value in built.state().items())
    with torch.no_grad():
        for parameter in built.parameters():
            assert parameter.requires_grad
            parameter.add_(1)
    again = warm.build("formnet", made, ("blue", "red"), kept)
    assert all(torch.equal(value, made.state[name]) for name, value in again.state().items())


def test_a_classifier_that_is_held_tightly_keeps_its_old_rows_to_the_last_digits(made: Base, tmp_path: Path) -> None:
    splits = version(("red", "green", "blue"))
    start = start_for(made, splits)
    trained = run(splits, plan_from(Recipe(backbone="formnet", strategy="head", base="a@1", l2=1e6), start, splits),
                  tmp_path, base=made)  # fmt: skip
    blue, red = made.state["head.weight"]
    found = trained.classifier.head.weight.detach()
    assert torch.allclose(found[0], red, rtol=0, atol=1e-5)
    assert torch.allclose(found[2], blue, rtol=0, atol=1e-5)
    assert all(
        torch.equal(value, made.state[name])
        for name, value in trained.classifier.state().items()
        if name.startswith("body.")
    )


def test_the_extended_classifier_knows_old_labels_and_new_and_says_what_the_old_ones_lost(
    made: Base, tmp_path: Path
) -> None:
    splits = version(("red", "grey", "blue", "green"), each=16)
    told = Recorder()
    plan = plan_from(Recipe(backbone="formnet", strategy="head", base="a@1"), start_for(made, splits), splits)
    trained = run(splits, plan, tmp_path, told, base=made)
    assert trained.evaluation.accuracy > 0.8
    assert trained.old_labels == tuple(told.of(OldLabelsJudged))
    for judged in trained.old_labels:
        assert judged.forgotten <= 2
        assert judged.lost == pytest.approx(100 * (judged.base_accuracy - judged.accuracy))
        assert sum(label.images for label in judged.labels) == judged.images
        assert {label.label for label in judged.labels} <= {"red", "blue"}
    assert [judged.images_of for judged in trained.old_labels][-1] == "version"


def unlearnt(made: Base, splits: Splits, start: WarmStart, told: Recorder) -> tuple[OldLabelsJudged, ...]:
    """What is said of a classifier that takes everything for the last of its labels."""
    built = warm.build("formnet", made, splits.labels, start.kept)
    with torch.no_grad():
        built.head.bias[-1] += 100
    pair = Pair(made, "formnet", start, built, splits)
    return retention.judge(pair, max_pixels=samples.MAX_PIXELS, emit=told, device=samples.CPU)


@pytest.mark.parametrize(("replay", "limit"), [(False, 2.0), (True, 0.5)])
def test_a_loss_over_the_limit_is_warned_of_with_what_it_is_made_of(made: Base, replay: bool, limit: float) -> None:
    splits, told = version(("red", "blue", "green"), each=16), Recorder()
    judged = unlearnt(made, splits, start_for(made, splits, replay=replay), told)
    warnings = told.of(TooMuchLost)
    assert [one.message for one in warnings] == [one.warning for one in judged]
    for one in judged:
        assert one.limit == limit
        assert one.lost == pytest.approx(100 * one.base_accuracy)
        assert one.interval is not None
        assert one.interval.low <= one.lost <= one.interval.high
        assert f"have lost {one.lost:.1f} points" in str(one.warning)
        why = "they are taken for labels that are new" if one.forgotten < 0.05 else f"{one.forgotten:.1f} because"
        assert f"more than {limit:g}: {why}" in str(one.warning)


def test_where_no_label_is_new_the_old_ones_are_taken_for_one_another(made: Base) -> None:
    splits = version(("red", "blue"), each=16)
    for one in unlearnt(made, splits, start_for(made, splits), Recorder()):
        assert "more than 2: they are told from one another less well. " in str(one.warning)


@pytest.mark.parametrize(
    ("each", "replay", "gone", "said"),
    [
        # Photos of the same names and numbers are the same, so that the larger version has all of the base's.
        (12, False, False, "There are no more images of a@1 to replay. Images of"),
        (4, False, False, "Train with replay: that adds 12 images that a@1 was trained on and the version lacks."),
        (4, True, False, "There are no more images of a@1 to replay."),
        (4, False, True, "The images that a@1 was made from are gone, so they cannot be replayed. Images of"),
    ],
)
def test_a_warning_says_what_can_be_done(made: Base, each: int, replay: bool, gone: bool, said: str) -> None:
    base = replace(made, splits=None) if gone else made
    splits = version(("red", "blue", "green"), each=each)
    *_, judged = unlearnt(base, splits, start_for(base, splits, replay=replay), Recorder())
    assert said in str(judged.warning)


def test_labels_that_lose_nothing_are_not_warned_of(made: Base, tmp_path: Path) -> None:
    splits, told = version(("red", "blue"), each=16), Recorder()
    plan = plan_from(Recipe(backbone="formnet", strategy="head", base="a@1"), start_for(made, splits), splits)
    trained = run(splits, plan, tmp_path, told, base=made)
    assert [(one.limit, one.warning) for one in trained.old_labels] == [(2.0, None)] * len(trained.old_labels)
    assert trained.old_labels
    assert not told.of(TooMuchLost)


def test_where_the_bases_images_are_gone_the_versions_own_still_tell(made: Base, tmp_path: Path) -> None:
    splits = version(("red", "green", "blue"), each=16)
    base = replace(made, splits=None)
    plan = plan_from(Recipe(backbone="formnet", strategy="head", base="a@1"), start_for(base, splits), splits)
    trained = run(splits, plan, tmp_path, base=base)
    (judged,) = trained.old_labels
    assert (judged.images_of, judged.images) == ("version", 8)


@pytest.mark.parametrize("gone", [False, True])
def test_validation_images_that_the_base_was_trained_on_are_told_of(made: Base, gone: bool, tmp_path: Path) -> None:
    assert made.splits is not None
    # The same photos, divided the other way round, and some that the base has not met.
    fresh = version(("blue", "red"), each=20)
    unmet = [at for at, digest_of in enumerate(fresh.validation.sha256) if digest_of not in made.splits.train.sha256]
    validation = Joined((made.splits.train, Selection(fresh.validation, np.array(unmet))))
    splits = Splits(made.splits.labels, made.splits.validation, validation)
    base, told = replace(made, splits=None) if gone else made, Recorder()
    plan = plan_from(Recipe(backbone="formnet", strategy="head"), start_for(base, splits), splits)
    trained = run(splits, plan, tmp_path, told, base=base)

    known, count = len(made.splits.train), len(validation)
    assert known < count
    assert told.of(BaseHasSeen) == ([] if gone else [BaseHasSeen(known, count)])
    said = f"The base was trained on at least {known} of the {count} validation images"
    assert any(said in reason for reason in trained.plan.reasons) == (not gone)


def test_validation_images_that_are_new_to_the_base_are_not_spoken_of(made: Base, tmp_path: Path) -> None:
    assert made.splits is not None
    told = Recorder()
    plan = plan_from(Recipe(backbone="formnet", strategy="head"), start_for(made, made.splits), made.splits)
    run(made.splits, plan, tmp_path, told, base=made)
    assert told.of(BaseHasSeen) == []


def test_features_of_a_base_are_kept_under_a_key_of_their_own(made: Base, tmp_path: Path) -> None:
    splits = version(("red", "green", "blue"))
    recipe = Recipe(backbone="formnet", strategy="head", base="a@1", l2=1.0)
    plan = plan_from(recipe, start_for(made, splits), splits)
    changed = {name: value + 0.01 if name.startswith("body.") and value.is_floating_point() else value
               for name, value in made.state.items()}  # fmt: skip
    other_head = {**made.state, "head.bias": made.state["head.bias"] + 1}
    cached = []
    for base in (made, made, replace(made, state=changed), replace(made, state=other_head)):
        told = Recorder()
        run(splits, plan, tmp_path, told, base=base)
        cached.append(told.of(FeaturesReady)[0].cached)
    # A head changes no features; the layers do.
    assert cached == [False, True, False, True]


@pytest.mark.parametrize("strategy", ["top", "full"])
def test_layers_are_trained_from_the_base_and_its_extended_classifier(
    made: Base, strategy: str, tmp_path: Path
) -> None:
    splits = version(("red", "green", "blue"))
    fields = {"backbone": "formnet", "strategy": strategy, "base": "a@1", "epochs": 1, "batch_size": 9}
    plan = plan_from(Recipe(**fields), start_for(made, splits), splits)  # type: ignore[arg-type]
    told = Recorder()
    trained = run(splits, plan, tmp_path, told, base=made)
    assert told.of(StartEvaluated)[0].validation_accuracy > 0.8
    assert len(told.of(EpochFinished)) == 1
    assert trained.old_labels[-1].forgotten <= 2


def test_a_renamed_label_keeps_its_row(made: Base, tmp_path: Path) -> None:
    splits = version(("azure", "green", "red"), named={"azure": "blue"})
    start = start_for(made, splits, {"blue": "azure"})
    head = warm.head(made, splits.labels, start.kept)
    assert torch.equal(head.weight[0], made.state["head.weight"][0])
    plan = plan_from(
        Recipe(backbone="formnet", strategy="head", base="a@1", label_map={"blue": "azure"}), start, splits
    )
    trained = run(splits, plan, tmp_path, base=made)
    assert {label.label for label in trained.old_labels[-1].labels} == {"azure", "red"}


def test_replay_adds_what_the_version_lacks_of_the_labels_that_are_kept(made: Base) -> None:
    assert made.splits is not None
    blue = [file for file, target in zip(made.splits.train.read(range(18)), made.splits.train.targets, strict=True)
            if target == 0]  # fmt: skip
    splits = Splits(
        ("azure", "green"),
        samples.images([(blue[0], 0), (tinted("green", 1), 1)]),
        samples.images([(blue[1], 0), (tinted("green", 2), 1)]),
    )
    start = start_for(made, splits, {"blue": "azure"}, replay=True)
    found = warm.with_replay(splits, made, start)
    assert start.dropped == ("red",)
    # Seven of nine: one is there already, another is for validation.
    assert found.train.targets.tolist() == [0, 1, *[0] * 7]
    assert found.train.read([8, 0, 2]) == [blue[8], blue[0], blue[2]]
    assert len(set(found.train.sha256)) == 9
    assert found.validation is splits.validation


def test_joined_images_are_read_in_the_order_asked_for() -> None:
    one, two = samples.images([(b"a", 0), (b"b", 1)]), samples.images([(b"c", 0)])
    joined = Joined((one, Relabelled(two, np.array([2]))))
    assert (len(joined), joined.targets.tolist()) == (3, [0, 1, 2])
    assert joined.read([2, 0, 1]) == [b"c", b"a", b"b"]
    assert joined.sha256 == (*one.sha256, *two.sha256)


@pytest.mark.parametrize("replay", [False, True])
def test_three_flowers_become_five_and_the_three_are_not_forgotten(
    test_data: Path, replay: bool, tmp_path: Path
) -> None:
    base, splits = extended(test_data, tmp_path, known=80, share=0.5, few=30, many=60)
    start = start_for(base, splits, replay=replay)
    plan = plan_from(Recipe(backbone="formnet", strategy="head", base="a@1", replay=replay), start, splits)
    trained = run(splits, plan, tmp_path, base=base)
    begun = warm.head(base, splits.labels, start.kept)
    for place, label in enumerate(base.labels):
        assert torch.equal(begun.weight[splits.labels.index(label)], base.state["head.weight"][place])
    judged = {one.images_of: one for one in trained.old_labels}
    assert judged["base"].images == 120
    assert judged["base"].forgotten <= (0.5 if replay else 2)
    assert judged["base"].base_accuracy > 0.6
    assert classifiers.restore("formnet", 5, trained.preprocessing, trained.classifier.state(), outlet=WHOLE)
