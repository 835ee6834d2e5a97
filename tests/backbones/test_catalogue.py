import pytest
import torch
import torchvision

from app import errors
from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.backbones.networks import ARCHITECTURES

BACKBONES = list(catalogue.BACKBONES.values())
PUBLISHED = [entry for entry in BACKBONES if entry.weights is not None and entry.weights.url is not None]


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_the_parameters_are_those_of_the_network(backbone: Backbone) -> None:
    with torch.device("meta"):
        network = ARCHITECTURES[backbone.name].make(False)
    assert sum(parameter.numel() for parameter in network.parameters()) == backbone.parameters


@pytest.mark.parametrize("backbone", PUBLISHED, ids=lambda backbone: backbone.name)
def test_the_weights_are_those_that_torchvision_publishes(backbone: Backbone) -> None:
    assert backbone.weights is not None
    published = torchvision.models.get_model_weights(backbone.name)[backbone.weights.name]
    preset = published.transforms()
    metrics = published.meta["_metrics"]["ImageNet-1K"]
    assert backbone.weights.url is not None
    assert backbone.weights.url == published.url
    assert backbone.weights.url.endswith(f"/{backbone.weights.file_name}")
    assert backbone.weights.classes == len(published.meta["categories"])
    assert (backbone.weights.top1, backbone.weights.top5) == (metrics["acc@1"], metrics["acc@5"])
    assert [backbone.weights.preprocessing.resize] == preset.resize_size
    assert [backbone.weights.preprocessing.crop] == preset.crop_size
    assert list(backbone.weights.preprocessing.mean) == preset.mean
    assert list(backbone.weights.preprocessing.std) == preset.std
    assert backbone.gmac == published.meta["_ops"]
    assert backbone.min_size == published.meta["min_size"][0]
    assert len(backbone.weights.sha256_prefix) == 8


def test_every_backbone_can_be_built() -> None:
    assert set(ARCHITECTURES) == set(catalogue.BACKBONES)
    assert all(len(ARCHITECTURES[entry.name].auxiliary) == entry.auxiliary_heads for entry in BACKBONES)


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(errors.UnknownName) as caught:
        catalogue.find("mobilenetv2")
    assert caught.value.code == "unknown_backbone"
    assert "mobilenet_v2" in caught.value.message
