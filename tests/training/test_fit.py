import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app import errors
from app.augmentation import Augmentation
from app.backbones import catalogue, networks
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier, Outputs
from app.backbones.preprocess import Preprocessing
from app.descent import Descent
from tests.training import samples
from tests.training.samples import Recorder, Stopped
from worker.training import checkpoint, evaluate, fit, schedule
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
    Resumed,
    StoppedEarly,
)
from worker.training.feed import ImageFeed
from worker.training.fitting import Fitting

LABELS = ("red", "blue")
AT_32 = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
SEED = 3
DESCENT = Descent(epochs=4, batch_size=6, learning_rate=0.02, weight_decay=1e-4)
MID_EPOCH = Progress("train", 2 * 18 + 12, 4 * 18)
"""In the third epoch of `DESCENT` on the training images of `SPLITS`."""


@dataclass(frozen=True)
class Ran:
    """A training that came to its end."""

    network: Classifier
    told: Recorder

    @property
    def epochs(self) -> list[EpochFinished]:
        """What was told of each epoch, without what depends on the clock."""
        return [replace(told, seconds=0.0, images_per_second=0.0) for told in self.told.of(EpochFinished)]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


def fitting(
    splits: Splits,
    folder: Path,
    emit: Recorder,
    *,
    descent: Descent = DESCENT,
    seed: int = SEED,
    fingerprint: str = "one",
) -> Fitting:
    return Fitting(
        splits=splits,
        feed=images(splits, descent, seed),
        descent=descent,
        seed=seed,
        workdir=folder,
        fingerprint=fingerprint,
        device=samples.CPU,
        emit=emit,
    )


def images(splits: Splits, descent: Descent, seed: int, *, preprocessing: Preprocessing = AT_32) -> ImageFeed:
    return ImageFeed(splits, preprocessing, descent.augmentation, seed, samples.MAX_PIXELS, samples.CPU)


def build(backbone: str = "tinynet", classes: int = 2, *, seed: int = SEED) -> Classifier:
    return classifiers.build(catalogue.find(backbone), classes, state=None, seed=seed)


def run(
    splits: Splits,
    folder: Path,
    *,
    backbone: str = "tinynet",
    descent: Descent = DESCENT,
    seed: int = SEED,
    fingerprint: str = "one",
) -> Ran:
    told = Recorder()
    given = fitting(splits, folder, told, descent=descent, seed=seed, fingerprint=fingerprint)
    return Ran(fit.fit(build(backbone, seed=seed), given), told)


def interrupt(
    splits: Splits, folder: Path, stop_at: Event, *, backbone: str = "tinynet", descent: Descent = DESCENT
) -> None:
    with pytest.raises(Stopped):
        fit.fit(build(backbone), fitting(splits, folder, Recorder(stop_at), descent=descent))


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same(one: Ran, other: Ran) -> bool:
    return equal(one.network.state_dict(), other.network.state_dict())


def losses(network: Classifier, splits: Splits) -> tuple[float, float]:
    """Accuracy and log-loss on the validation images."""
    probabilities = evaluate.predict(
        classifiers.inference_form(network),
        splits.validation,
        AT_32,
        max_pixels=samples.MAX_PIXELS,
        phase="test",
        emit=Recorder(),
        device=samples.CPU,
    )
    figures = evaluate.evaluate(probabilities, splits.validation.targets, splits.labels)
    return figures.accuracy, figures.log_loss


def test_the_same_seed_gives_the_same_network(splits: Splits, tmp_path: Path) -> None:
    one = run(splits, tmp_path / "one")
    torch.manual_seed(12345)
    again = run(splits, tmp_path / "again")
    other = run(splits, tmp_path / "other", seed=4)
    assert same(one, again)
    assert one.epochs == again.epochs
    assert not same(one, other)


def test_a_training_leaves_the_random_numbers_of_others_alone(splits: Splits, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(splits, tmp_path, descent=replace(DESCENT, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop_at", [CheckpointSaved(1), CheckpointSaved(3), MID_EPOCH])
@pytest.mark.parametrize("backbone", ["tinynet", "mobilenet_v3_small"])
def test_an_interrupted_training_ends_as_if_nothing_had_happened(
    splits: Splits, backbone: str, stop_at: Event, tmp_path: Path
) -> None:
    whole = run(splits, tmp_path / "whole", backbone=backbone)
    interrupt(splits, tmp_path / "parts", stop_at, backbone=backbone)
    rest = run(splits, tmp_path / "parts", backbone=backbone)
    finished, step = (stop_at.epoch, 0) if isinstance(stop_at, CheckpointSaved) else (2, 2)
    assert rest.told.of(Resumed) == [Resumed(finished, step)]
    assert rest.epochs == whole.epochs[finished:]
    assert same(rest, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), [("googlenet", 64), ("efficientnet_b0", 32)])
def test_auxiliary_heads_and_blocks_that_are_left_out_at_random_go_on_as_if_nothing_had_happened(
    splits: Splits, backbone: str, size: int, tmp_path: Path
) -> None:
    descent = replace(DESCENT, epochs=2)
    feed = images(splits, descent, SEED, preprocessing=replace(AT_32, resize=size, crop=size))

    def trained(folder: str, told: Recorder) -> Classifier:
        given = fitting(splits, tmp_path / folder, told, descent=descent)
        return fit.fit(build(backbone), replace(given, feed=feed))

    whole = trained("whole", Recorder())
    with pytest.raises(Stopped):
        trained("parts", Recorder(Progress("train", 18 + 12, 2 * 18)))
    told = Recorder()
    rest = trained("parts", told)
    assert told.of(Resumed) == [Resumed(1, 2)]
    assert equal(rest.state_dict(), whole.state_dict())


def test_a_training_may_be_interrupted_over_and_over(splits: Splits, tmp_path: Path) -> None:
    whole = run(splits, tmp_path / "whole")
    for epoch in (1, 2, 3, 4):
        interrupt(splits, tmp_path / "parts", CheckpointSaved(epoch))
    assert same(run(splits, tmp_path / "parts"), whole)


def test_nothing_is_trained_where_all_epochs_are_finished(splits: Splits, tmp_path: Path) -> None:
    whole = run(splits, tmp_path)
    again = run(splits, tmp_path)
    assert again.told.events == [Resumed(4, 0)]
    assert same(again, whole)


def test_the_checkpoint_of_another_training_is_not_gone_on_with(splits: Splits, tmp_path: Path) -> None:
    run(splits, tmp_path / "used", seed=9, fingerprint="another")
    fresh, after = run(splits, tmp_path / "fresh"), run(splits, tmp_path / "used")
    assert after.told.of(Resumed) == []
    assert same(after, fresh)


@pytest.mark.parametrize("damaged", ["last-*.safetensors", "best-*.safetensors", "checkpoint.json"])
def test_a_training_with_a_damaged_checkpoint_begins_anew(splits: Splits, damaged: str, tmp_path: Path) -> None:
    # With patience, the best epoch is kept besides the last one.
    descent = replace(DESCENT, patience=9)
    whole = run(splits, tmp_path / "whole", descent=descent)
    interrupt(splits, tmp_path / "parts", CheckpointSaved(2), descent=descent)
    (path,) = (tmp_path / "parts").glob(damaged)
    os.truncate(path, path.stat().st_size // 2)
    again = run(splits, tmp_path / "parts", descent=descent)
    assert again.told.of(Resumed) == []
    assert same(again, whole)


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


def test_an_interruption_within_an_epoch_loses_no_step(splits: Splits, tmp_path: Path) -> None:
    interrupt(splits, tmp_path, MID_EPOCH)
    found = checkpoint.load(tmp_path, fingerprint="one")
    assert found is not None
    assert (found.position.epochs, found.position.steps) == (2, 2)


OPTIONS = {
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3},
    "average": {"ema": 0.9},
    "accumulated": {"batch_size": 3, "accumulate": 2},
    "mixed": {"augmentation": Augmentation(policy="trivial", erasing=0.5, mixup=0.2, cutmix=1.0)},
    "sampled": {"balance": "sampler", "label_smoothing": 0.1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_interrupted_training_with_options_ends_as_if_nothing_had_happened(
    splits: Splits, options: dict[str, Any], tmp_path: Path
) -> None:
    descent = replace(DESCENT, epochs=3, **options)
    stop_at = Progress("train", 18 + 12, 3 * 18)
    whole = run(splits, tmp_path / "whole", descent=descent)
    interrupt(splits, tmp_path / "parts", stop_at, descent=descent)
    assert same(run(splits, tmp_path / "parts", descent=descent), whole)


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
