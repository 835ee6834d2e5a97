"""How fast running statistics become those of the images, in layers that are new and in others."""

from torch import nn

from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from worker.training import norms


def build(backbone: str) -> Classifier:
    return classifiers.build(catalogue.find(backbone), 2, state=None, seed=0)


def momenta(network: nn.Module) -> list[float | None]:
    return [module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_layers_that_have_seen_nothing_follow_the_images_within_some_steps() -> None:
    network = build("mobilenet_v3_small")
    assert set(momenta(network)) == {0.01}
    norms.hasten(network)
    assert set(momenta(network)) == {0.1}


def test_layers_with_statistics_of_their_own_stay_as_slow_as_they_were_published() -> None:
    network = build("mnasnet0_5")
    last = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    own = last.momentum
    assert last.running_mean is not None
    last.running_mean.fill_(0.5)
    norms.hasten(network)
    assert momenta(network)[-1] == own
    assert set(momenta(network)[:-1]) == {0.1}


def test_a_layer_that_is_quicker_by_itself_or_averages_all_batches_stays_so() -> None:
    quick, plain, bare = nn.BatchNorm2d(3, momentum=0.5), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3)
    bare.running_mean = None
    norms.hasten(nn.Sequential(quick, plain, bare))
    assert (quick.momentum, plain.momentum, bare.momentum) == (0.5, None, 0.1)
