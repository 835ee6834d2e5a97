"""Trainings of whole networks: what is told, what is kept and what is learnt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app import errors
from app.backbones import catalogue, networks
from app.backbones import classifier as classifiers
from app.backbones.classifier import Outputs
from tests.training import samples
from tests.training.fitted import (
    AT_32,
    DESCENT,
    MID_EPOCH,
    OPTIONS,
    SEED,
    build,
    equal,
    fitting,
    images,
    losses,
    run,
    same,
    splits,
)
from tests.training.samples import Recorder, Stopped
from worker.training import checkpoint, fit, schedule
from worker.training.data import Splits
from worker.training.events import (
    CheckpointNotKept,
    CheckpointSaved,
    CutShort,
    Enough,
    EpochFinished,
    EpochKept,
    Event,
    Progress,
    StoppedEarly,
)

__all__ = ["splits"]  # a fixture


def test_the_same_seed_gives_the_same_network(splits: Splits, tmp_path: Path) -> None:
    one = run(splits, tmp_path / "one")
    torch.manual_seed(12345)
    again = run(splits, tmp_path / "again")
    other = run(splits, tmp_path / "other", seed=4)
    assert same(one, again)
    assert one.epochs == again.epochs
    assert not same(one, other)


def test_each_epoch_is_told_with_its_figures_and_then_its_checkpoint(splits: Splits, tmp_path: Path) -> None:
    ran = run(splits, tmp_path)
    ends = [event for event in ran.told.events if isinstance(event, EpochFinished | CheckpointSaved)]
    assert [(type(event), event.epoch) for event in ends] == [
        (kind, epoch) for epoch in (1, 2, 3, 4) for kind in (EpochFinished, CheckpointSaved)
    ]
    for told in ran.told.of(EpochFinished):
        assert told.epochs == 4
        assert told.images_per_second == pytest.approx(18 / told.seconds)
        last_step = schedule.learning_rate(3 * told.epoch - 1, steps=12, warm_up=0, peak=DESCENT.learning_rate)
        assert told.learning_rate == pytest.approx(last_step)
    training = [event for event in ran.told.of(Progress) if event.phase == "train"]
    assert training == [Progress("train", done, 72) for done in range(6, 73, 6)]


def test_no_image_is_left_out_of_an_epoch_with_one_left_over(splits: Splits, tmp_path: Path) -> None:
    seven = replace(splits, train=samples.images(samples.colours(4)[:7]))
    ran = run(seven, tmp_path, descent=replace(DESCENT, epochs=1, batch_size=3))
    assert [event.done for event in ran.told.of(Progress) if event.phase == "train"] == [3, 7]


def test_one_training_image_is_too_few(splits: Splits, tmp_path: Path) -> None:
    one = replace(splits, train=samples.images(samples.colours(1)[:1]))
    with pytest.raises(errors.Invalid) as raised:
        run(one, tmp_path)
    assert raised.value.code == "too_few_images"


def test_a_disk_without_room_for_checkpoints_costs_no_training(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    ran = run(splits, tmp_path)
    assert ran.told.of(CheckpointNotKept) == 4 * [CheckpointNotKept("[Errno 28] No space left on device")]
    assert ran.told.of(CheckpointSaved) == []
    assert len(ran.epochs) == 4


def test_the_best_epoch_is_kept_also_where_the_disk_has_no_room_for_it(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = replace(splits, validation=samples.swapped(splits.validation))
    descent, write = replace(DESCENT, epochs=5, patience=5), checkpoint.write
    whole = run(swapped, tmp_path / "whole", descent=descent)
    full_until = 2
    told = Recorder()

    def with_little_room(path: Path, content: bytes) -> None:
        if path.name.startswith("best") and len(told.of(EpochFinished)) <= full_until:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint, "write", with_little_room)
    network = fit.fit(build(), fitting(swapped, tmp_path / "full", told, descent=descent))
    assert len(told.of(CheckpointNotKept)) == full_until
    assert told.of(CheckpointSaved) == [CheckpointSaved(epoch) for epoch in (3, 4, 5)]
    assert equal(network.state_dict(), whole.network.state_dict())
    # What was kept in the end has all that a training needs that goes on.
    assert same(run(swapped, tmp_path / "full", descent=descent), whole)

    full_until, told = 5, Recorder()
    network = fit.fit(build(), fitting(swapped, tmp_path / "never", told, descent=descent))
    assert equal(network.state_dict(), whole.network.state_dict())
    assert list((tmp_path / "never").iterdir()) == []


def test_what_comes_back_is_the_last_epoch_and_with_patience_the_best(splits: Splits, tmp_path: Path) -> None:
    # The better the network knows the colours, the worse it does where they are swapped.
    swapped = replace(splits, validation=samples.swapped(splits.validation))
    ran = run(swapped, tmp_path / "last", descent=replace(DESCENT, epochs=6))
    last = ran.epochs[-1]
    assert losses(ran.network, swapped) == pytest.approx((last.validation_accuracy, last.validation_loss), abs=1e-5)
    assert json.loads((tmp_path / "last" / "checkpoint.json").read_text())["best"] is None

    ran = run(swapped, tmp_path, descent=replace(DESCENT, epochs=6, patience=6))
    best = max(ran.epochs, key=lambda told: (told.validation_accuracy, -told.validation_loss))
    assert best.epoch < 6
    assert best.validation_loss < ran.epochs[-1].validation_loss
    assert losses(ran.network, swapped) == pytest.approx((best.validation_accuracy, best.validation_loss), abs=1e-5)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["best"]["epoch"] == best.epoch
    assert ran.told.events[-1] == EpochKept(best.epoch)


def test_a_training_with_patience_that_is_cut_short_says_which_epoch_is_kept(splits: Splits, tmp_path: Path) -> None:
    swapped = replace(splits, validation=samples.swapped(splits.validation))
    told = Recorder()

    def enough(event: Event) -> None:
        told(event)
        if event == MID_EPOCH:
            raise Enough

    given = fitting(swapped, tmp_path, told, descent=replace(DESCENT, patience=6))
    network = fit.fit(build(), replace(given, emit=enough))
    best = max(told.of(EpochFinished), key=lambda told: (told.validation_accuracy, -told.validation_loss))
    assert told.of(CutShort) == [CutShort(epoch=2, epochs=4)]
    assert told.events[-1] == EpochKept(best.epoch)
    assert losses(network, swapped) == pytest.approx((best.validation_accuracy, best.validation_loss), abs=1e-5)


def test_the_network_comes_back_in_evaluation_mode_and_knows_the_colours(splits: Splits, tmp_path: Path) -> None:
    ran = run(splits, tmp_path, descent=replace(DESCENT, epochs=6, learning_rate=0.05))
    assert not ran.network.training
    assert losses(ran.network, splits)[0] == 1.0
    assert ran.epochs[-1].train_loss < ran.epochs[0].train_loss


def test_only_weights_of_layers_are_shrunk(splits: Splits, tmp_path: Path) -> None:
    descent = replace(DESCENT, epochs=1, batch_size=18, learning_rate=1e-3)
    start = build()
    free = run(splits, tmp_path / "free", descent=replace(descent, weight_decay=0.0)).network.state_dict()
    shrunk = run(splits, tmp_path / "shrunk", descent=replace(descent, weight_decay=0.5)).network.state_dict()
    for name, parameter in start.named_parameters():
        # The first step of Nesterov's momentum is 1.9 times as long as without.
        expected = 1.9 * 1e-3 * 0.5 * parameter.detach() if parameter.ndim > 1 else torch.zeros_like(parameter)
        assert torch.allclose(free[name] - shrunk[name], expected, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize(
    ("backbone", "size", "heads"),
    [("googlenet", 64, 2), pytest.param("inception_v3", 299, 1, marks=pytest.mark.slow)],
)
def test_auxiliary_heads_for_the_new_classes_count_three_tenths(
    backbone: str, size: int, heads: int, tmp_path: Path
) -> None:
    plain = [samples.plain(colour, size=size) for colour in ((220, 40, 30), (40, 200, 90), (30, 60, 210))]
    train = samples.images([(file, target) for target, file in enumerate(plain)])
    splits = Splits(("red", "green", "blue"), train, samples.images([(plain[0], 0)]))
    descent = replace(DESCENT, epochs=1, batch_size=3, precision="fp32")
    published = networks.make(catalogue.find(backbone), auxiliary=True).state_dict()
    start, network = (classifiers.build(catalogue.find(backbone), 3, state=published, seed=SEED) for _ in range(2))
    seen: list[tuple[Tensor, Outputs]] = []
    network.register_forward_hook(lambda _module, given, outputs: seen.append((given[0], outputs)))

    told = Recorder()
    feed = images(splits, descent, SEED, preprocessing=replace(AT_32, resize=size, crop=size))
    given = replace(fitting(splits, tmp_path, told, descent=descent), feed=feed)
    fit.fit(network, given)
    ((batch, outputs),) = seen
    targets = batch.float().mean(dim=(2, 3)).argmax(dim=1)
    assert sorted(targets.tolist()) == [0, 1, 2]
    assert [logits.shape for logits in outputs.auxiliary] == [(3, 3)] * heads
    main, *auxiliary = (
        functional.cross_entropy(logits.detach(), targets).item() for logits in (outputs.logits, *outputs.auxiliary)
    )
    assert told.of(EpochFinished)[0].train_loss == pytest.approx(main + 0.3 * sum(auxiliary), rel=1e-5)
    before, after = start.state_dict(), network.state_dict()
    for head in network.walk.auxiliary:
        name = f"body.{head.module}.{head.last_layer}.weight"
        assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_training_with_options_learns_the_colours(splits: Splits, options: dict[str, Any], tmp_path: Path) -> None:
    descent = replace(DESCENT, epochs=8, learning_rate=0.05)
    ran = run(splits, tmp_path, descent=replace(descent, **options))
    assert losses(ran.network, splits)[0] == 1.0


def test_a_training_without_patience_left_ends_early_and_says_so(splits: Splits, tmp_path: Path) -> None:
    swapped = replace(splits, validation=samples.swapped(splits.validation))
    descent = replace(DESCENT, epochs=30, patience=2, learning_rate=0.05)
    ran = run(swapped, tmp_path, descent=descent)
    (stopped,) = ran.told.of(StoppedEarly)
    assert stopped.epoch == stopped.best_epoch + 2 == ran.epochs[-1].epoch < 30
    assert ran.told.of(EpochKept) == []


def test_what_is_frozen_stays_as_it_was_through_a_whole_training(splits: Splits, tmp_path: Path) -> None:
    descent = replace(DESCENT, epochs=2)
    network, interrupted = build(), build()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for one in (network, interrupted):
        one.freeze("stage1")
    fit.fit(network, fitting(splits, tmp_path / "one", Recorder(), descent=descent))
    with pytest.raises(Stopped):
        fit.fit(interrupted, fitting(splits, tmp_path / "two", Recorder(CheckpointSaved(1)), descent=descent))
    fit.fit(interrupted, fitting(splits, tmp_path / "two", Recorder(), descent=descent))
    after = network.state_dict()
    assert equal(interrupted.state_dict(), after)
    frozen = [name for name in before if name.startswith(("body.stem.", "body.stages.0."))]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["body.stages.1.conv1.weight"], after["body.stages.1.conv1.weight"])
