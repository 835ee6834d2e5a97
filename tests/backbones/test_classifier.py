from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from app import errors
from app.backbones import catalogue, classifier, weights
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.backbones.networks import ARCHITECTURES
from app.backbones.preprocess import Preprocessing

BACKBONES = list(catalogue.BACKBONES.values())
WITH_AUXILIARY = [backbone for backbone in BACKBONES if backbone.auxiliary_heads]
every_backbone = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)


def images(backbone: Backbone, count: int = 2) -> Tensor:
    """Small images, or those that the auxiliary head needs."""
    size = backbone.input_size if backbone.auxiliary_heads else max(backbone.min_size, 64)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def live_in(network: nn.Module) -> None:
    """Give BatchNorm layers values as after training."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)


def published_state(backbone: Backbone) -> dict[str, Tensor]:
    """A state dict as it is published for `backbone`, with made-up values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = ARCHITECTURES[backbone.name].make(True)
    live_in(network)
    return network.state_dict()


def close(one: Tensor, other: Tensor) -> bool:
    """Equal within the rounding of float32, relative to the largest value.

    Not to the bit, not even for the same values: the kernels depend on where in memory they lie.
    """
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-4 * other.abs().max().clamp(min=1))


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@every_backbone
def test_a_built_classifier_keeps_every_value_and_runs_and_survives_storage(backbone: Backbone, tmp_path: Path) -> None:
    state = published_state(backbone)
    built = classifier.build(backbone, 5, state=state, seed=0).eval()
    auxiliary = tuple(f"{head.module}." for head in built.auxiliary)
    replaced = ARCHITECTURES[backbone.name].last_layer
    body = {name: value for name, value in built.body.state_dict().items() if not name.startswith(auxiliary)}
    assert equal(body, {name: state[name] for name in state if not name.startswith((*auxiliary, f"{replaced}."))})

    batch = images(backbone)
    with torch.inference_mode():
        features, outputs = built.features(batch), built(batch)
        assert features.shape == (2, backbone.feature_dim)
        assert outputs.logits.shape == (2, 5)
        assert outputs.auxiliary == ()
        _check_inference_form(built, batch, features, outputs.logits)
        _check_storage(backbone, built, batch, outputs.logits, tmp_path)


def _check_inference_form(built: Classifier, batch: Tensor, features: Tensor, logits: Tensor) -> None:
    form = classifier.inference_form(built)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in form.modules())
    assert not any(parameter.requires_grad for parameter in form.parameters())
    assert close(form.features(batch), features)
    assert close(form(batch), logits)


def _check_storage(backbone: Backbone, built: Classifier, batch: Tensor, logits: Tensor, folder: Path) -> None:
    safetensors.torch.save_file(built.state(), folder / "state.safetensors")
    state = safetensors.torch.load_file(folder / "state.safetensors")
    restored = classifier.restore(backbone.name, 5, built.preprocessing, state)
    assert equal(restored.state(), built.state())
    assert close(restored(batch).logits, logits)
    assert not any(name.startswith(f"body.{head.module}") for name in state for head in built.auxiliary)
    assert not restored.training


@pytest.mark.parametrize("backbone", WITH_AUXILIARY, ids=lambda backbone: backbone.name)
def test_auxiliary_heads_are_new_and_at_work_in_training_only(backbone: Backbone) -> None:
    state = published_state(backbone)
    built = classifier.build(backbone, 4, state=state, seed=0).train()
    batch = images(backbone)
    outputs = built(batch)
    assert [logits.shape for logits in outputs.auxiliary] == [(2, 4)] * backbone.auxiliary_heads
    sum(logits.sum() for logits in outputs.auxiliary).backward()
    for head in built.auxiliary:
        parameters = dict(built.body.get_submodule(head.module).named_parameters())
        assert all(parameter.grad is not None for parameter in parameters.values())
        kept = [name for name in parameters if not name.startswith(head.last_layer)]
        same = [torch.equal(parameters[name], state[f"{head.module}.{name}"]) for name in kept if "conv.weight" in name]
        assert all(same) if head.pretrained else not any(same)
    assert built.eval()(batch).auxiliary == ()


@pytest.mark.parametrize("backbone", WITH_AUXILIARY, ids=lambda backbone: backbone.name)
def test_a_restored_network_can_be_put_in_training_mode_without_its_auxiliary_heads(backbone: Backbone) -> None:
    built = classifier.build(backbone, 4, state=None, seed=0)
    restored = classifier.restore(backbone.name, 4, built.preprocessing, built.state()).train()
    assert restored(images(backbone)).auxiliary == ()


def test_training_a_classifier_does_not_write_into_the_published_values() -> None:
    backbone = catalogue.find("resnet18")
    state = published_state(backbone)
    before = {name: value.clone() for name, value in state.items()}
    built = classifier.build(backbone, 2, state=state, seed=0).train()
    built(images(backbone))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.zero_()
    assert equal(state, before)


def test_the_seed_alone_decides_on_random_values() -> None:
    backbone = catalogue.find("tinynet")
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = (classifier.build(backbone, 3, state=None, seed=seed).state() for seed in (5, 5, 6))
    assert equal(one, same)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert not torch.equal(one["body.stem.0.weight"], other["body.stem.0.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_normalised_with_the_preprocessing() -> None:
    preprocessing = Preprocessing(resize=8, crop=8, mean=(0.5, 0.25, 0.75), std=(0.5, 0.25, 0.1))
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    normalised = classifier.Normalisation(preprocessing)(pixels)
    assert normalised[0, :, 0, 0].tolist() == pytest.approx([1.0, -1.0, -5.5])


def test_values_that_do_not_fit_are_refused_by_name() -> None:
    backbone = catalogue.find("resnet18")
    state = published_state(backbone)
    del state["conv1.weight"]
    with pytest.raises(errors.WeightsUnavailable, match=r"conv1\.weight"):
        classifier.build(backbone, 2, state=state, seed=0)
    stored = classifier.build(backbone, 2, state=None, seed=0).state()
    with pytest.raises(errors.Unavailable, match="for 3 labels"):
        classifier.restore("resnet18", 3, backbone.scratch_preprocessing, stored)


def test_a_weights_file_is_read_without_running_code_in_it(tmp_path: Path) -> None:
    good, bad, other = tmp_path / "good.pth", tmp_path / "bad.pth", tmp_path / "other.pth"
    torch.save({"one": torch.ones(2)}, good)
    torch.save({"one": Path("anything that unpickling would have to call")}, bad)
    other.write_bytes(b"no weights")
    assert classifier.read_state(good)["one"].tolist() == [1.0, 1.0]
    for path in (bad, other, tmp_path / "missing.pth"):
        with pytest.raises(errors.Unavailable):
            classifier.read_state(path)


def test_safetensors_in_half_precision_are_read_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file({"one": torch.tensor([0.5, 2.0]).half(), "count": torch.tensor(7)}, path)
    state = classifier.read_state(path)
    assert state["one"].dtype == torch.float32
    assert state["one"].tolist() == [0.5, 2.0]
    assert (state["count"].dtype, int(state["count"])) == (torch.int64, 7)
    path.write_bytes(b"no weights")
    for unreadable in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(errors.Unavailable):
            classifier.read_state(unreadable)


def test_weights_need_no_layer_for_the_classes_that_they_were_trained_on() -> None:
    backbone = catalogue.find("formnet")
    state = published_state(backbone)
    with_head = classifier.build(backbone, 3, state=state, seed=1)
    without = {name: value for name, value in state.items() if not name.startswith("head.")}
    assert equal(classifier.build(backbone, 3, state=without, seed=1).state(), with_head.state())


def test_the_weights_of_the_package_fit_their_network(tmp_path: Path) -> None:
    backbone = catalogue.find("formnet")
    file = weights.obtain(backbone, weights_dir=None, cache_dir=tmp_path, download=False)
    state = classifier.read_state(file.path)
    built = classifier.build(backbone, 4, state=state, seed=0).eval()
    assert {name for name in built.state() if not name.startswith("head.")} == {f"body.{name}" for name in state}
    with torch.inference_mode():
        features = built.features(images(backbone))
    assert features.isfinite().all()
    assert features.std() > 0


def test_pretrained_weights_bring_their_own_preprocessing() -> None:
    backbone = catalogue.find("resnet18")
    assert backbone.weights is not None
    own = Preprocessing(resize=100, crop=90, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    changed = replace(backbone, weights=replace(backbone.weights, preprocessing=own))
    assert classifier.build(changed, 2, state=published_state(backbone), seed=0).preprocessing == own
    assert classifier.build(changed, 2, state=None, seed=0).preprocessing == backbone.scratch_preprocessing


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_real_weights_load_without_anything_left_over(test_data: Path, name: str) -> None:
    (path,) = (test_data / "weights").glob(f"{name}-*.pth")
    state = classifier.read_state(path)
    built = classifier.build(catalogue.find(name), 2, state=state, seed=0)
    kept = {f"body.{key}" for key in state if not key.startswith("classifier.1")}
    assert all(torch.equal(built.state()[key], state[key.removeprefix("body.")]) for key in kept)
