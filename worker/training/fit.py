"""The training loop for whole networks: SGD with momentum, a checkpoint after every epoch, the best epoch wins.

The same seed gives the same network, whatever the timing of threads and however often the training was interrupted:
every random number follows from the seed, the number of the epoch and the image.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter, functional

from app import errors
from app.backbones import classifier as classifiers
from app.backbones import preprocess
from app.backbones.classifier import Classifier, Outputs
from app.backbones.preprocess import Preprocessing
from app.recipe import Plan
from worker.training import checkpoint, data, evaluate, schedule
from worker.training.checkpoint import Best, Checkpoint
from worker.training.data import Splits
from worker.training.events import CheckpointSaved, Emit, EpochFinished, Progress, Resumed

AUXILIARY_WEIGHT = 0.3
"""Of each auxiliary head's loss ("Going Deeper with Convolutions", section 5)."""

_MOMENTUM = 0.9


@dataclass(frozen=True)
class Fitting:
    """What stays the same from the first epoch to the last."""

    splits: Splits
    plan: Plan
    preprocessing: Preprocessing
    max_pixels: int
    workdir: Path
    fingerprint: str
    """Of all that the result depends on; checkpoints of another training are not gone on with."""
    device: torch.device
    emit: Emit


@dataclass(frozen=True)
class _Learner:
    network: Classifier
    optimizer: torch.optim.SGD


@dataclass(frozen=True)
class _Passed:
    """One pass over the training images."""

    loss: float
    learning_rate: float
    seconds: float


def fit(network: Classifier, fitting: Fitting) -> Classifier:
    """Train all of `network` as planned; it comes back with the values of the best epoch, in evaluation mode.

    Goes on after the last epoch that an earlier call with the same `workdir` has finished. Raises `Invalid` where
    there are too few images or the loss grows beyond all bounds, and `BadImage`.
    """
    if len(fitting.splits.train) < 2:
        raise errors.Invalid("two training images are the least to train all layers", code="too_few_images")
    network.to(fitting.device).to(memory_format=torch.channels_last)
    learner = _Learner(network, _optimizer(network, fitting.plan))
    epoch, best = _resume(learner, fitting)
    while epoch < fitting.plan.epochs:
        epoch += 1
        passed = _train_epoch(learner, fitting, epoch)
        best = _finish_epoch(learner, fitting, epoch, passed, best)
    if best is not None:
        network.load_state_dict(checkpoint.load_best(fitting.workdir, best))
    return network.eval()


def batches_of(order: NDArray[np.int64], size: int) -> list[list[int]]:
    """`order` in batches of `size`; a single image left over joins the batch before, as BatchNorm needs two."""
    batches = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def _optimizer(network: Classifier, plan: Plan) -> torch.optim.SGD:
    # Biases and the scales of BatchNorm have one dimension; to shrink them helps nothing (Goyal et al. 2017).
    trained = [parameter for _, parameter in _trained(network)]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=_MOMENTUM, nesterov=True)


def _trained(network: Classifier) -> list[tuple[str, Parameter]]:
    """The parameters that are not frozen."""
    return [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]


def _resume(learner: _Learner, fitting: Fitting) -> tuple[int, Best | None]:
    """The number of epochs that are finished, and the best of them."""
    found = checkpoint.load(fitting.workdir, fingerprint=fitting.fingerprint)
    if found is None:
        return 0, None
    learner.network.load_state_dict(found.network)
    for name, parameter in _trained(learner.network):
        learner.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter, requires_grad=False).copy_(
            found.momentum[name]
        )
    fitting.emit(Resumed(found.epoch))
    return found.epoch, found.best


def _train_epoch(learner: _Learner, fitting: Fitting, epoch: int) -> _Passed:
    started = time.perf_counter()
    plan, images = fitting.plan, fitting.splits.train
    order = np.random.default_rng([plan.seed, epoch]).permutation(len(images))
    parts = batches_of(order, plan.batch_size)
    steps = plan.epochs * len(parts)
    warm_up = schedule.warm_up_steps(steps, steps_per_epoch=len(parts))
    total, seen, rate = torch.zeros((), device=fitting.device), 0, 0.0
    learner.network.train()
    with _seeded(plan.seed, epoch, fitting.device):
        for number, (batch, targets) in enumerate(_training_batches(fitting, epoch, parts)):
            step = (epoch - 1) * len(parts) + number
            rate = schedule.learning_rate(step, steps=steps, warm_up=warm_up, peak=plan.learning_rate)
            total += _step(learner, batch, targets, rate) * len(targets)
            seen += len(targets)
            fitting.emit(Progress("train", (epoch - 1) * len(images) + seen, plan.epochs * len(images)))
    loss = float(total) / len(images)
    _check_finite(loss, fitting.plan, epoch)
    return _Passed(loss, rate, time.perf_counter() - started)


def _training_batches(fitting: Fitting, epoch: int, parts: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images `(N, 3, H, W) uint8` with their targets `(N,) int64`."""
    images = fitting.splits.train
    hashes, targets = images.sha256, torch.from_numpy(images.targets)

    def view(position: int, file: bytes) -> preprocess.Pixels:
        image = preprocess.decode(file, max_pixels=fitting.max_pixels, target=fitting.preprocessing.resize)
        rng = np.random.default_rng([fitting.plan.seed, epoch, int(hashes[position][:16], 16)])
        return preprocess.random_crop(image, fitting.preprocessing, rng)

    batches = data.batches(images, parts, view, threads=torch.get_num_threads())
    for batch, part in zip(batches, parts, strict=True):
        yield batch.to(fitting.device), targets[part].to(fitting.device)


def _step(learner: _Learner, images: Tensor, targets: Tensor, rate: float) -> Tensor:
    """One step of the optimizer; the mean loss before it."""
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cuda", torch.bfloat16, enabled=images.device.type == "cuda"):
        loss = _loss(learner.network(images), targets)
    learner.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    learner.optimizer.step()
    return loss.detach()


def _loss(outputs: Outputs, targets: Tensor) -> Tensor:
    loss = functional.cross_entropy(outputs.logits.float(), targets)
    for logits in outputs.auxiliary:
        loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(logits.float(), targets)
    return loss


def _finish_epoch(learner: _Learner, fitting: Fitting, epoch: int, passed: _Passed, best: Best | None) -> Best:
    """Validate, save, tell; the best epoch so far."""
    current = _validate(learner.network, fitting, epoch)
    if best is None or (current.accuracy, -current.loss) > (best.accuracy, -best.loss):
        best = current
    state = Checkpoint(epoch, best, learner.network.state_dict(), _momentum(learner))
    checkpoint.save(fitting.workdir, state, fingerprint=fitting.fingerprint)
    finished = EpochFinished(
        epoch=epoch,
        epochs=fitting.plan.epochs,
        train_loss=passed.loss,
        validation_loss=current.loss,
        validation_accuracy=current.accuracy,
        learning_rate=passed.learning_rate,
        seconds=passed.seconds,
        images_per_second=len(fitting.splits.train) / passed.seconds,
    )
    fitting.emit(finished)
    fitting.emit(CheckpointSaved(epoch))
    return best


def _validate(network: Classifier, fitting: Fitting, epoch: int) -> Best:
    validation = fitting.splits.validation
    probabilities = evaluate.predict(
        classifiers.inference_form(network),
        validation,
        fitting.preprocessing,
        max_pixels=fitting.max_pixels,
        phase="validate",
        emit=fitting.emit,
        device=fitting.device,
    )
    figures = evaluate.evaluate(probabilities, validation.targets, fitting.splits.labels)
    # What the last step of the epoch did, the losses in training do not tell.
    _check_finite(figures.log_loss, fitting.plan, epoch)
    return Best(epoch=epoch, accuracy=figures.accuracy, loss=figures.log_loss)


def _check_finite(loss: float, plan: Plan, epoch: int) -> None:
    if not math.isfinite(loss):
        raise errors.Invalid(
            f"the training diverged in epoch {epoch}; a learning rate below {plan.learning_rate:g} may help",
            code="training_diverged",
            detail={"epoch": epoch, "learning_rate": plan.learning_rate},
        )


def _momentum(learner: _Learner) -> dict[str, Tensor]:
    state = learner.optimizer.state
    return {name: state[parameter]["momentum_buffer"] for name, parameter in _trained(learner.network)}


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Inside, the random numbers of torch (dropout) are those of this epoch; outside, they are as before."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield
