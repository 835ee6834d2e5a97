"""A classifier: a backbone without its last layer, a new one for our labels, and the preprocessing they belong to."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from app import errors
from app.backbones import catalogue, networks, taps
from app.backbones.catalogue import Backbone, Weights
from app.backbones.chain import AuxiliaryHead
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import COLUMNS, WHOLE, Outlet, TapsWalk
from app.backbones.walk import ChainWalk, Part, Survey, Walk, outside
from app.profile import HEAD

_DRAWING = threading.Lock()
_NOTHING = Part(modules=(), parameters=())


@dataclass(frozen=True)
class Outputs:
    """Logits `(N, classes) float32`, and in training mode those of the auxiliary heads, each of the same shape."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


class Normalisation(nn.Module):
    """Images `(N, 3, H, W) uint8` to what the network expects, float32 in channels-last order."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        # Not part of the state: the preprocessing is their only source.
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=torch.channels_last) * self.scale + self.shift


class Classifier(nn.Module):
    """Images `(N, 3, H, W) uint8` to `Outputs`; `walk` leads through `body` to features, `head` gives logits."""

    def __init__(
        self, body: nn.Module, walk: Walk, head: nn.Linear, preprocessing: Preprocessing, outlet: Outlet = WHOLE
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.outlet = outlet
        self.walk = walk
        self.normalisation = Normalisation(preprocessing)
        self.body = body
        self.head = head
        self._frozen = _NOTHING
        self._held = _NOTHING
        self._idle: list[nn.Parameter] = []

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return self.walk.stages

    def forward(self, images: Tensor) -> Outputs:
        passed = self.walk.features(self.body, self.normalisation(images), auxiliary=self.training)
        return Outputs(self.head(passed.features), passed.auxiliary)

    def features(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W) uint8` to features `(N, feature_dim) float32`."""
        return self.walk.features(self.body, self.normalisation(images), auxiliary=False).features

    def survey(self, images: Tensor) -> Survey:
        """Images `(N, 3, H, W) uint8` to features, and those of each stage on the way."""
        return self.walk.survey(self.body, self.normalisation(images))

    def activations(self, images: Tensor, stage: str) -> Tensor:
        """Images `(N, 3, H, W) uint8` to what comes out of `stage`. Raises `UnknownName`."""
        return self.walk.activations(self.body, self.normalisation(images), stage)

    def onward(self, activations: Tensor, stage: str) -> Outputs:
        """What `forward` gives, from the `activations` of `stage`. Raises `UnknownName` and `Invalid`."""
        passed = self.walk.onward(self.body, activations, stage, auxiliary=self.training)
        return Outputs(self.head(passed.features), passed.auxiliary)

    def freeze(self, stage: str) -> None:
        """Keep the values of `stage` and all stages before it, running statistics included, whatever happens.

        Auxiliary heads inside of them go, since they have nothing left to help. Raises `UnknownName`.
        """
        part = self.walk.part(self.body, stage)
        for parameter in self._parameters_of(part):
            parameter.requires_grad = False
        idle = tuple(head for head in self.walk.auxiliary if head.after in part.modules)
        self.walk = self.walk.without_auxiliary(self.body, idle)
        self._frozen = part
        self.train(self.training)

    def hold(self, stage: str | None) -> None:
        """Keep `stage` and all before it as they are until this is called again, and with the last stage what lies
        between it and the head; None holds nothing.

        Other than with `freeze` nothing is removed, and what is frozen stays so. Raises `UnknownName`.
        """
        for parameter in self._idle:
            parameter.requires_grad = True
        self._held = _NOTHING if stage is None else self._up_to(stage)
        # Some never learn, like positions that are given: they are not to begin with it afterwards.
        self._idle = [parameter for parameter in self._parameters_of(self._held) if parameter.requires_grad]
        for parameter in self._idle:
            parameter.requires_grad = False
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        # BatchNorm in training mode would change its statistics, frozen or not.
        for name in (*self._frozen.modules, *self._held.modules):
            self.body.get_submodule(name).eval()
        return self

    def _up_to(self, stage: str) -> Part:
        part = self.walk.part(self.body, stage)
        if stage != self.stages[-1]:
            return part
        behind = outside(self.body, part, but=[head.module for head in self.walk.auxiliary])
        return Part(part.modules + behind.modules, part.parameters + behind.parameters)

    def _parameters_of(self, part: Part) -> Iterator[nn.Parameter]:
        for name in part.modules:
            yield from self.body.get_submodule(name).parameters()
        for name in part.parameters:
            yield self.body.get_parameter(name)

    def state(self) -> dict[str, Tensor]:
        """All values that a finished classifier needs, on the CPU; `restore` is the way back.

        Auxiliary heads are left out: they have done their work.
        """
        dropped = tuple(f"body.{head.module}." for head in self.walk.auxiliary)
        return {
            name: value.detach().cpu().contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(dropped)
        }


class InferenceForm(nn.Module):
    """A classifier that can only be run, but faster; the same outputs within rounding."""

    def __init__(self, normalisation: Normalisation, body: nn.Module, walk: Walk, head: nn.Linear) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.body = body
        self.walk = walk
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W) uint8` to logits `(N, classes) float32`."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W) uint8` to features `(N, feature_dim) float32`."""
        return self.walk.features(self.body, self.normalisation(images), auxiliary=False).features

    def survey(self, images: Tensor) -> Survey:
        """Images `(N, 3, H, W) uint8` to features, and those of each stage on the way."""
        return self.walk.survey(self.body, self.normalisation(images))


def build(
    backbone: Backbone,
    classes: int,
    *,
    state: Mapping[str, Tensor] | None,
    seed: int,
    weights: Weights | None = None,
    outlet: Outlet = WHOLE,
    columns: Tensor | None = None,
) -> Classifier:
    """A classifier for `classes` labels: `backbone` with the published values `state`, or random ones for None.

    `state` are values of `weights`, the backbone's first ones if left out. The features come out at `outlet`; of
    those of taps, `columns (F,) int64` are taken. The last layer and the last layers of the auxiliary heads are new and
    random; the same `seed` gives the same values. Raises `UnknownName` for a stage, and `WeightsUnavailable` where
    `state` does not fit the network.
    """
    preprocessing = backbone.scratch_preprocessing
    with _own_random_numbers():
        torch.default_generator.manual_seed(seed)
        if state is None:
            body = networks.make(backbone, auxiliary=True)
        else:
            weights = weights or backbone.find_weights(catalogue.PRETRAINED)
            preprocessing = weights.preprocessing
            body = _pretrained(backbone, weights, state)
        walk = networks.walk(backbone, size=preprocessing.crop)
        for head in walk.auxiliary:
            _renew(body, head, classes, drawn=state is not None and not head.pretrained)
        walk, features = _without_head(backbone, body, walk, outlet, columns)
        last_layer = nn.Linear(features, classes)
    return Classifier(body, walk, last_layer, preprocessing, outlet)


def renew(classifier: Classifier, other: Classifier, *, behind: str) -> None:
    """Give all layers of `classifier` behind this stage the values of `other`, which is of the same backbone. Raises
    `UnknownName`."""
    kept = classifier.walk.part(classifier.body, behind)
    inside = tuple(f"{name}." for name in kept.modules)
    values = {
        name: value
        for name, value in other.body.state_dict().items()
        if not name.startswith(inside) and name not in kept.parameters
    }
    classifier.body.load_state_dict(networks.versioned(classifier.body, values), strict=False)


def restore(
    backbone: str,
    classes: int,
    preprocessing: Preprocessing,
    state: Mapping[str, Tensor],
    *,
    outlet: Outlet = WHOLE,
) -> Classifier:
    """The classifier whose `state()` is given, with the `outlet` that it was built with, in evaluation mode and without
    auxiliary heads.

    Its values are the tensors given, not copies. Raises `UnknownName`, or `Unavailable` where they do not fit.
    """
    entry = catalogue.find(backbone)
    with _own_random_numbers():
        body = networks.hollow(entry, auxiliary=False, size=preprocessing.crop)
        walk = networks.walk(entry, size=preprocessing.crop)
        walk = walk.without_auxiliary(body, walk.auxiliary)
        walk, features = _without_head(entry, body, walk, outlet, state.get(f"body.{COLUMNS}"))
        with torch.device("meta"):
            head = nn.Linear(features, classes)
    classifier = Classifier(body, walk, head, preprocessing, outlet)
    try:
        networks.load(classifier, state, versions=None)
    except RuntimeError as error:
        raise errors.Unavailable(f"the stored values do not fit {backbone} for {classes} labels: {error}") from error
    return classifier.eval()


def read_state(path: Path) -> dict[str, Tensor]:
    """The values in a published weights file, by name; those in half precision as float32.

    Raises `Unavailable`; runs no code of the file's.
    """
    try:
        state = _READERS.get(path.suffix, _read_pickled)(path)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise errors.Unavailable(f"{path} cannot be read as weights: {error}", code="weights_unavailable") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise errors.Unavailable(f"{path} holds something else than named tensors", code="weights_unavailable")
    return state


def inference_form(classifier: Classifier) -> InferenceForm:
    """A frozen copy of `classifier` with BatchNorm folded into the convolutions and channels-last values."""
    body, head = copy.deepcopy(classifier.body), copy.deepcopy(classifier.head)
    return _folded(classifier, body, head)


def turned(classifier: Classifier) -> InferenceForm:
    """The same in place of `classifier`, which is of no use afterwards, for a third of the memory; its values are
    copies of those that the classifier was restored from."""
    before = {value.data_ptr() for value in classifier.state_dict().values()}
    form = _folded(classifier, classifier.body, classifier.head)
    for value in (*form.parameters(), *form.buffers()):
        if value.data_ptr() in before:
            value.data = value.data.clone(memory_format=torch.preserve_format)
    return form


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Numbers drawn here change none of others. One thread at a time: all share one generator, whose lock torch holds
    while it makes a Python object of its state. If Python code collects garbage meanwhile, another thread may get the
    interpreter's lock, and wait for the generator's for ever."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        yield


def _folded(classifier: Classifier, body: nn.Module, head: nn.Linear) -> InferenceForm:
    body.eval()
    walk = classifier.walk.without_auxiliary(body, classifier.walk.auxiliary)
    if isinstance(walk.inner if isinstance(walk, TapsWalk) else walk, ChainWalk):
        for module in list(body.modules()):
            _fold_children(module)
    form = InferenceForm(copy.deepcopy(classifier.normalisation), body, walk, head)
    form.requires_grad_(requires_grad=False)
    return form.eval().to(memory_format=torch.channels_last)


def _read_pickled(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> object:
    values = safetensors.torch.load_file(path)
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in values.items()}


_READERS: dict[str, Callable[[Path], object]] = {".safetensors": _read_safetensors}


def _pretrained(backbone: Backbone, weights: Weights, state: Mapping[str, Tensor]) -> nn.Module:
    try:
        return networks.pretrained(backbone, weights, state)
    except (RuntimeError, KeyError) as error:
        raise errors.WeightsUnavailable(backbone.name, [f"the values do not fit the network: {error}"]) from error


def _without_head(
    backbone: Backbone, body: nn.Module, walk: Walk, outlet: Outlet, columns: Tensor | None
) -> tuple[Walk, int]:
    """The way through `body` to features, and how many there are; what is not needed for them is removed."""
    if outlet.stage is not None:
        walk = walk.cut(body, outlet.stage)
        return walk, next(facts.channels for facts in backbone.stages if facts.name == outlet.stage)
    if not outlet.taps:
        networks.remove_head(backbone, body)
        return walk, backbone.feature_dim
    if columns is None:
        raise errors.Unavailable("the values do not say which features are taken", code="no_columns")
    if outlet.taps[-1] == HEAD:
        networks.remove_head(backbone, body)
    return taps.tap(body, walk, outlet.taps, columns), len(columns)


def _renew(body: nn.Module, head: AuxiliaryHead, classes: int, *, drawn: bool) -> None:
    """A new last layer for `head`; with `drawn` its other layers get random values, as nobody has trained them."""
    module = body.get_submodule(head.module)
    if drawn:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                layer.reset_parameters()
    old = module.get_submodule(head.last_layer)
    assert isinstance(old, nn.Linear)
    module.set_submodule(head.last_layer, nn.Linear(old.in_features, classes))


def _fold_children(module: nn.Module) -> None:
    """Fold each BatchNorm among the children into the convolution registered right before it.

    In the networks of the catalogue that is the one it normalises. (torch.fx could read it off the computation, but
    while it traces, every other thread's network fails.)
    """
    for (conv_name, conv), (norm_name, norm) in list(pairwise(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            # timm's BatchNorm contains the activation function that follows it.
            setattr(module, norm_name, norm.get_submodule("act") if hasattr(norm, "act") else nn.Identity())
