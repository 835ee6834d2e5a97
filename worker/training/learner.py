"""What learns: a network, its optimizer, and the moving average of its weights; as one state that can be saved."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from app import errors
from app.backbones import networks
from app.backbones.classifier import Classifier, Outputs
from app.descent import AUXILIARY_WEIGHT, Descent
from app.runtimes import memory
from worker.training import graphs, order
from worker.training.data import Splits
from worker.training.peers import ALONE, Peers

_LONGEST = 10.0
"""Gradients over all parameters are cut to this length, which those of a training that goes well rarely have."""
_MOMENTUM = 0.9
_BETAS = (0.9, 0.999)
_FACTOR = "factor"
"""Of a group of parameters: its learning rate by that of the head."""


@dataclass(frozen=True)
class Criterion:
    """The loss: cross-entropy with smoothed labels, each class counted with its weight."""

    smoothing: float
    weights: Tensor | None
    """For each class `(K,) float32`, one on average over the images; None where all count the same."""

    @classmethod
    def of(cls, descent: Descent, splits: Splits, device: torch.device) -> "Criterion":
        weights = None
        if descent.balance == "weights":
            weights = torch.from_numpy(order.rarity(splits)).float().to(device)
        return cls(descent.label_smoothing, weights)

    def __call__(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The mean loss in nats for `targets`, either indices `(N,) int64` or shares of each class `(N, K) float32`."""
        loss = self._of(outputs.logits, targets)
        for logits in outputs.auxiliary:
            loss = loss + AUXILIARY_WEIGHT * self._of(logits, targets)
        return loss

    def _of(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if self.weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        losses = functional.cross_entropy(logits, targets, weight=self.weights, reduction="none")
        if self.smoothing:
            # An image's own class decides what it counts. By torch's `label_smoothing` the share that goes to all
            # classes has the weight of each of these, and images of frequent classes would best be taken for rare ones.
            counted = self.weights[targets] if targets.ndim == 1 else (targets * self.weights).sum(dim=1)
            spread = -functional.log_softmax(logits, dim=1).mean(dim=1)
            losses = (1 - self.smoothing) * losses + self.smoothing * counted * spread
        return losses.mean()


class Learner:
    """A network on its way, computed in bf16 where that does no harm if `half` is set. `state` and `restore` carry
    everything that its next step depends on."""

    def __init__(
        self,
        network: Classifier,
        descent: Descent,
        criterion: Criterion,
        forward: Callable[[Classifier, Tensor], Outputs],
        *,
        half: bool = False,
        peers: Peers = ALONE,
    ) -> None:
        self.network = network
        self._half = half
        self._forward = forward
        self._peers = peers
        self._descent = descent
        self._criterion = criterion
        self._parameters = list(network.parameters())
        self._replayed: graphs.Replayed | None = None
        if peers.count == 1 and graphs.are_wanted(self._parameters[0].device):
            self._replayed = graphs.Replayed(self._compute, self._parameters, graphs.Graphs())
        self._optimizer = _OPTIMIZERS[descent.optimizer](network, descent)
        self._starts = _starts(network) if descent.decay_to == "start" else {}
        self._average = copy.deepcopy(network).requires_grad_(requires_grad=False) if descent.ema else None
        self._statistics = Noted(network.buffers())

    def step(
        self, batches: Sequence[tuple[Tensor, Tensor]], *, rate: float, number: int, images: int | None = None
    ) -> Tensor:
        """One step of the optimizer over `batches` of inputs and targets at this learning rate; `number` counts the
        steps from 0. All peers together have so many `images`, those of `batches` if it is not given. Gives the loss
        before the step, summed over the images, a number on the device: it is not waited for.

        Where the memory runs out on the way to the gradients, all is as it was. Raises `Unavailable` where it does in
        the midst of the optimizer's work, half of which cannot be undone.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group[_FACTOR]
        with self._statistics.kept_if_failing():
            total = self._add_gradients(batches, images)
            self._ask_for_room()
        try:
            with memory.told_alike():
                self._apply(number)
        except torch.OutOfMemoryError as error:
            said = "the optimizer's step has no room in the device's memory; take a smaller batch_size or backbone"
            raise errors.Unavailable(said, code="out_of_memory") from error
        return total

    def _add_gradients(self, batches: Sequence[tuple[Tensor, Tensor]], images: int | None) -> Tensor:
        """Give the parameters the gradients of a step; and its loss, summed."""
        self._optimizer.zero_grad()
        total = torch.zeros((), device=batches[0][0].device)
        count = images or sum(len(inputs) for inputs, _ in batches)
        for inputs, targets in batches:
            if self._replayed is not None and len(inputs) == count:
                loss = self._replayed(inputs, targets)
            else:
                loss = self._compute(inputs, targets, share=len(inputs) / count)
            total += loss * len(inputs)
        # What has no part in the loss has no gradient, with none of the peers.
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._peers.add_up([*gradients, total])
        # A single batch that is all wrong would throw networks without normalisation so far that they never come back.
        clip_grad_norm_(self._parameters, _LONGEST)
        return total

    def _ask_for_room(self) -> None:
        """Run out of memory here and not half-way, where the optimizer's step would: it takes as much as the trained
        values once more in passing, and for good at its first step. On a CPU the system gives memory before it has
        it."""
        trained = [parameter for parameter in self._parameters if parameter.grad is not None]
        if not trained or trained[0].device.type == "cpu":
            return
        times = 1 if self._optimizer.state else 3
        size = times * sum(parameter.numel() * parameter.element_size() for parameter in trained)
        torch.empty(size, dtype=torch.uint8, device=trained[0].device)

    def _apply(self, number: int) -> None:
        self._optimizer.step()
        self._pull_back()
        self._follow(number)

    def hold(self, stage: str | None) -> None:
        """Train no stage up to this one, for now; None for all that the plan trains."""
        self.network.hold(stage)
        if self._replayed is not None:
            self._replayed.forget()

    @property
    def replays(self) -> int:
        """How many shapes of batches are not computed anew each time, but repeated as they were captured."""
        return 0 if self._replayed is None else self._replayed.captured

    def save_memory(self) -> bool:
        """Compute in less memory from now on, where there is a way that gives the same; and say whether there is."""
        return self._replayed is not None and self._replayed.stop()

    def end(self) -> None:
        """Let go of what further steps would need; there are none."""
        if self._replayed is not None:
            self._replayed.forget()
        # It refers to this one, and memory of a GPU would wait for Python to look for such circles.
        self._replayed = None

    def _compute(self, inputs: Tensor, targets: Tensor, *, share: float = 1.0) -> Tensor:
        """The mean loss of a batch, whose gradients it adds to those of the parameters as the batch's `share`."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._half):
            loss = self._criterion(self._forward(self.network, inputs), targets)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @property
    def kept(self) -> Classifier:
        """The network whose values are kept: the moving average where there is one."""
        return self.network if self._average is None else self._average

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Give the network these values, all that it has."""
        _take(self.network, values)

    def state(self) -> dict[str, Tensor]:
        """All values by name, not copied."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": value for name, value in self._average.state_dict().items()}
        for name, key, value in self._memory():
            tensors[f"{key}.{name}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        _take(self.network, _under("network.", tensors))
        if self._average is not None:
            _take(self._average, _under("average.", tensors))
        for key in _KEYS[self._descent.optimizer]:
            saved = _under(f"{key}.", tensors)
            for name, parameter in self.network.named_parameters():
                if name in saved:
                    self._optimizer.state[parameter][key] = _placed(saved[name], parameter)

    def _memory(self) -> Iterator[tuple[str, str, Tensor]]:
        for name, parameter in self.network.named_parameters():
            for key in _KEYS[self._descent.optimizer]:
                if key in self._optimizer.state[parameter]:
                    yield name, key, self._optimizer.state[parameter][key]

    @torch.no_grad()
    def _pull_back(self) -> None:
        """Take each weight that is trained some way back to where it started ("Explicit Inductive Bias for Transfer
        Learning with Convolutional Networks", Li et al. 2018); apart from the gradient, as in AdamW."""
        for group in self._optimizer.param_groups if self._starts else ():
            pulled = [one for one in group["params"] if one in self._starts and one.requires_grad]
            if pulled:
                way = min(1.0, group["lr"] * self._descent.weight_decay)
                torch._foreach_lerp_(pulled, [self._starts[one] for one in pulled], way)

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        if self._average is None:
            return
        # At first the average is short, or it would be that of the random values for hundreds of steps.
        decay = min(self._descent.ema, (1 + number) / (10 + number))
        pairs = list(zip(self._average.state_dict().values(), self.network.state_dict().values(), strict=True))
        moved = [(average, value) for average, value in pairs if average.is_floating_point()]
        torch._foreach_lerp_([average for average, _ in moved], [value for _, value in moved], 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


class Noted:
    """Buffers of a network, like running statistics, that are to be as before where a step fails."""

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in buffers:
            by_type.setdefault(buffer.dtype, []).append(buffer)
        # Of one type, all are copied at once, which takes next to no time beside a step.
        self._pairs = [(some, [torch.empty_like(one) for one in some]) for some in by_type.values()]

    @contextmanager
    def kept_if_failing(self) -> Iterator[None]:
        """Inside they may change, and are put back when an error comes out."""
        for now, before in self._pairs:
            torch._foreach_copy_(before, now)
        try:
            yield
        except Exception:
            for now, before in self._pairs:
                torch._foreach_copy_(now, before)
            raise


def sizes(network: Classifier, descent: Descent) -> tuple[int, int]:
    """Bytes of what `Learner.state` gives at most, and of the network's values alone."""
    values = sum(value.nbytes for value in network.state_dict().values())
    trained = sum(parameter.nbytes for parameter in network.parameters() if parameter.requires_grad)
    return values * (2 if descent.ema else 1) + len(_KEYS[descent.optimizer]) * trained, values


def _sgd(network: Classifier, descent: Descent) -> torch.optim.Optimizer:
    is_fused = next(network.parameters()).device.type == "cuda"
    optimizer = torch.optim.SGD(
        _groups(network, descent), lr=descent.learning_rate, momentum=_MOMENTUM, nesterov=True, fused=is_fused
    )
    if is_fused:
        # It takes all momenta of a group to be there or none, and those of stages that are held come later.
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return optimizer


def _adamw(network: Classifier, descent: Descent) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_groups(network, descent), lr=descent.learning_rate, betas=_BETAS)


def _groups(network: Classifier, descent: Descent) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = []
    for depth, parameters in enumerate(_by_depth(network, descent)):
        # Biases and the scales of BatchNorm have one dimension; to shrink them helps nothing (Goyal et al. 2017).
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        factor = descent.layer_decay**depth
        decay = descent.weight_decay if descent.decay_to == "zero" else 0.0
        groups.append({"params": matrices, "weight_decay": decay, _FACTOR: factor})
        groups.append({"params": vectors, "weight_decay": 0.0, _FACTOR: factor})
    return groups


def _by_depth(network: Classifier, descent: Descent) -> list[list[nn.Parameter]]:
    """What is trained: first the head and all that belongs to no stage, then the last stage, down to the first."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if descent.layer_decay == 1:
        return [[*trained.values()]]
    depths = []
    for stage in network.stages:
        part = network.walk.part(network.body, stage)
        inside = [name for name in trained if part.holds(name.removeprefix("body."))]
        depths.append([trained.pop(name) for name in inside])
    return [[*trained.values()], *reversed(depths)]


def _starts(network: Classifier) -> dict[nn.Parameter, Tensor]:
    """The values that the weights that are trained have now."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim > 1]
    return {parameter: parameter.detach().clone() for parameter in trained}


def _take(network: Classifier, values: Mapping[str, Tensor]) -> None:
    network.load_state_dict(networks.versioned(network, values))


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    """A saved value with the memory order of its parameter, which the optimizer's own would have."""
    if value.shape != parameter.shape:
        return value  # AdamW's count of steps
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


_OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}
_MOST_LOSS = 100.0
"""Nats. Who knows nothing loses the logarithm of how many labels there are."""
_KEYS = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}


class Diverged(errors.Invalid):
    """The loss is no number any more, or has run away."""

    title = "The training diverged"
    default_code = "training_diverged"

    def __init__(self, epoch: int, learning_rate: float) -> None:
        super().__init__(
            f"the training diverged in epoch {epoch}; a learning rate below {learning_rate:g} may help",
            detail={"epoch": epoch, "learning_rate": learning_rate},
        )
        self.epoch = epoch


def check(loss: float, descent: Descent, epoch: int) -> None:
    """Raises `Diverged` where the mean `loss` is no number any more, or so large that nothing will come of it."""
    if not loss < _MOST_LOSS:
        raise Diverged(epoch, descent.learning_rate)


@contextmanager
def seeded(seed: list[int], device: torch.device) -> Iterator[None]:
    """Inside, the random numbers of torch (dropout) are those of this step; outside, they are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        yield
