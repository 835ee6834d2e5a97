"""One pass of an image without values through a network, and what every layer did to it.

A dispatch mode sees each operator that PyTorch carries out, whether a module or a plain function asked for it. Modes
belong to the thread that entered them, so that networks at work in other threads notice nothing.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from app.backbones import operators
from app.backbones.operators import Effect, Pair

# Layers that leave an image as it is when the network is not being trained.
_PASSIVE = {"Dropout": "dropout", "Dropout2d": "dropout", "Flatten": "flatten"}
_COMPOSED = {"LocalResponseNorm": "lrn"}


@dataclass(frozen=True)
class Reach:
    """How a tensor hangs together with the image that it was made of."""

    field: Pair | None
    """Height and width of the part of the image that one value depends on; None for the whole image."""
    jump: Pair
    """Pixels of the image between two neighbouring values."""
    depth: int
    """Most convolutions and fully connected layers on a way from the image."""
    places: int
    """Height times width of the map."""


@dataclass(frozen=True)
class Step:
    """One layer at work. Sizes are for one image."""

    module: str
    """Name of the module that asked for it, empty for the network itself."""
    function: str
    """The operator, where the module is more than this one layer."""
    effect: Effect
    output: tuple[int, ...]
    values: int
    """Values of the output; 0 where the layer does nothing to its input."""
    in_place: bool
    parameters: int
    reach: Reach


@dataclass
class Memory:
    """One piece of memory for outputs, from the step that made it to the last one that needs it."""

    values: int
    bytes_each: int | None
    """None for floating-point values, which have the size that the caller chooses."""
    first: int
    last: int


@dataclass
class _Call:
    module: str
    is_layer: bool
    kind: str
    seen: bool = False
    effects: list[Effect] = field(default_factory=list)
    parameters: int = 0
    source: int = 0
    output: Tensor | None = None


class ShortNorm(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """BatchNorm on the meta device by the shapes of its results alone.

    PyTorch carries it out there operator by operator in Python, which takes most of the time of a pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.native_batch_norm.default and args[0].is_meta:
            return _normalised(args[0], training=args[5])
        return func(*args, **(kwargs or {}))


def _normalised(batch: Tensor, *, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What comes out, and the mean and the deviation of each channel, which are kept in training only."""
    kept = batch.shape[1] if training else 0
    return torch.empty_like(batch), batch.new_empty(kept), batch.new_empty(kept)


def trace(network: nn.Module, image: Tensor) -> "Tracer":
    """What happens in `network` to `image` `(1, C, H, W)`, both on the meta device."""
    tracer = Tracer(network, image)
    with tracer.listening(network), torch.no_grad(), tracer:
        tracer.result = network(image)
    return tracer


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The steps of one pass, in their order."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.memory: dict[int, Memory] = {}
        self.result: Any = None
        self._calls: list[_Call] = []
        self._clock = 0
        # By storage, since views and in-place results are other tensors over the same values.
        self._reaches = {storage_of(image): Reach((1, 1), (1, 1), 0, image.shape[-2] * image.shape[-1])}
        self._made_of = {storage_of(value): {name} for name, value in network.named_parameters()}
        self._sizes = {name: value.numel() for name, value in network.named_parameters()}
        self._alive: list[torch.UntypedStorage] = []
        self._remember(image)

    @contextmanager
    def listening(self, network: nn.Module) -> Iterator[None]:
        """Hear of every module that starts and ends."""
        with ExitStack() as hooks:
            for name, module in network.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(partial(self._enter, name)))
                hooks.enter_context(module.register_forward_hook(partial(self._leave, name)))
            yield

    @property
    def depth(self) -> int:
        """Most convolutions and fully connected layers between the image and a result."""
        keys = map(storage_of, _tensors([self.result]))
        return max((self._reaches[key].depth for key in keys if key in self._reaches), default=0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = list(_tensors([result]))
        if outputs:
            self._see(func, args, list(_tensors([*args, *(kwargs or {}).values()])), outputs)
        return result

    def _see(self, func: Any, args: Sequence[Any], inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self._clock += 1
        keys = [storage_of(value) for value in inputs]
        reaches = [self._reaches[key] for key in keys if key in self._reaches]
        names = set().union(*(self._made_of.get(key, ()) for key in keys))
        if not reaches:
            for value in outputs:
                self._made_of.setdefault(storage_of(value), names)
                self._alive.append(value.untyped_storage())
            return
        for key in keys:
            if key in self.memory:
                self.memory[key].last = self._clock
        is_view = storage_of(outputs[0]) in keys and not func._schema.is_mutable
        if not is_view:
            self._act(operators.effect(func._opname, args, outputs[0]), _joined(reaches), names, keys, outputs)

    def _act(self, effect: Effect, before: Reach, names: set[str], keys: list[int], outputs: list[Tensor]) -> None:
        parameters = sum(self._sizes.pop(name, 0) for name in names)
        after = _after(effect, before, outputs[0])
        for value in outputs:
            self._reaches[storage_of(value)] = after
        call = self._calls[-1] if self._calls else None
        if call is not None:
            call.seen = True
        in_layer = call is not None and call.is_layer
        if after == before and after.depth == 0 and after.field == (1, 1) and not names and not in_layer:
            self._alive += [value.untyped_storage() for value in outputs]
            return  # still the image, at most in other colours
        for value in outputs:
            self._remember(value)
        if call is None or not call.is_layer:
            module = call.module if call else ""
            self.steps.append(_step(module, effect.type, [effect], outputs[0], keys, parameters, after))
            return
        call.source = call.source or keys[0]
        call.effects.append(effect)
        call.parameters += parameters
        call.output = outputs[0]

    def _enter(self, name: str, module: nn.Module, _inputs: Any) -> None:
        is_layer = next(module.children(), None) is None
        self._calls.append(_Call(name, is_layer, type(module).__name__))

    def _leave(self, name: str, module: nn.Module, _inputs: Any, result: Any) -> None:
        call = self._calls.pop()
        if call.output is not None:
            reach = self._reaches[storage_of(call.output)]
            effects = call.effects
            if call.kind in _COMPOSED or (len(effects) > 1 and not any(effect.macs for effect in effects)):
                effects = [Effect(_COMPOSED.get(call.kind, _snake(call.kind)))]
            self.steps.append(_step(name, "", effects, call.output, [call.source], call.parameters, reach))
        elif (
            call.kind in _PASSIVE
            and not call.seen
            and isinstance(result, Tensor)
            and storage_of(result) in self._reaches
        ):
            reach, effect = self._reaches[storage_of(result)], Effect(_PASSIVE[call.kind])
            shape = tuple(result.shape[1:])
            self.steps.append(Step(name, "", effect, shape, values=0, in_place=True, parameters=0, reach=reach))

    def _remember(self, value: Tensor) -> None:
        key, storage = storage_of(value), value.untyped_storage()
        if key not in self.memory:
            # Held, or a later tensor could get the same address.
            self._alive.append(storage)
            size = value.element_size()
            each = None if value.is_floating_point() else size
            self.memory[key] = Memory(storage.nbytes() // size, each, self._clock, self._clock)


def _step(
    module: str, function: str, effects: list[Effect], output: Tensor, keys: list[int], parameters: int, reach: Reach
) -> Step:
    main = next((effect for effect in effects if effect.macs), effects[-1])
    main = replace(main, macs=sum(effect.macs for effect in effects))
    in_place = storage_of(output) in keys
    idle = _is_idle(main)
    return Step(
        module, function, main, tuple(output.shape[1:]), 0 if idle else output.numel(), in_place, parameters, reach
    )


def _is_idle(effect: Effect) -> bool:
    """Whether this is a pooling whose windows hold one value each."""
    if effect.type not in operators.POOLS:
        return False
    if effect.window is None:
        return not effect.whole_image
    return effect.window.kernel == (1, 1) and effect.window.stride == (1, 1)


def _joined(reaches: list[Reach]) -> Reach:
    """What a sum or a concatenation depends on: the largest of its parts."""
    fields = [reach.field for reach in reaches]
    whole = None in fields
    return Reach(
        None if whole else _largest([pair for pair in fields if pair is not None]),
        _largest([reach.jump for reach in reaches]),
        max(reach.depth for reach in reaches),
        max(reach.places for reach in reaches),
    )


def _after(effect: Effect, before: Reach, output: Tensor) -> Reach:
    reach = replace(before, depth=before.depth + effect.is_weighted_layer)
    mixes = effect.rows is not None and effect.rows != before.places
    if effect.whole_image or mixes:
        return replace(reach, field=None, places=effect.rows or 1)
    if effect.window is None:
        return reach
    window = effect.window
    jump = (before.jump[0] * window.stride[0], before.jump[1] * window.stride[1])
    places = output.shape[-2] * output.shape[-1]
    if before.field is None:
        return replace(reach, jump=jump, places=places)
    height, width = (
        size + (kernel - 1) * dilation * step
        for size, kernel, dilation, step in zip(before.field, window.kernel, window.dilation, before.jump, strict=True)
    )
    return replace(reach, field=(height, width), jump=jump, places=places)


def _largest(pairs: list[Pair]) -> Pair:
    return max(height for height, _ in pairs), max(width for _, width in pairs)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def storage_of(value: Tensor) -> int:
    """Which memory holds the values of `value`, as long as it lives."""
    place: int = value.untyped_storage()._cdata
    return place


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
