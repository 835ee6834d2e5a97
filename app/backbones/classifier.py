"""A classifier: a backbone without its last layer, a new one for our labels, and the preprocessing they belong to."""

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from app import errors
from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.backbones.networks import ARCHITECTURES, Architecture, AuxiliaryHead
from app.backbones.preprocess import Preprocessing


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
    """Images `(N, 3, H, W) uint8` to `Outputs`; `body` gives the features and `head` the logits."""

    def __init__(
        self, body: nn.Module, head: nn.Linear, preprocessing: Preprocessing, auxiliary: tuple[AuxiliaryHead, ...] = ()
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.auxiliary = auxiliary
        self.normalisation = Normalisation(preprocessing)
        self.body = body
        self.head = head

    def forward(self, images: Tensor) -> Outputs:
        # torchvision's networks with auxiliary heads return named tuples in training mode, (features, *logits).
        result = self.body(self.normalisation(images))
        features, *auxiliary = (result,) if isinstance(result, Tensor) else result
        return Outputs(self.head(features), tuple(auxiliary))

    def features(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W) uint8` to features `(N, feature_dim) float32`; in evaluation mode only."""
        result: Tensor = self.body(self.normalisation(images))
        return result

    def state(self) -> dict[str, Tensor]:
        """All values that a finished classifier needs, on the CPU; `restore` is the way back.

        Auxiliary heads are left out: they have done their work.
        """
        dropped = tuple(f"body.{head.module}." for head in self.auxiliary)
        return {
            name: value.detach().cpu().contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(dropped)
        }


class InferenceForm(nn.Module):
    """A classifier that can only be run, but faster; the same outputs within rounding."""

    def __init__(self, normalisation: Normalisation, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.body = body
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W) uint8` to logits `(N, classes) float32`."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W) uint8` to features `(N, feature_dim) float32`."""
        result: Tensor = self.body(self.normalisation(images))
        return result


def build(backbone: Backbone, classes: int, *, state: Mapping[str, Tensor] | None, seed: int) -> Classifier:
    """A classifier for `classes` labels: `backbone` with the published values `state`, or random ones for None.

    The last layer and the last layers of the auxiliary heads are new and random; the same `seed` gives the same
    values. Raises `WeightsUnavailable` where `state` does not fit the network.
    """
    architecture = ARCHITECTURES[backbone.name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        body = architecture.make(True) if state is None else _pretrained(backbone, architecture, state)
        body.set_submodule(architecture.last_layer, nn.Identity())
        for head in architecture.auxiliary:
            _renew(body, head, classes, pretrained=state is not None and head.pretrained)
        last_layer = nn.Linear(backbone.feature_dim, classes)
    preprocessing = backbone.scratch_preprocessing
    if state is not None and backbone.weights is not None:
        preprocessing = backbone.weights.preprocessing
    return Classifier(body, last_layer, preprocessing, architecture.auxiliary)


def restore(backbone: str, classes: int, preprocessing: Preprocessing, state: Mapping[str, Tensor]) -> Classifier:
    """The classifier whose `state()` is given, in evaluation mode and without auxiliary heads.

    Its values are the tensors given, not copies. Raises `UnknownName`, or `Unavailable` where they do not fit.
    """
    entry = catalogue.find(backbone)
    architecture = ARCHITECTURES[backbone]
    with torch.device("meta"):
        body = architecture.make(False)
        body.set_submodule(architecture.last_layer, nn.Identity())
        head = nn.Linear(entry.feature_dim, classes)
    classifier = Classifier(body, head, preprocessing)
    try:
        classifier.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise errors.Unavailable(f"the stored values do not fit {backbone} for {classes} labels: {error}") from error
    return classifier.eval()


def read_state(path: Path) -> dict[str, Tensor]:
    """The values in a weights file, by name; those in half precision as float32.

    Raises `Unavailable`; runs no code of the file's.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise errors.Unavailable(f"{path} cannot be read as weights: {error}", code="weights_unavailable") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise errors.Unavailable(f"{path} holds something else than named tensors", code="weights_unavailable")
    return state


def inference_form(classifier: Classifier) -> InferenceForm:
    """A frozen copy of `classifier` with BatchNorm folded into the convolutions and channels-last values."""
    body = copy.deepcopy(classifier.body).eval()
    for auxiliary in classifier.auxiliary:
        setattr(body, auxiliary.module, None)
    for module in list(body.modules()):
        _fold_children(module)
    form = InferenceForm(copy.deepcopy(classifier.normalisation), body, copy.deepcopy(classifier.head))
    form.requires_grad_(requires_grad=False)
    return form.eval().to(memory_format=torch.channels_last)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.Unavailable(f"{path} cannot be read as weights: {error}", code="weights_unavailable") from error
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in state.items()}


def _pretrained(backbone: Backbone, architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    # On the meta device nothing is initialised only to be overwritten.
    with torch.device("meta"):
        body = architecture.make(True)
        body.set_submodule(architecture.last_layer, nn.Identity())
    # Copies, so that training does not write into what the caller holds; without the layer that is replaced, which
    # weights need not have.
    replaced = f"{architecture.last_layer}."
    copies = {name: value.clone() for name, value in state.items() if not name.startswith(replaced)}
    try:
        body.load_state_dict(copies, strict=True, assign=True)
    except RuntimeError as error:
        raise errors.WeightsUnavailable(backbone.name, [f"the values do not fit the network: {error}"]) from error
    return body


def _renew(body: nn.Module, head: AuxiliaryHead, classes: int, *, pretrained: bool) -> None:
    module = body.get_submodule(head.module)
    if not pretrained:
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
            setattr(module, norm_name, nn.Identity())
