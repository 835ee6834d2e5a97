"""Networks of timm outside of the catalogue."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from app import errors
from app.backbones import catalogue, classifier
from app.backbones.intermediates import WHOLE
from app.backbones.taps import Outlet
from tests.backbones.samples import close, equal
from tests.backbones.test_classifier import check_a_frozen_training_step

# A ResNet, a ConvNeXt, a Vision Transformer, and a tree.
NAMES = ("timm:resnet10t", "timm:convnext_atto", "timm:vit_tiny_patch16_224", "timm:dla34")


def images(name: str) -> Tensor:
    size = catalogue.find(name).input_size if "vit" in name else 64
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def library_network(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = timm.create_model(name.removeprefix("timm:"))
    return network.eval()


def kept(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Without the values of the old head, which are gone from `network`."""
    return {name: state[name] for name in network.state_dict()}


@pytest.mark.parametrize("name", NAMES)
def test_any_network_of_timm_becomes_a_classifier(name: str) -> None:
    backbone, network, batch = catalogue.find(name), library_network(name), images(name)
    built = classifier.build(backbone, 3, state=network.state_dict(), seed=0).eval()
    assert equal(built.body.state_dict(), kept(network.state_dict(), built.body))
    with torch.inference_mode():
        features = built.features(batch)
        expected = network.forward_head(network.forward_features(built.normalisation(batch)), pre_logits=True)
        assert torch.equal(features, expected.flatten(1))
        assert features.shape == (2, backbone.feature_dim)
        state = safetensors.torch.load(safetensors.torch.save(built.state()))
        restored = classifier.restore(name, 3, built.preprocessing, state)
        assert close(restored(batch).logits, built(batch).logits)
        assert close(classifier.inference_form(built)(batch), built(batch).logits)


@pytest.mark.parametrize("name", NAMES)
def test_any_network_of_timm_can_be_cut_and_frozen_at_its_stages(name: str) -> None:
    backbone, batch = catalogue.find(name), images(name)
    stages = [stage.name for stage in backbone.stages]
    whole = classifier.build(backbone, 3, state=None, seed=0).eval()
    assert list(whole.stages) == stages
    with torch.inference_mode():
        pooled = dict(zip(stages, whole.survey(batch).stages, strict=True))
    middle = stages[len(stages) // 2]
    cut = classifier.build(backbone, 3, state=None, seed=0, outlet=Outlet(stage=middle)).eval()
    restored = classifier.restore(name, 3, cut.preprocessing, cut.state(), outlet=Outlet(stage=middle))
    with torch.inference_mode():
        assert torch.equal(cut.features(batch), pooled[middle])
        assert close(restored(batch).logits, cut(batch).logits)
    assert len(cut.state()) < len(whole.state())
    whole.freeze(middle)
    check_a_frozen_training_step(whole, middle, batch)


def test_freezing_finds_what_a_stage_depends_on() -> None:
    built = classifier.build(catalogue.find("timm:resnet10t"), 2, state=None, seed=0)
    part = built.walk.part(built.body, "layer2")
    assert set(part.modules) == {"conv1", "bn1", "layer1", "layer2"}
    vit = classifier.build(catalogue.find("timm:vit_tiny_patch16_224"), 2, state=None, seed=0)
    part = vit.walk.part(vit.body, "blocks.0")
    assert set(part.modules) == {"patch_embed", "blocks.0"}
    assert set(part.parameters) == {"cls_token", "pos_embed"}


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("timm:resnet10t", set()),
        ("timm:vit_tiny_patch16_224", {"norm.weight", "norm.bias"}),
        ("timm:mobilenetv3_small_050", {"conv_head.weight", "conv_head.bias"}),
    ],
)
def test_with_the_last_stage_what_lies_behind_it_is_held(name: str, behind: set[str]) -> None:
    built = classifier.build(catalogue.find(name), 2, state=None, seed=0)
    stage = built.stages[-1]
    inside = built.walk.part(built.body, stage)
    built.hold(stage)
    held = {name for name, parameter in built.body.named_parameters() if not parameter.requires_grad}
    assert held == {name for name, _ in built.body.named_parameters()}
    assert {name for name in held if not inside.holds(name)} == behind
    built.hold(None)
    assert all(parameter.requires_grad for parameter in built.parameters())


def test_a_network_without_intermediates_has_one_stage() -> None:
    known = catalogue.find("timm:resnet10t")
    backbone = replace(known, stages=(replace(known.stages[-1], name=WHOLE),))
    built = classifier.build(backbone, 3, state=None, seed=0).eval()
    batch = images(backbone.name)
    assert built.stages == (WHOLE,)
    with torch.inference_mode():
        (pooled,) = built.survey(batch).stages
        assert close(pooled, built.features(batch))
        cut = classifier.build(backbone, 3, state=None, seed=0, outlet=Outlet(stage=WHOLE)).eval()
        assert torch.equal(cut.features(batch), pooled)
    built.freeze(WHOLE)
    check_a_frozen_training_step(built, WHOLE, batch)


def test_such_a_network_cannot_be_entered_in_the_middle() -> None:
    built = classifier.build(catalogue.find("timm:resnet10t"), 2, state=None, seed=0).eval()
    activations = built.activations(images("timm:resnet10t"), "layer1")
    with pytest.raises(errors.Invalid) as caught:
        built.onward(activations, "layer1")
    assert caught.value.code == "no_tail"
