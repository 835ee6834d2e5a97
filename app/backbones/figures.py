"""What the catalogue knows by computation: `python -m app.backbones.figures [catalogue] [timm]` writes it anew.

Figures come from the networks themselves, facts about weights from the libraries that offer them. To be run after a
change of a network's description or of a library's version; a test recomputes what is written.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision.models
from torch import Tensor, nn

from app.backbones import anatomy, catalogue, networks, tracing
from app.backbones.catalogue import Backbone
from app.backbones.entry import IMAGENET_MEAN, IMAGENET_STD, Entry
from app.backbones.families import ENTRIES
from app.backbones.intermediates import WHOLE, IntermediatesWalk
from app.backbones.walk import ChainWalk

Facts = dict[str, Any]

PACKAGED_WEIGHTS = "FORMULAS_V1"
"""Name of the weights in this package, after what they were trained on."""

_HUB = "https://huggingface.co"
_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")


def of(entry: Entry) -> Facts:
    """The computed facts of a network that is described by hand."""
    weights = _WEIGHTS[entry.source](entry)
    scratch = weights[0]["preprocessing"] if entry.preprocessing is None else entry.preprocessing.to_json()
    known: Facts = {"parameters": 0, "feature_dim": 0, "min_size": 0, "normalises": True, "stages": []}
    backbone = catalogue.assemble(entry, {**known, "weights": weights, "preprocessing": scratch})
    network = networks.hollow(backbone, auxiliary=False).to("meta").eval()
    size = backbone.input_size
    images = torch.zeros(1, 3, size, size, device="meta")
    stages = [(stage.name, [step for step in stage.steps if not step.startswith(":")]) for stage in entry.chain.stages]
    found = anatomy.of(network, size=size, stages=stages)
    walk = ChainWalk(entry.chain)
    with torch.no_grad(), tracing.ShortNorm():
        shapes = [activations.shape for activations in walk.each(network, images)]
        feature_dim = walk.features(network, images, auxiliary=False).features.shape[1]
    per_stage = [_stage(found, backbone, name, shape) for name, shape in zip(walk.stages, shapes, strict=True)]
    return {
        "parameters": found.totals.parameters,
        "gmac": round(found.totals.macs / 1e9, 3),
        "activations": found.totals.conv_fc_values,
        "layers": found.layers,
        "receptive_field": per_stage[-1]["receptive_field"],
        "feature_dim": feature_dim,
        "min_size": _min_size(backbone, network),
        "normalises": _normalises(network),
        "pre_logits": _learns(network, entry.chain.pool),
        "kept_bytes": found.memory.training_activations,
        "preprocessing": scratch,
        "stages": per_stage,
        "weights": weights,
    }


def of_timm(architecture: str) -> Facts:
    """The computed facts of any network of timm."""
    try:
        return _of_timm(architecture, "meta")
    except (RuntimeError, NotImplementedError):
        # Some compute with values when they are made, or when they run.
        return _of_timm(architecture, "cpu")


def _of_timm(architecture: str, device: str) -> Facts:
    config = timm.get_pretrained_cfg(architecture)
    size = config.input_size[1]
    with torch.device(device):
        network = timm.create_model(architecture).eval()
    with torch.inference_mode():
        walk, feature_dim, channels = _timm_walk(network, torch.zeros(1, 3, size, size, device=device))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "feature_dim": feature_dim,
        "min_size": size if config.fixed_input_size or config.min_input_size is None else config.min_input_size[1],
        "fixed_size": bool(config.fixed_input_size),
        "normalises": _normalises(network),
        "preprocessing": _timm_preprocessing(config) or _plain_preprocessing(size),
        "stages": [{"name": name, "channels": count} for name, count in zip(walk.stages, channels, strict=True)],
        "weights": timm_weights(architecture),
    }


def _stage(found: anatomy.Anatomy, backbone: Backbone, name: str, shape: torch.Size) -> Facts:
    assert backbone.chain is not None
    places = {"nchw": (1, shape[2:]), "nhwc": (3, shape[1:3]), "tokens": (2, None)}
    axis, size = places[backbone.chain.layout]
    totals = next(totals for totals in found.stages if totals.name == name)
    last = [row for row in found.rows if row.stage == name][-1]
    return {
        "name": name,
        "channels": shape[axis],
        "size": None if size is None else list(size),
        "parameters": totals.parameters,
        "macs": totals.macs,
        "receptive_field": None if last.receptive_field is None else last.receptive_field[0],
    }


def _min_size(backbone: Backbone, network: nn.Module) -> int:
    if backbone.fixed_size:
        return backbone.input_size
    if backbone.source == "torchvision":
        sets = torchvision.models.get_model_weights(backbone.name)
        smallest: int = sets[backbone.weights[0].name].meta["min_size"][0]
        return smallest
    return anatomy.smallest_size(network) or backbone.input_size


def _normalises(network: nn.Module) -> bool:
    """By the names of its parts: libraries have dozens of them. Standardised weights serve the same end; the response
    normalisation of the first networks, across a few channels, does not."""
    names = {type(module).__name__ for module in network.modules()} - {"LocalResponseNorm"}
    return any("norm" in name.lower() or "StdConv" in name for name in names)


def _learns(network: nn.Module, steps: Sequence[str]) -> bool:
    """Whether one of these modules of `network` has values that are trained."""
    modules = (network.get_submodule(step) for step in steps if not step.startswith(":"))
    return any(True for module in modules for _ in module.parameters())


def _torchvision_weights(name: str) -> list[Facts]:
    sets = torchvision.models.get_model_weights(name)
    # Without categories they are meant for detection, and their dense layers hold no numbers.
    return [_torchvision_facts(weights) for weights in sets if weights.meta["categories"]]


def _torchvision_facts(weights: Any) -> Facts:
    preset = weights.transforms()
    metrics = weights.meta["_metrics"]["ImageNet-1K"]
    swag = "license" in weights.meta
    return {
        "name": weights.name,
        "file_name": weights.url.rsplit("/", 1)[1],
        "url": weights.url,
        "preprocessing": {
            "resize": preset.resize_size[0],
            "crop": preset.crop_size[0],
            "mean": preset.mean,
            "std": preset.std,
            "interpolation": preset.interpolation.value,
        },
        "classes": len(weights.meta["categories"]),
        "top1": metrics["acc@1"],
        "top5": metrics["acc@5"],
        "licence": "CC-BY-NC-4.0 (SWAG)" if swag else "BSD-3-Clause (torchvision)",
    }


def timm_weights(architecture: str) -> list[Facts]:
    """The weights that timm publishes for a network of its own and that we can use, the default ones first."""
    configs = timm.models.get_arch_pretrained_cfgs(architecture)
    default = timm.get_pretrained_cfg(architecture).tag
    tags = sorted((config.tag or "" for config in configs.values()), key=lambda tag: (tag != default, tag))
    by_tag = {config.tag or "": config for config in configs.values()}
    found = [_timm_facts(tag, by_tag[tag]) for tag in tags]
    return [facts for facts in found if facts is not None]


def _timm_facts(tag: str, config: Any) -> Facts | None:
    preprocessing = _timm_preprocessing(config)
    if preprocessing is None or config.custom_load == "hf" or not tag or not config.hf_hub_id:
        return None
    file_name = config.hf_hub_filename or "model.safetensors"
    return {
        "name": tag,
        "file_name": file_name,
        "url": f"{_HUB}/{config.hf_hub_id}/resolve/main/{file_name}",
        "hub": config.hf_hub_id,
        "preprocessing": preprocessing,
        "classes": config.num_classes,
        "licence": config.license or "not stated",
    }


def _timm_preprocessing(config: Any) -> Facts | None:
    """None where our preprocessing cannot do what the weights were trained with."""
    channels, height, width = config.input_size
    usual = channels == 3 and height == width and config.crop_mode == "center" and len(config.mean) == 3
    # More than 1 is a margin around the image.
    if not usual or config.crop_pct > 1 or config.interpolation not in _INTERPOLATIONS:
        return None
    return {
        "resize": int(height / config.crop_pct),
        "crop": height,
        "mean": list(config.mean),
        "std": list(config.std),
        "interpolation": config.interpolation,
    }


def _plain_preprocessing(size: int) -> Facts:
    return {"resize": round(size / 0.875), "crop": size, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}


def _timm_walk(network: Any, images: Tensor) -> tuple[IntermediatesWalk, int, list[int]]:
    """The walk through `network`, its features, and the channels of its stages."""
    size = images.shape[2]
    whole = IntermediatesWalk((WHOLE,), size)
    feature_dim: int = whole.features(network, images, auxiliary=False).features.shape[1]
    if hasattr(network, "forward_intermediates") and hasattr(network, "prune_intermediate_layers"):
        named = [str(info["module"]) for info in network.feature_info]
        names = named if len(set(named)) == len(named) else [f"block{place}" for place in range(len(named))]
        staged = IntermediatesWalk(tuple(names), size)
        found = staged.survey(network, images).stages
        if len(found) == len(names):
            return staged, feature_dim, [features.shape[1] for features in found]
    features = whole.survey(network, images).features
    return whole, feature_dim, [features.shape[1]]


def _packaged_weights(entry: Entry) -> list[Facts]:
    """Of a network of our own, what lies in this package: at most one file."""
    assert entry.preprocessing is not None
    return [
        {
            "name": PACKAGED_WEIGHTS,
            "file_name": path.name,
            "preprocessing": entry.preprocessing.to_json(),
            "classes": 0,
            "licence": "Apache-2.0 (Graft)",
        }
        for path in sorted(Path(__file__).with_name("data").glob(f"{entry.name}-*.safetensors"))
    ]


_WEIGHTS: Mapping[str, Callable[[Entry], list[Facts]]] = {
    "torchvision": lambda entry: _torchvision_weights(entry.name),
    "timm": lambda entry: timm_weights(entry.name),
    "graft": _packaged_weights,
}


def _write(file_name: str, facts: Mapping[str, Facts]) -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(facts[name])}" for name in sorted(facts)]
    path = Path(__file__).with_name(file_name)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _write_catalogue() -> None:
    _write("figures.json", {entry.name: of(entry) for entry in ENTRIES})


def _write_timm() -> None:
    found: dict[str, Facts] = {}
    for architecture in timm.list_models():
        try:
            found[architecture] = of_timm(architecture)
        except Exception as error:
            sys.stderr.write(f"{architecture} is left out: {error!r}\n")
    _write("timm.json", found)


if __name__ == "__main__":
    for part in sys.argv[1:] or ["catalogue", "timm"]:
        {"catalogue": _write_catalogue, "timm": _write_timm}[part]()
