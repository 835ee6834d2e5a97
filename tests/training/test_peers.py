"""Several processes that share a training, on the CPU."""

import multiprocessing
import os
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app import errors
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from app.backbones.preprocess import Preprocessing
from app.descent import Descent
from app.recipe import Recipe
from tests.training import adding, samples
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import check_probabilities_are_those_of_the_restored, plan_for, small
from worker.forkserver import Forkserver
from worker.training import checkpoint, fit, order, peers, precision, strategies
from worker.training.data import Splits
from worker.training.events import BatchShared, EpochFinished, Event, Progress, Resumed
from worker.training.feed import ImageFeed
from worker.training.fitting import Fitting
from worker.training.peers import Group, PeerLost, Peers

pytestmark = pytest.mark.usefixtures("forkserver")

LABELS = ("red", "blue")
AT_32 = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
DESCENT = Descent(epochs=3, batch_size=5, accumulate=2, learning_rate=0.02, weight_decay=1e-4, precision="fp32")
MID_EPOCH = Progress("train", 18 + 10, 3 * 18)
"""In the second epoch of `DESCENT` on the training images of `SPLITS`."""


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


def without_batch_norm() -> Classifier:
    network = build()
    for name, module in list(network.body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.body.set_submodule(name, nn.GroupNorm(1, module.num_features))
    return network


def build() -> Classifier:
    return classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=3)


def fitting(splits: Splits, folder: Path, emit: Recorder, *, others: int, descent: Descent = DESCENT) -> Fitting:
    feed = ImageFeed(splits, AT_32, descent.augmentation, 3, samples.MAX_PIXELS, samples.CPU)
    return Fitting(splits, feed, descent, 3, folder, "one", samples.CPU, emit, others=(samples.CPU,) * others)


def tolerance(descent: Descent) -> float:
    """Of sums that are rounded in another order."""
    return 2e-2 if precision.is_half(descent.precision, samples.CPU, Recorder()) else 1e-4


def losses(told: Recorder) -> list[tuple[float, float]]:
    return [(epoch.train_loss, epoch.validation_loss) for epoch in told.of(EpochFinished)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shares_of_a_batch_make_up_the_batch_and_differ_by_one_image_at_most(count: int) -> None:
    part = list(range(10, 33))
    shares = [Peers(place, count).share(part) for place in range(count)]
    assert [image for share in shares for image in share] == part
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_device_has_two_images_of_every_batch() -> None:
    for count in range(2, 40):
        batches = order.batches_of(torch.arange(count).numpy(), 8, least=8)
        assert [image for batch in batches for image in batch] == list(range(count))
        shares = [len(Peers(place, 4).share(batch)) for batch in batches for place in range(4)]
        assert count < 8 or min(shares) >= 2


def test_a_training_without_others_starts_no_process(splits: Splits, tmp_path: Path) -> None:
    told = Recorder()
    one_batch = replace(DESCENT, epochs=1, batch_size=3)
    fit.fit(build(), fitting(splits, tmp_path, told, others=1, descent=one_batch))
    assert told.of(BatchShared) == []
    assert len(told.of(EpochFinished)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unfreeze": "gradual", "layer_decay": 0.7, "ema": 0.9, "optimizer": "adamw", "learning_rate": 1e-3},
        {"balance": "weights", "label_smoothing": 0.1, "precision": "bf16"},
    ],
)
def test_two_processes_learn_what_one_does(splits: Splits, tmp_path: Path, changes: dict[str, Any]) -> None:
    told, told_of_two, descent = Recorder(), Recorder(), replace(DESCENT, **changes)
    one = fit.fit(without_batch_norm(), fitting(splits, tmp_path / "one", told, others=0, descent=descent))
    two = fit.fit(without_batch_norm(), fitting(splits, tmp_path / "two", told_of_two, others=1, descent=descent))
    assert told_of_two.of(BatchShared) == [BatchShared(2)]
    for alone, shared in zip(losses(told), losses(told_of_two), strict=True):
        assert shared == pytest.approx(alone, rel=tolerance(descent))
    values = two.state_dict()
    assert all(torch.allclose(value, values[name], atol=tolerance(descent)) for name, value in one.state_dict().items())
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_plan_is_carried_out_by_two_processes(splits: Splits, tmp_path: Path) -> None:
    backbone = small("tinynet", AT_32)
    recipe = Recipe(backbone="tinynet", strategy="scratch", epochs=6, batch_size=6, learning_rate=0.05, seed=1)
    told = Recorder()
    trained = strategies.train(
        splits,
        plan_for(splits, recipe),
        backbone=backbone,
        weights=None,
        feature_cache=tmp_path / "features",
        workdir=tmp_path / "work",
        max_pixels=samples.MAX_PIXELS,
        max_activation_bytes=10**9,
        emit=told,
        device=samples.CPU,
        others=(samples.CPU,),
    )
    assert told.of(BatchShared) == [BatchShared(2)]
    assert trained.evaluation.accuracy > 0.5
    check_probabilities_are_those_of_the_restored(trained, backbone, splits)


@pytest.mark.slow
def test_a_stopped_training_of_two_processes_ends_both_and_is_gone_on_with(splits: Splits, tmp_path: Path) -> None:
    whole = fit.fit(build(), fitting(splits, tmp_path / "whole", Recorder(), others=1))
    with pytest.raises(Stopped):
        fit.fit(build(), fitting(splits, tmp_path / "parts", Recorder(MID_EPOCH), others=1))
    assert not multiprocessing.active_children()
    kept = checkpoint.load(tmp_path / "parts", fingerprint="one")
    assert kept is not None
    assert (kept.position.epochs, kept.position.steps) == (1, 1)
    told = Recorder()
    rest = fit.fit(build(), fitting(splits, tmp_path / "parts", told, others=1))
    assert told.of(Resumed) == [Resumed(1, 1)]
    values = whole.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in rest.state_dict().items())


@pytest.mark.slow
def test_what_the_other_process_cannot_do_is_said_by_the_leading_one(splits: Splits, tmp_path: Path) -> None:
    given = fitting(splits, tmp_path, Recorder(), others=1)
    broken = replace(splits, train=samples.images([(b"no image", int(target)) for target in splits.train.targets]))
    feed = Breaking(splits, AT_32, DESCENT.augmentation, 3, samples.MAX_PIXELS, samples.CPU, given_away=broken)
    with pytest.raises(errors.BadImage):
        fit.fit(build(), replace(given, feed=feed))
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("others", [1, 2])
def test_where_another_process_is_killed_the_training_is_gone_on_with_later(
    splits: Splits, tmp_path: Path, others: int
) -> None:
    descent = replace(DESCENT, batch_size=6)
    whole = fit.fit(build(), fitting(splits, tmp_path / "whole", Recorder(), others=others, descent=descent))

    def kill(event: Event) -> None:
        if event == Progress("train", 18 + 12, 3 * 18):
            killed, *_ = multiprocessing.active_children()
            killed.kill()

    given = fitting(splits, tmp_path / "parts", Recorder(), others=others, descent=descent)
    with pytest.raises(PeerLost, match="one of the processes that share the training is gone"):
        fit.fit(build(), replace(given, emit=kill))
    assert not multiprocessing.active_children()
    told = Recorder()
    rest = fit.fit(build(), fitting(splits, tmp_path / "parts", told, others=others, descent=descent))
    assert told.of(Resumed) == [Resumed(1, 0)]
    values = whole.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in rest.state_dict().items())


GLOO = "Connection closed by peer"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (errors.BadImage("torn"), "torn"),
        (RuntimeError("OutOfMemoryError: CUDA out of memory"), "CUDA out of memory"),
        (RuntimeError(GLOO), "one of the processes that share the training is gone"),  # and this is why
    ],
    ids=["no image", "no memory", "of the killed one"],
)
def test_what_one_process_cannot_do_counts_for_more_than_that_another_is_killed(said: Exception, told: str) -> None:
    (ours, failing), (others, killed) = multiprocessing.Pipe(), multiprocessing.Pipe()
    for connection in (failing, killed):
        connection.send("ready")
    group = Group([ours, others], [])
    group.await_ready()
    killed.close()
    failing.send(peers._Lost(said))
    failing.close()
    with pytest.raises(Exception, match=told), group.in_common():
        raise RuntimeError(GLOO)
    group.end(at_once=True)


@pytest.mark.parametrize("said", [None, errors.BadImage("torn")], ids=["killed", "no image"])
def test_one_that_goes_while_others_get_ready_is_noticed(said: Exception | None) -> None:
    (ours, gone), (others, slow) = multiprocessing.Pipe(), multiprocessing.Pipe()
    for connection in (gone, slow):
        connection.send("ready")
    if said is not None:
        gone.send(peers._Lost(said))
    gone.close()
    with pytest.raises(type(said) if said else PeerLost):
        Group([ours, others], []).await_ready()


@pytest.mark.slow
def test_one_that_is_killed_before_all_have_joined_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NCCL they meet at the first sum, and who is missing there is waited for."""

    def join_without_waiting(*_: object) -> None:
        (other,) = multiprocessing.active_children()
        other.kill()
        for thread in threading.enumerate():
            if thread.name == "watch peer":
                thread.join()

    monkeypatch.setattr(peers, "_join", join_without_waiting)
    with pytest.raises(PeerLost), peers.gathered(adding.bring, [(samples.CPU, 2.0)], device=samples.CPU):
        pytest.fail("nobody is there to share anything with")


@pytest.mark.slow
def test_the_others_end_with_the_leading_process(splits: Splits, tmp_path: Path, forkserver: Forkserver) -> None:
    told, leading = forkserver.start(lead, splits, tmp_path)
    other = told.recv()
    leading.kill()
    leading.join()
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(other)], capture_output=True, text=True, check=False)
        if state.stdout.strip()[:1] in ("", "Z"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the other process lives on")


@pytest.mark.slow
def test_values_are_added_up_over_all_processes() -> None:
    works = [(samples.CPU, 2.0), (samples.CPU, 3.0)]
    mine = [torch.ones(2, 3).t(), torch.tensor(1.0)]
    with peers.gathered(adding.bring, works, device=samples.CPU) as group:
        group.tell("once")
        group.peers.add_up(mine)
        assert (group.peers.place, group.peers.count) == (0, 3)
    assert torch.equal(mine[0], torch.full((3, 2), 6.0))
    assert float(mine[1]) == 6.0


@pytest.mark.slow
@pytest.mark.parametrize("may", [True, False])
def test_all_processes_compute_as_exactly_as_the_leading_one(may: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", may)
    votes = torch.tensor(0.0)
    with peers.gathered(adding.vote, [(samples.CPU, None)], device=samples.CPU) as group:
        group.tell("once")
        group.peers.add_up([votes])
    assert bool(votes) == may


def lead_politely(connection: Connection) -> None:
    os.nice(3)
    sum_of_others = torch.tensor(0.0)
    with peers.gathered(adding.tell_priority, [(samples.CPU, None)] * 2, device=samples.CPU) as group:
        group.tell("once")
        group.peers.add_up([sum_of_others])
    connection.send((os.nice(0), float(sum_of_others)))


@pytest.mark.slow
def test_all_processes_give_way_as_the_leading_one_does(forkserver: Forkserver) -> None:
    connection, leading = forkserver.start(lead_politely)
    own, sum_of_others = connection.recv()
    assert sum_of_others == 2 * own
    leading.join()


@pytest.mark.slow
def test_where_the_forkserver_is_out_of_reach_another_process_imports_all_anew(
    forkserver: Forkserver, caplog: pytest.LogCaptureFixture
) -> None:
    aside = forkserver.folder.rename(forkserver.folder.with_name("aside"))
    mine = [torch.ones(3, 2), torch.tensor(1.0)]
    try:
        with peers.gathered(adding.bring, [(samples.CPU, 2.0)], device=samples.CPU) as group:
            group.tell("once")
            group.peers.add_up(mine)
    finally:
        aside.rename(forkserver.folder)
    assert float(mine[1]) == 3.0
    assert "the forkserver starts no process ([Errno 2]" in caplog.text


@dataclass(frozen=True)
class Breaking(ImageFeed):
    """Images that become others on their way to another process."""

    given_away: Splits

    def elsewhere(self, device: torch.device) -> ImageFeed:
        return ImageFeed(self.given_away, self.preprocessing, self.augmentation, self.seed, self.max_pixels, device)


def lead(connection: Connection, splits: Splits, folder: Path) -> None:
    """Train for long, and tell of the other process in the midst of it."""

    def tell(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "train" and not told:
            told.append(event)
            connection.send(multiprocessing.active_children()[0].pid)

    told: list[Event] = []
    long = replace(DESCENT, epochs=1000)
    fit.fit(build(), replace(fitting(splits, folder, Recorder(), others=1, descent=long), emit=tell))
