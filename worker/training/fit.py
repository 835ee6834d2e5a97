"""The training loop for whole networks: step by step, validated after every epoch.

The same seed gives the same network, whatever the timing of threads and however often the training was interrupted:
every random number follows from the seed, the epoch and the place in it.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from app import errors
from app.backbones.classifier import Classifier
from worker.training import between, checkpoint, dropout, evaluate, norms, order, peers, precision, schedule
from worker.training.checkpoint import Best, Checkpoint, Position
from worker.training.events import (
    BatchShared,
    CheckpointNotKept,
    CheckpointSaved,
    CutShort,
    Enough,
    EpochFinished,
    EpochKept,
    Event,
    Progress,
    Resumed,
    StartEvaluated,
    StartKept,
    StoppedEarly,
    TrainingDiverged,
    WeightsMixed,
)
from worker.training.feed import Batch
from worker.training.fitting import Fitting, shared
from worker.training.learner import Criterion, Diverged, Learner, check
from worker.training.peers import Group, Peers, ShareTooLarge
from worker.training.pieces import Pieces
from worker.training.schedule import Pace, Step

_CHECKPOINT_SECONDS = 60.0
"""How much of an epoch may be lost to a crash."""


def fit(network: Classifier, fitting: Fitting) -> Classifier:
    """Train what is not frozen of `network` as planned; it comes back in evaluation mode, with the values after the
    last step; where those before the first one may count, with the best on the straight way between the two; where
    there is patience, with those after the best epoch. Where the training diverges, the last finished epoch was its
    last one.

    Goes on after the last step that an earlier call with the same `workdir` has kept: all of them, if it was ended by
    an exception out of `emit`. Raises `Invalid` where there are too few images, `Diverged` where the loss is no number
    any more and there is nothing to keep, `PeerLost`, and `BadImage`.
    """
    if len(fitting.splits.train) < 2:
        raise errors.Invalid("two training images are the least to train all layers", code="too_few_images")
    dropout.quicken(network)
    norms.hasten(network)
    if fitting.device.type != "cpu":
        fitting = replace(fitting, pieces=1)
    if works := shared(network, fitting):
        fitting.emit(BatchShared(devices=1 + len(works)))
    network.to(fitting.device).to(memory_format=torch.channels_last)
    trained = _carried_out(network, fitting)
    if trained is not network:
        network.load_state_dict(trained.state_dict())
    return network.eval()


def _carried_out(network: Classifier, fitting: Fitting) -> Classifier:
    """What comes of `network`, which stays as it is where others share the training: all of them begin anew, at the
    last checkpoint, where one of them has too little memory."""
    while True:
        try:
            with peers.gathered(_follow, shared(network, fitting), device=fitting.device) as group:
                return _Training(peers.with_common_norms(network, group.peers), fitting, group).run()
        except ShareTooLarge as error:
            fitting = replace(fitting, pieces=2 * error.pieces)
        # Not above, where the error still holds what was computed.
        torch.cuda.empty_cache()


_START = Position(epochs=0, steps=0, loss=0.0)


@dataclass(frozen=True)
class _Passed:
    """What was done of an epoch since it was begun or gone on with."""

    rate: float
    """The last learning rate."""
    images: int
    seconds: float


class _Training:
    def __init__(self, network: Classifier, fitting: Fitting, group: Group) -> None:
        self._fitting = fitting
        self._group = group
        self._peers = group.peers
        self._descent = fitting.descent
        half = precision.is_half(fitting.descent.precision, fitting.device, fitting.emit)
        criterion = Criterion.of(fitting.descent, fitting.splits, fitting.device)
        self._learner = Learner(network, fitting.descent, criterion, fitting.feed.forward, half=half, peers=self._peers)
        self._held: str | None = None
        self._position = _START
        self._losses: list[Tensor] = []
        """Of the steps that `_position` does not count yet: to ask a GPU for each would be to wait for it."""
        self._best: Best | None = None
        """What is kept besides the last values: the start where it competes, the best epoch where there is patience."""
        self._unkept: Mapping[str, Tensor] | None = None
        """The values of `_best` where the disk had no room for them."""
        self._last: Best | None = None
        self._is_enough = False
        """Whether the steps are to end here."""
        self._diverged: int | None = None
        """In which epoch."""
        self._saved_at = time.monotonic()
        self._pieces = Pieces(
            self._learner,
            batch_size=self._descent.batch_size,
            count=fitting.pieces,
            device=fitting.device,
            peers=self._peers,
            emit=fitting.emit,
        )

    def run(self) -> Classifier:
        self._resume()
        self._pieces.tell()
        if self._fitting.start_counts and self._position == _START and self._best is None:
            self._judge_start()
        try:
            ends_well = self._descend()
        finally:
            self._learner.end()
        self._hold(None)
        self._learner.take(self._chosen(ends_well=ends_well))
        return self._learner.network

    def _chosen(self, *, ends_well: bool) -> Mapping[str, Tensor]:
        """The values that are kept."""
        end, share, epoch = self._learner.kept.state_dict(), 1.0, self._position.epochs
        if self._best is not None:
            best = self._unkept or checkpoint.load_best(self._fitting.workdir, self._best)
            # With patience, the end was among those that were compared.
            share = self._share(best, self._best, end) if ends_well and self._descent.patience is None else 0.0
            end, epoch = between.mixed(best, end, share), epoch if share else self._best.epoch
        if self._diverged is not None:
            self._fitting.emit(TrainingDiverged(self._diverged, kept_epoch=epoch, is_mixed=0 < share < 1))
        elif self._best is not None and self._descent.patience is not None and self._has_come_to_its_end:
            self._fitting.emit(EpochKept(epoch))
        return end

    @property
    def _has_come_to_its_end(self) -> bool:
        """Whether there was no epoch left to train, and not just no patience."""
        return self._is_enough or self._position.epochs == self._descent.epochs

    def _descend(self) -> bool:
        """Do all epochs that are left, or all before the training diverges, and say whether the network after the last
        one of these is there."""
        try:
            while self._position.epochs < self._descent.epochs and not self._is_over():
                self._group.tell(self._position)
                passed = self._train_epoch()
                if passed is not None:
                    self._finish_epoch(passed)
        except Diverged as error:
            is_back = self._go_back()
            if not is_back and self._best is None:
                self._fitting.emit(TrainingDiverged(error.epoch, kept_epoch=None))
                raise
            self._diverged = error.epoch
            return is_back
        return True

    def _go_back(self) -> bool:
        """To the end of the last finished epoch, or where that was not kept, of the last one that was; and say whether
        there is one."""
        workdir, reached = self._fitting.workdir, self._position.epochs
        tensors = checkpoint.load_epoch(workdir, reached) if reached else None
        if tensors is None:
            kept = checkpoint.load(workdir, fingerprint=self._fitting.fingerprint)
            reached = 0 if kept is None else kept.position.epochs
            tensors = checkpoint.load_epoch(workdir, reached) if reached else None
            self._last = None  # which is of the epoch that was not kept
        if tensors is not None:
            self._learner.restore(tensors)
            self._position, self._losses = Position(epochs=reached, steps=0, loss=0.0), []
        return tensors is not None

    def follow(self, positions: Iterable[Position]) -> None:
        """Do this process's part of the epochs that are left at each of `positions`."""
        self._resume()
        for position in positions:
            self._position = position
            self._train_epoch()

    def _resume(self) -> None:
        found = checkpoint.load(self._fitting.workdir, fingerprint=self._fitting.fingerprint)
        if found is None:
            return
        self._learner.restore(found.tensors)
        self._position, self._best = found.position, found.best
        self._pieces.resume(found.pieces)
        self._fitting.emit(Resumed(epoch=found.position.epochs, step=found.position.steps))

    def _judge_start(self) -> None:
        """Let the network before the first step compete as epoch 0."""
        self._best = self._validate(0)
        self._emit(StartEvaluated(validation_loss=self._best.loss, validation_accuracy=self._best.accuracy))
        self._save(is_best=True)

    def _share(self, start: Mapping[str, Tensor], begun: Best, end: Mapping[str, Tensor]) -> float:
        """How far on the way from `start` to `end` the values lie that explain the labels of the validation images
        best."""
        # The best of all epochs would be chosen by chance, on few images: it does worse on others than the last one,
        # for which the learning rate has fallen to nothing.
        last = self._last or self._validate(self._position.epochs)
        chosen, losses = between.best(
            self._learner.kept,
            start,
            end,
            known=(begun.tempered_loss, last.tempered_loss),
            loss=lambda network: self._validate(self._position.epochs, network).tempered_loss,
        )
        if chosen == 0:
            self._fitting.emit(StartKept(start_loss=begun.tempered_loss, end_loss=last.tempered_loss))
        elif chosen < 1:
            self._fitting.emit(WeightsMixed(chosen, begun.tempered_loss, last.tempered_loss, losses[chosen]))
        return chosen

    def _hold(self, stage: str | None) -> None:
        if stage != self._held:
            self._learner.hold(stage)
            self._held = stage

    def _is_over(self) -> bool:
        """Whether no further epoch is to be begun."""
        if self._is_enough:
            self._emit(CutShort(epoch=self._position.epochs, epochs=self._descent.epochs))
            if self._position.steps:
                self._last = self._validate(self._position.epochs)
            return True
        return self._is_out_of_patience()

    def _is_out_of_patience(self) -> bool:
        if self._descent.patience is None or self._best is None:
            return False
        # While stages are still to join, that there is no better epoch says nothing.
        since = max(self._best.epoch, schedule.epochs_to_join(self._descent))
        if self._position.epochs - since < self._descent.patience or self._position.steps:
            return False
        self._fitting.emit(StoppedEarly(epoch=self._position.epochs, best_epoch=self._best.epoch))
        return True

    def _train_epoch(self) -> "_Passed | None":
        """Do the steps of this epoch that are left; None where it is enough before they are all done."""
        started = time.perf_counter()
        epoch, begun = self._position.epochs + 1, self._position.steps
        shown = order.of_epoch(epoch, self._fitting.splits, self._descent.balance, seed=self._fitting.seed)
        parts = order.batches_of(np.arange(len(shown)), self._descent.batch_size, least=2 * self._peers.count)
        pace = Pace(self._descent, math.ceil(len(parts) / self._descent.accumulate))
        left = parts[begun * self._descent.accumulate :]
        batches = self._fitting.feed.batches(epoch, shown, [self._peers.share(part) for part in left])
        done = len(shown) - sum(map(len, left))
        self._learner.network.train()
        for step in range(begun, pace.per_epoch):
            number = self._position.epochs * pace.per_epoch + step
            group = list(islice(batches, self._descent.accumulate))
            sizes = tuple(map(len, parts[step * self._descent.accumulate :][: self._descent.accumulate]))
            self._hold(pace.held(number, self._learner.network.stages))
            loss = self._step(group, Step(epoch, number, pace.rate(number), sizes))
            self._losses.append(loss)
            self._position = replace(self._position, steps=step + 1)
            done += sum(sizes)
            self._emit(Progress("train", (epoch - 1) * len(shown) + done, self._descent.epochs * len(shown)))
            # Others that share the steps are in the midst of the epoch, too, and finish it.
            if self._is_enough and self._peers.count == 1 and step + 1 < pace.per_epoch:
                return None
            if self._peers.leads and time.monotonic() - self._saved_at > _CHECKPOINT_SECONDS:
                self._save()
                check(self._position.loss / done, self._descent, epoch)
        self._count_losses()
        return _Passed(pace.rate(epoch * pace.per_epoch - 1), sum(map(len, left)), time.perf_counter() - started)

    def _count_losses(self) -> None:
        """Wait for the steps that were begun, and add up what they lost."""
        for loss in torch.stack(self._losses).tolist() if self._losses else ():
            self._position = replace(self._position, loss=self._position.loss + loss)
        self._losses = []

    def _step(self, batches: list[Batch], step: Step) -> Tensor:
        place = [self._peers.place] if self._peers.place else []
        return self._pieces.step(batches, step, seed=[self._fitting.seed, step.epoch, step.number, *place])

    def _emit(self, event: Event) -> None:
        try:
            self._fitting.emit(event)
        except Enough:
            self._is_enough = True
        except Exception:
            # Cancelled or paused: whoever goes on later loses nothing.
            self._save()
            raise

    def _finish_epoch(self, passed: "_Passed") -> None:
        """Validate, tell, save."""
        epoch = self._position.epochs + 1
        loss = self._position.loss / len(self._fitting.splits.train)
        check(loss, self._descent, epoch)
        current = self._validate(epoch)
        self._emit(
            EpochFinished(
                epoch=epoch,
                epochs=self._descent.epochs,
                train_loss=loss,
                validation_loss=current.loss,
                validation_accuracy=current.accuracy,
                tempered_loss=current.tempered_loss,
                learning_rate=passed.rate,
                seconds=passed.seconds,
                images_per_second=passed.images / passed.seconds,
            )
        )
        is_best = self._descent.patience is not None and current.beats(self._best)
        self._best, self._last = current if is_best else self._best, current
        self._position = Position(epochs=epoch, steps=0, loss=0.0)
        if self._save(is_best=is_best):
            self._fitting.emit(CheckpointSaved(epoch))

    def _validate(self, epoch: int, network: Classifier | None = None) -> Best:
        fitting = self._fitting
        probabilities = fitting.feed.probabilities(network or self._learner.kept, self._emit)
        figures = evaluate.evaluate(probabilities, fitting.splits.validation.targets, fitting.splits.labels)
        # What the last step of the epoch did, the losses in training do not tell.
        check(figures.log_loss, self._descent, epoch)
        tempered = evaluate.tempered_log_loss(probabilities, fitting.splits.validation.targets)
        return Best(epoch=epoch, accuracy=figures.accuracy, loss=figures.log_loss, tempered_loss=tempered)

    def _save(self, *, is_best: bool = False) -> bool:
        """Keep where the training stands, and say whether that was possible."""
        self._count_losses()
        if not math.isfinite(self._position.loss):
            return False  # what was kept before is of more use
        self._saved_at = time.monotonic()
        best = self._learner.kept.state_dict() if is_best else self._unkept
        try:
            checkpoint.save(
                self._fitting.workdir,
                Checkpoint(self._position, self._best, self._learner.state(), self._pieces.count),
                fingerprint=self._fitting.fingerprint,
                best=best,
            )
        except OSError as error:
            if is_best:  # it may be what the training ends with
                self._unkept = checkpoint.copied(self._learner.kept.state_dict())
            self._fitting.emit(CheckpointNotKept(reason=str(error)))
            return False
        self._unkept = None
        return True


def _follow(place: Peers, work: tuple[Classifier, Fitting], positions: Iterator[Position]) -> None:
    network, fitting = work
    network.to(fitting.device).to(memory_format=torch.channels_last)
    _Training(peers.with_common_norms(network, place), fitting, Group.of_one(place)).follow(positions)
