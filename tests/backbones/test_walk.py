"""The chains of the catalogue against the libraries' own networks, whose insides are watched by hooks."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from app.backbones import catalogue, classifier, networks
from app.backbones.catalogue import Backbone
from app.backbones.walk import ChainWalk
from tests.backbones.samples import REPRESENTATIVES, heavy, images, library_network
from tests.backbones.test_classifier import check_a_frozen_training_step

ALL = [
    pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if heavy(entry) else [])
    for entry in catalogue.backbones().values()
]
OF_EACH_FAMILY = [pytest.param(catalogue.find(name), id=name) for name in REPRESENTATIVES]


# Large ones whose siblings here are frozen at every stage; another test freezes these at their middle one.
AS_THEIR_SIBLINGS = ("alexnet_2012", "zfnet", "vgg11_bn", "inception_v2", "inception_v3", "inception_v4", "swin_v2_t")
VIT_SIZE = 64
"""Pixels: four patches or more, of any vision transformer here."""


def floats(backbone: Backbone, size: int | None = None) -> Tensor:
    normalised: Tensor = classifier.Normalisation(backbone.scratch_preprocessing)(images(backbone, size=size))
    return normalised


def few(backbone: Backbone) -> Tensor:
    """One image, where the network takes none but large ones."""
    return floats(backbone)[: 1 if backbone.auxiliary else 2]


def outputs_of(network: nn.Module, names: list[str], batch: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What these modules give when the network runs as its library means it to, and what the whole network gives."""
    found: dict[str, Tensor] = {}
    handles = [
        # Copies, since the next module may write over what it is given.
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output.clone()})
        )
        for name in names
    ]
    with torch.inference_mode():
        whole: Tensor = network(batch)
    for handle in handles:
        handle.remove()
    return found, whole


@pytest.mark.parametrize("backbone", ALL)
def test_every_stage_gives_what_the_librarys_own_network_computes_there(backbone: Backbone) -> None:
    size = VIT_SIZE if backbone.family == "Vision Transformer" else None
    network, walk, batch = library_network(backbone.name, size), networks.walk(backbone), floats(backbone, size)
    assert backbone.chain is not None
    assert isinstance(walk, ChainWalk)
    ends = {stage.name: stage.steps[-1] for stage in backbone.chain.stages if not stage.steps[-1].startswith(":")}
    expected, logits = outputs_of(network, list(ends.values()), batch)
    with torch.inference_mode():
        for stage, found in zip(walk.stages, walk.each(network, batch), strict=True):
            assert stage not in ends or torch.equal(found, expected[ends[stage]]), stage
        features = walk.features(network, batch, auxiliary=False).features
        head = network.get_submodule(backbone.chain.head)
        if isinstance(head, nn.Linear):
            assert torch.equal(head(features), logits)
        else:
            # SqueezeNet's classes are told apart by a convolution in front of the mean.
            assert torch.equal(features, expected[ends[walk.stages[-1]]].mean([2, 3]))


@pytest.mark.parametrize("backbone", OF_EACH_FAMILY)
def test_from_any_stage_on_the_result_is_that_of_the_whole_network(backbone: Backbone) -> None:
    network, walk, batch = library_network(backbone.name), networks.walk(backbone), few(backbone)
    with torch.inference_mode():
        whole = walk.features(network, batch, auxiliary=True)
        pooled = walk.survey(network, batch).stages
        for stage, features, facts in zip(walk.stages, pooled, backbone.stages, strict=True):
            activations = walk.activations(network, batch, stage)
            assert features.shape == (len(batch), facts.channels)
            assert torch.equal(
                walk.onward(network, activations.clone(), stage, auxiliary=True).features, whole.features
            )
        assert len(whole.auxiliary) == len(backbone.auxiliary)


@pytest.mark.parametrize("backbone", OF_EACH_FAMILY)
def test_a_network_can_be_cut_at_every_stage(backbone: Backbone) -> None:
    network, walk, batch = library_network(backbone.name), networks.walk(backbone), few(backbone)
    with torch.inference_mode():
        pooled = dict(zip(walk.stages, walk.survey(network, batch).stages, strict=True))
        before = sum(parameter.numel() for parameter in network.parameters())
        # From the last to the first, so that each cut is also one of a network that is cut already.
        for stage in reversed(walk.stages):
            cut = walk.cut(network, stage)
            left = sum(parameter.numel() for parameter in network.parameters())
            assert left <= before
            assert cut.stages == walk.stages[: walk.stages.index(stage) + 1]
            assert torch.equal(cut.features(network, batch, auxiliary=False).features, pooled[stage])
            before = left
    first = walk.part(network, walk.stages[0])
    names = tuple(f"{name}." for name in first.modules)
    assert [name for name in network.state_dict() if not name.startswith(names)] == list(first.parameters)


@pytest.mark.parametrize("backbone", [one for one in OF_EACH_FAMILY if one.id not in AS_THEIR_SIBLINGS])
def test_freezing_holds_at_every_stage(backbone: Backbone) -> None:
    built = classifier.build(backbone, 3, state=None, seed=0)
    for stage in built.stages:
        built.freeze(stage)
        check_a_frozen_training_step(built, stage, images(backbone))


@pytest.mark.parametrize("backbone", list(catalogue.backbones().values()), ids=lambda backbone: backbone.name)
def test_a_chain_leaves_no_part_of_its_network_out_and_names_none_twice(backbone: Backbone) -> None:
    chain = backbone.chain
    assert chain is not None
    network = networks.hollow(backbone, auxiliary=True)
    walk = networks.walk(backbone)
    whole = walk.part(network, walk.stages[-1])
    rest = [step for step in chain.pool if not step.startswith(":")]
    modules = [*whole.modules, *rest, chain.head, *(head.module for head in chain.auxiliary)]
    assert len(set(modules)) == len(modules)
    claimed = Counter(whole.parameters)
    for name in modules:
        claimed.update(f"{name}.{inner}" for inner, _ in network.get_submodule(name).named_parameters())
    assert claimed == Counter(name for name, _ in network.named_parameters())
    beside = tuple(f"{head.module}." for head in chain.auxiliary)
    sizes = [values.numel() for name, values in network.named_parameters() if not name.startswith(beside)]
    assert sum(sizes) == backbone.parameters
