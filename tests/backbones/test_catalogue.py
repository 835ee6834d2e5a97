import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from app import errors
from app.backbones import anatomy, catalogue, figures, networks, tracing
from app.backbones.catalogue import Backbone
from app.backbones.entry import Entry
from app.backbones.families import ENTRIES
from app.backbones.walk import ChainWalk
from app.backbones.written import inception_v1

ALL = list(catalogue.backbones().values())
every_backbone = pytest.mark.parametrize("backbone", ALL, ids=lambda backbone: backbone.name)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(
            entry, id=entry.name, marks=[] if entry.name in ("tinynet", "resnet18", "vgg16") else [pytest.mark.slow]
        )
        for entry in ENTRIES
    ],
)
def test_the_figures_are_those_that_the_network_itself_gives(entry: Entry) -> None:
    assert catalogue.assemble(entry, figures.of(entry)) == catalogue.find(entry.name)


def test_the_families_with_layers_between_the_last_stage_and_the_classifier_are_known() -> None:
    families = {entry.family for entry in ALL if entry.pre_logits}
    assert families == {"AlexNet", "ConvNeXt", "GhostNet", "MobileNet", "VGG", "ZFNet"}
    assert [catalogue.find(name).facts.pre_logits for name in ("vgg16", "resnet18", "timm:resnet26")] == [
        True,
        False,
        None,
    ]


@every_backbone
def test_an_entry_says_what_one_must_know_of_it(backbone: Backbone) -> None:
    assert backbone.year is not None
    assert 2012 <= backbone.year <= 2026
    assert backbone.paper.startswith("https://") or backbone.family == "TinyNet"
    assert len(backbone.summary) > 80
    assert backbone.summary.endswith(".")
    assert bool(backbone.weights) or "scratch" in backbone.summary
    assert backbone.min_size <= backbone.input_size
    assert backbone.chain is not None
    assert [stage.name for stage in backbone.stages] == list(backbone.chain.names)
    assert all(stage.channels > 0 for stage in backbone.stages)
    for weights in backbone.weights:
        assert weights.classes in (1000, 11821) or (backbone.source, weights.classes) == ("graft", 0)
        assert weights.hub is not None or len(weights.sha256_prefix or "") in (8, 10)


# Name, parameters with 1,000 classes, GMAC, and millions of values out of convolutions and dense layers.
CASE_STUDIES = [
    ("alexnet", 61_100_840, 0.714, 0.49),
    ("vgg16", 138_357_544, 15.47, 13.56),
    ("vgg19", 143_667_240, 19.63, 14.86),
    ("googlenet", 6_624_904, 1.498, 3.23),
    ("inception_v3", 23_834_568, 5.713, 8.97),
    ("inception_v4", 42_679_816, 12.25, 15.09),
    ("inception_resnet_v2", 55_843_464, 13.16, 25.06),
    ("resnet18", 11_689_512, 1.814, 2.48),
    ("resnet34", 21_797_672, 3.664, 3.74),
    ("resnet50", 25_557_032, 4.089, 11.11),
    ("resnet101", 44_549_160, 7.801, 16.23),
    ("resnet152", 60_192_808, 11.514, 22.56),
    ("squeezenet1_0", 1_248_424, 0.819, 4.35),
    ("squeezenet1_1", 1_235_496, 0.349, 2.59),
    ("shufflenet_v2_x1_0", 2_278_604, 0.145, 1.95),
    ("mobilenet_v2", 3_504_872, 0.301, 6.68),
    ("mobilenet_v3_large", 5_483_032, 0.217, 4.41),
    ("mnasnet1_0", 4_383_312, 0.314, 5.46),
    ("efficientnet_b0", 5_288_548, 0.386, 6.75),
    ("mobilenetv1_100", 4_231_976, 0.569, 5.04),
    ("mobilenetv4_conv_small", 3_774_024, 0.186, 1.97),
    ("ghostnet_100", 5_182_508, 0.141, 3.55),
    ("alexnet_2012", 60_965_224, 0.724, 0.66),
    ("alexnet_2012_ungrouped", 62_378_344, 1.135, 0.66),
    ("zfnet", 62_357_608, 1.168, 1.52),
    ("zfnet_512", 107_627_624, 2.477, 1.69),
    ("inception_v1", 6_998_552, 1.583, 3.23),
    ("inception_v2", 11_194_984, 2.019, 3.73),
]


@pytest.mark.parametrize(("name", "parameters", "gmac", "values"), CASE_STUDIES)
def test_the_figures_are_those_of_the_case_studies(name: str, parameters: int, gmac: float, values: float) -> None:
    backbone = catalogue.find(name)  # whose figures are those of its network: another test
    assert backbone.parameters == parameters
    assert backbone.gmac == pytest.approx(gmac, abs=0.005)
    assert backbone.activations is not None
    assert backbone.activations / 1e6 == pytest.approx(values, abs=0.005)


@pytest.mark.parametrize(
    ("name", "top1"),
    [
        ("alexnet", 56.52),
        ("vgg16", 71.59),
        ("vgg19", 72.38),
        ("googlenet", 69.78),
        ("inception_v3", 77.29),
        ("inception_v4", 80.14),
        ("inception_resnet_v2", 80.43),
        ("resnet18", 69.76),
        ("resnet34", 73.31),
        ("resnet50", 76.13),
        ("resnet101", 77.37),
        ("resnet152", 78.31),
        ("squeezenet1_0", 58.1),
        ("squeezenet1_1", 58.2),
        ("shufflenet_v2_x1_0", 69.4),
        ("mobilenetv1_100", 75.4),
        ("mobilenetv4_conv_small", 73.8),
        ("ghostnet_100", 74.0),
        ("mnasnet1_0", 73.5),
        ("efficientnet_b0", 77.7),
    ],
)
def test_the_accuracies_are_those_that_are_published(name: str, top1: float) -> None:
    assert catalogue.find(name).find_weights("pretrained").top1 == pytest.approx(top1, abs=0.06)


@pytest.mark.parametrize(("name", "top1"), [("mobilenet_v2", 72.15), ("mobilenet_v3_large", 75.27)])
def test_the_second_weights_of_mobilenets_are_the_better_ones(name: str, top1: float) -> None:
    first, second = catalogue.find(name).weights
    assert (first.name, second.name) == ("IMAGENET1K_V1", "IMAGENET1K_V2")
    assert second.top1 == pytest.approx(top1, abs=0.01)


def test_resnet_50_has_better_weights_under_their_own_name() -> None:
    resnet50 = catalogue.find("resnet50")
    assert resnet50.find_weights("IMAGENET1K_V2").top1 == pytest.approx(80.86, abs=0.01)
    assert resnet50.find_weights("pretrained").name == "IMAGENET1K_V1"
    with pytest.raises(errors.UnknownName, match="IMAGENET1K_V2") as caught:
        resnet50.find_weights("IMAGENET1K_V3")
    assert caught.value.code == "unknown_weights"
    with pytest.raises(errors.Invalid, match="zfnet") as none:
        catalogue.find("zfnet").find_weights("pretrained")
    assert none.value.code == "backbone_has_no_weights"


@pytest.mark.parametrize(
    ("name", "layers"),
    [("alexnet", 8), ("alexnet_2012", 8), ("zfnet", 8), ("vgg16", 16), ("vgg19", 19), ("googlenet", 22)]
    + [("inception_v1", 22), ("densenet121", 121)]
    + [(f"resnet{depth}", depth) for depth in (18, 34, 50, 101, 152)],
)
def test_layers_are_counted_as_the_case_studies_count_them(name: str, layers: int) -> None:
    assert catalogue.find(name).layers == layers


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "mobilenetv1_100", "swin_t"])
def test_a_network_whose_values_come_later_draws_none(name: str) -> None:
    before = torch.get_rng_state()
    networks.hollow(catalogue.find(name), auxiliary=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "parameters"), [("googlenet", 13_004_888), ("inception_v3", 27_161_264), ("inception_v1", 13_378_280)]
)
def test_auxiliary_heads_count_extra(name: str, parameters: int) -> None:
    network = networks.hollow(catalogue.find(name), auxiliary=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("googlenet", ("inception4a", "inception4d")),
        ("inception_v1", ("inception4a", "inception4d")),
        ("inception_v3", ("mixed_6e",)),
        ("resnet18", ()),
    ],
)
def test_a_plan_is_told_which_stages_auxiliary_heads_look_at(name: str, stages: tuple[str, ...]) -> None:
    assert catalogue.find(name).facts.auxiliary == stages


def test_the_auxiliary_heads_of_inception_v1_are_those_of_the_paper() -> None:
    network = networks.hollow(catalogue.find("inception_v1"), auxiliary=True)
    sizes = [sum(value.numel() for value in network.get_submodule(name).parameters()) for name in ("aux1", "aux2")]
    assert sizes == [3_188_840, 3_190_888]


def test_the_blocks_of_inception_v1_have_the_papers_weights() -> None:
    network = networks.hollow(catalogue.find("inception_v1"), auxiliary=False)
    weights = [
        sum(value.numel() for key, value in network.get_submodule(name).named_parameters() if key.endswith("weight"))
        for name in inception_v1.BLOCKS
    ]
    expected = [163_328, 388_096, 375_552, 448_512, 509_440, 604_672, 867_328, 1_042_432, 1_442_816]
    assert weights == expected


@pytest.mark.parametrize("grouped", [True, False])
def test_the_layers_of_alexnet_2012_are_those_of_the_paper(grouped: bool) -> None:
    backbone = catalogue.find("alexnet_2012" if grouped else "alexnet_2012_ungrouped")
    rows = {row.name: row for row in anatomy.of(networks.hollow(backbone, auxiliary=False), size=227).rows}
    shapes = {
        "conv1": (96, 55, 55),
        "pool1": (96, 27, 27),
        "conv2": (256, 27, 27),
        "pool2": (256, 13, 13),
        "conv3": (384, 13, 13),
        "conv4": (384, 13, 13),
        "conv5": (256, 13, 13),
        "pool5": (256, 6, 6),
    }
    assert {name: rows[name].output for name in shapes} == shapes
    parameters = {"conv1": 34_944, "pool1": 0, "conv3": 885_120, "fc6": 37_752_832, "fc7": 16_781_312, "fc8": 4_097_000}
    halved = {"conv2": (307_456, 614_656), "conv4": (663_936, 1_327_488), "conv5": (442_624, 884_992)}
    parameters |= {name: half if grouped else whole for name, (half, whole) in halved.items()}
    assert {name: rows[name].parameters for name in parameters} == parameters


def test_most_weights_of_resnet_50_lie_in_its_last_stage() -> None:
    millions = [(stage.parameters or 0) / 1e6 for stage in catalogue.find("resnet50").stages]
    assert millions[0] + millions[1] == pytest.approx(0.225, abs=0.01)
    assert millions[2:] == pytest.approx([1.22, 7.10, 14.96], abs=0.005)


@pytest.mark.parametrize("backbone", [b for b in ALL if b.source == "torchvision"], ids=lambda backbone: backbone.name)
def test_the_weights_are_those_that_torchvision_publishes(backbone: Backbone) -> None:
    published = torchvision.models.get_model_weights(backbone.name)
    named = [weights for weights in published if weights.meta["categories"]]
    assert [weights.name for weights in backbone.weights] == [weights.name for weights in named]
    for ours, theirs in zip(backbone.weights, named, strict=True):
        preset, metrics = theirs.transforms(), theirs.meta["_metrics"]["ImageNet-1K"]
        assert ours.url == theirs.url
        assert theirs.url.endswith(f"/{ours.file_name}")
        assert ours.classes == len(theirs.meta["categories"])
        assert (ours.top1, ours.top5) == (metrics["acc@1"], metrics["acc@5"])
        assert [ours.preprocessing.resize] == preset.resize_size
        assert [ours.preprocessing.crop] == preset.crop_size
        assert ours.preprocessing.interpolation == preset.interpolation.value
        assert (list(ours.preprocessing.mean), list(ours.preprocessing.std)) == (preset.mean, preset.std)
    if backbone.family != "Swin Transformer":
        assert backbone.gmac == pytest.approx(named[0].meta["_ops"], abs=0.0011)
    assert backbone.min_size == (backbone.input_size if backbone.fixed_size else named[0].meta["min_size"][0])


@pytest.mark.parametrize("backbone", [b for b in ALL if b.source == "timm"], ids=lambda backbone: backbone.name)
def test_the_weights_are_those_that_timm_publishes(backbone: Backbone) -> None:
    assert backbone.weights
    assert backbone.weights[0].name == timm.get_pretrained_cfg(backbone.name).tag
    for weights in backbone.weights:
        config = timm.get_pretrained_cfg(f"{backbone.name}.{weights.name}")
        assert weights.hub == config.hf_hub_id
        assert weights.classes == config.num_classes
        assert weights.preprocessing.crop == config.input_size[1]
        assert weights.preprocessing.resize == int(config.input_size[1] / config.crop_pct)
        assert weights.preprocessing.interpolation == config.interpolation


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(errors.UnknownName) as caught:
        catalogue.find("mobilenetv2")
    assert caught.value.code == "unknown_backbone"
    assert "mobilenet_v2" in caught.value.message


def test_a_name_of_timm_without_its_prefix_is_recognised() -> None:
    with pytest.raises(errors.UnknownName, match="timm:resnet26"):
        catalogue.find("resnet26")


def test_any_network_of_timm_is_found_with_its_weights() -> None:
    resnet26 = catalogue.find("timm:resnet26")
    assert resnet26.weights[0].name == "bt_in1k"
    assert resnet26.weights[0].hub == "timm/resnet26.bt_in1k"
    assert (resnet26.feature_dim, resnet26.stages[-1].channels, resnet26.chain) == (2048, 2048, None)
    assert catalogue.find("timm:resnet50.a3_in1k").find_weights("pretrained").name == "a3_in1k"
    for wrong in ("timm:resnet26.nonsense", "timm:rasnet26"):
        with pytest.raises(errors.UnknownName, match="timm:resnet26"):
            catalogue.find(wrong)


@pytest.mark.parametrize("architecture", ["resnet26", "convnext_atto", "vit_tiny_patch16_224"])
def test_what_is_written_of_networks_of_timm_is_what_they_give(architecture: str) -> None:
    figures_now = json.loads(json.dumps(figures.of_timm(architecture)))
    written = json.loads(Path(catalogue.__file__).with_name("timm.json").read_text())
    assert figures_now == written[architecture]


def test_every_classifier_of_timm_is_known_with_its_weights() -> None:
    written = json.loads(Path(catalogue.__file__).with_name("timm.json").read_text())
    # Encoders of language models have no classes.
    left_out = set(timm.list_models()) - written.keys()
    assert {name for name in left_out if not name.endswith("_enc")} == set()
    for architecture, facts in written.items():
        assert facts["weights"] == figures.timm_weights(architecture), architecture


def test_networks_are_chosen_by_what_they_cost() -> None:
    small = catalogue.select(max_params=3_000_000, max_gmac=0.2, has_weights=True)
    assert {entry.name for entry in small} == {
        "formnet",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "shufflenet_v2_x1_0",
        "mnasnet0_5",
    }
    assert {entry.family for entry in catalogue.select(family="resnet")} == {"ResNet"}
    assert all(not entry.weights for entry in catalogue.select(has_weights=False))
    with pytest.raises(errors.UnknownName, match="ResNet"):
        catalogue.select(family="ResNets")


def test_networks_are_sorted_by_any_figure_and_those_without_it_come_last() -> None:
    best = catalogue.sort(ALL, by="-top1")
    known = [entry.top1 for entry in best if entry.top1 is not None]
    assert known == sorted(known, reverse=True)
    assert all(entry.top1 is None for entry in best[len(known) :])
    assert len(best) == len(ALL)
    assert next(iter(catalogue.sort(ALL, by="gmac"))).name == "tinynet"


def test_the_catalogue_is_listed_without_torch() -> None:
    script = """
import sys
from app.backbones import catalogue
listed = catalogue.sort(catalogue.select(has_weights=True), by="-top1")
print(len(listed), "torch" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert (int(answer[0]) > 70, answer[1]) == (True, "False")


@pytest.mark.parametrize("name", ["inception_v1", "inception_v2", "alexnet_2012", "zfnet"])
def test_values_are_drawn_as_the_paper_says(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = networks.make(catalogue.find(name), auxiliary=False)
    layers = dict(network.named_modules())
    spread = float(
        next(m.weight.detach().std() for m in layers.values() if isinstance(m, nn.Conv2d) and m.in_channels > 90)
    )
    conv = next(m for m in layers.values() if isinstance(m, nn.Conv2d) and m.in_channels > 90)
    expected = 0.01 if name in ("alexnet_2012", "zfnet") else (2 / conv.weight[0].numel()) ** 0.5
    assert spread == pytest.approx(expected, rel=0.05)
    biases = {n: set(m.bias.unique().tolist()) for n, m in layers.items() if getattr(m, "bias", None) is not None}
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"} if name == "alexnet_2012" else set()
    assert {layer for layer, values in biases.items() if values == {1.0}} == ones
    assert all(values <= {0.0, 1.0} for values in biases.values())


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("tinynet", "none"),
        ("formnet", "pretrained"),
        ("squeezenet1_1", "pretrained"),
        ("inception_v1", "none"),
        ("mobilenetv4_conv_medium", "pretrained"),
        ("mobilenetv4_conv_medium", "e500_r224_in1k"),
        ("vit_b_32", "pretrained"),
        ("swin_t", "pretrained"),
    ],
)
def test_how_much_comes_out_of_a_stage_is_known_without_running_it(name: str, choice: str) -> None:
    backbone = catalogue.find(name)
    assert backbone.chain is not None
    crop = backbone.preprocessing_with(choice).crop
    network = networks.hollow(backbone, auxiliary=False).to("meta").eval()
    with torch.no_grad(), tracing.ShortNorm():
        each = ChainWalk(backbone.chain).each(network, torch.zeros(1, 3, crop, crop, device="meta"))
        assert backbone.facts_with(choice).values == tuple(found.numel() for found in each)


def test_of_a_network_outside_of_the_catalogue_it_is_not_known_what_comes_out_of_its_stages() -> None:
    facts = catalogue.find("timm:resnet26").facts
    assert (facts.can_enter, facts.values) == (False, ())
