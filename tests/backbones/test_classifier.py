"""Networks as classifiers, one of each family: its siblings differ in width and depth, which the tests of the catalogue
and of the walk look at.
"""

import gc
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from app import errors
from app.backbones import catalogue, classifier, weights
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import Outlet
from tests.backbones.samples import REPRESENTATIVES, close, equal, images, library_network, published_state

ALL = list(catalogue.backbones().values())
WITH_AUXILIARY = [backbone for backbone in ALL if backbone.auxiliary]
# Behind a concatenation there is no convolution that BatchNorm could be folded into.
NORM_STAYS = ("DenseNet",)


@dataclass(frozen=True)
class Sample:
    """A network with made-up values; the state is what a publisher would offer."""

    backbone: Backbone
    network: nn.Module

    @property
    def state(self) -> dict[str, Tensor]:
        return self.network.state_dict()


@pytest.fixture(scope="module", params=REPRESENTATIVES)
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(catalogue.find(request.param), library_network(request.param))


def build(sample: Sample, classes: int, *, stage: str | None = None) -> Classifier:
    """As from published values; the networks that have none are given them all the same."""
    if sample.backbone.weights and sample.backbone.source != "timm":
        return classifier.build(sample.backbone, classes, state=sample.state, seed=0, outlet=Outlet(stage))
    built = classifier.build(sample.backbone, classes, state=None, seed=0, outlet=Outlet(stage))
    known = sample.state
    own = built.body.state_dict()
    # The last layers of auxiliary heads are new ones for the new classes.
    built.body.load_state_dict({n: known[n] if known[n].shape == own[n].shape else own[n] for n in own})
    return built


def test_a_built_classifier_keeps_every_value_and_runs_and_survives_storage(sample: Sample, tmp_path: Path) -> None:
    backbone, built = sample.backbone, build(sample, 5).eval()
    dropped = (f"{backbone.head}.", *(f"{head.module}." for head in backbone.auxiliary))
    kept = {name: value for name, value in sample.state.items() if not name.startswith(dropped)}
    body = {name: value for name, value in built.body.state_dict().items() if not name.startswith(dropped)}
    assert equal(body, kept)

    batch = images(backbone)
    with torch.inference_mode():
        features, outputs = built.features(batch), built(batch)
        assert features.shape == (2, backbone.feature_dim)
        assert outputs.logits.shape == (2, 5)
        assert outputs.auxiliary == ()
        _check_inference_form(backbone, built, batch, features, outputs.logits)
        _check_storage(backbone, built, batch, outputs.logits, tmp_path)


def _check_inference_form(
    backbone: Backbone, built: Classifier, batch: Tensor, features: Tensor, logits: Tensor
) -> None:
    form = classifier.inference_form(built)
    if backbone.family not in NORM_STAYS:
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
    assert not any(name.startswith(f"body.{head.module}") for name in state for head in backbone.auxiliary)
    assert not restored.training
    given = {value.data_ptr() for value in state.values()}
    turned = classifier.turned(restored)
    assert close(turned(batch), logits)
    assert not [name for name, value in turned.state_dict().items() if value.numel() and value.data_ptr() in given]


def test_training_changes_what_is_not_frozen_and_nothing_else(sample: Sample) -> None:
    backbone = sample.backbone
    built = build(sample, 3).train()
    stage = built.stages[len(built.stages) // 2]
    built.freeze(stage)
    check_a_frozen_training_step(built, stage, images(backbone))


def check_a_frozen_training_step(built: Classifier, stage: str, batch: Tensor) -> None:
    """One step of training; everything up to `stage` stays as it was to the bit."""
    part = built.walk.part(built.body, stage)
    prefixes = (*(f"body.{name}." for name in part.modules), *(f"body.{name}" for name in part.parameters))
    before = {name: value.clone() for name, value in built.state_dict().items()}
    trained = [parameter for parameter in built.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    outputs = built.train()(batch)
    targets = torch.zeros(len(batch), dtype=torch.long)
    loss = functional.cross_entropy(outputs.logits, targets)
    loss = loss + sum(0.3 * functional.cross_entropy(logits, targets) for logits in outputs.auxiliary)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert all(parameter.grad is not None for parameter in trained)
    after = built.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed, "nothing was trained"
    assert not [name for name in changed if name.startswith(prefixes)]
    assert "head.weight" in changed


def test_a_network_cut_in_the_middle_is_stored_without_the_rest(sample: Sample) -> None:
    backbone = sample.backbone
    facts = backbone.stages[len(backbone.stages) // 2]
    cut = build(sample, 4, stage=facts.name).eval()
    whole = build(sample, 4).eval()
    batch = images(backbone)
    with torch.inference_mode():
        pooled = dict(zip(whole.stages, whole.survey(batch).stages, strict=True))[facts.name]
        assert cut.features(batch).shape == (2, facts.channels)
        assert torch.equal(cut.features(batch), pooled)
        state = {name: value.clone() for name, value in cut.state().items()}
        restored = classifier.restore(backbone.name, 4, cut.preprocessing, state, outlet=Outlet(facts.name))
        assert close(restored(batch).logits, cut(batch).logits)
        assert close(classifier.inference_form(cut)(batch), cut(batch).logits)
    assert cut.walk.part(cut.body, facts.name) == whole.walk.part(whole.body, facts.name)
    assert len(state) < len(whole.state())
    assert cut.walk.auxiliary == ()


@pytest.mark.parametrize("backbone", WITH_AUXILIARY, ids=lambda backbone: backbone.name)
def test_auxiliary_heads_are_new_and_at_work_in_training_only(backbone: Backbone) -> None:
    state = published_state(backbone)
    published = None if not backbone.weights else state
    built = classifier.build(backbone, 4, state=published, seed=0).train()
    batch = images(backbone)
    outputs = built(batch)
    assert [logits.shape for logits in outputs.auxiliary] == [(2, 4)] * len(backbone.auxiliary)
    sum(logits.sum() for logits in outputs.auxiliary).backward()
    for head in built.walk.auxiliary:
        parameters = dict(built.body.get_submodule(head.module).named_parameters())
        assert all(parameter.grad is not None for parameter in parameters.values())
        kept = [name for name in parameters if not name.startswith(head.last_layer)]
        same = [torch.equal(parameters[name], state[f"{head.module}.{name}"]) for name in kept if "conv" in name]
        assert same
        assert all(same) if head.pretrained else not any(same[::2])
    assert built.eval()(batch).auxiliary == ()


@pytest.mark.parametrize("backbone", WITH_AUXILIARY, ids=lambda backbone: backbone.name)
def test_a_restored_network_can_be_put_in_training_mode_without_its_auxiliary_heads(backbone: Backbone) -> None:
    built = classifier.build(backbone, 4, state=None, seed=0)
    restored = classifier.restore(backbone.name, 4, built.preprocessing, built.state()).train()
    assert restored(images(backbone)).auxiliary == ()


@pytest.mark.parametrize("backbone", WITH_AUXILIARY, ids=lambda backbone: backbone.name)
def test_auxiliary_heads_in_the_frozen_part_have_nothing_left_to_do(backbone: Backbone) -> None:
    built = classifier.build(backbone, 4, state=None, seed=0).train()
    built.freeze(built.stages[-1])
    assert built(images(backbone)).auxiliary == ()
    assert not [name for name in built.state_dict() if name.startswith("body.aux") or "AuxLogits" in name]


def test_an_unknown_stage_is_answered_with_the_nearest_ones() -> None:
    built = classifier.build(catalogue.find("tinynet"), 2, state=None, seed=0)
    with pytest.raises(errors.UnknownName, match="stage1") as caught:
        built.freeze("stage7")
    assert caught.value.code == "unknown_stage"
    with pytest.raises(errors.UnknownName):
        classifier.build(catalogue.find("tinynet"), 2, state=None, seed=0, outlet=Outlet("layer1"))


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


def test_threads_that_build_at_once_draw_what_they_would_draw_alone() -> None:
    def built(seed: int) -> dict[str, Tensor]:
        return classifier.build(catalogue.find("tinynet"), 2, state=None, seed=seed).state()

    def collected(phase: str, _info: object) -> None:
        """Python code, which lets another thread have the interpreter."""
        time.sleep(0)

    alone = [built(seed) for seed in range(4)]
    threshold = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(10)
    try:
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(built, [0, 1, 2, 3] * 8))
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*threshold)
    assert all(equal(values, alone[place % 4]) for place, values in enumerate(together))


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
    with pytest.raises(errors.WeightsUnavailable, match=r"conv1\.weight"):
        classifier.build(backbone, 2, state={**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, seed=0)
    del state["conv1.weight"]
    with pytest.raises(errors.WeightsUnavailable, match=r"conv1\.weight"):
        classifier.build(backbone, 2, state=state, seed=0)
    stored = classifier.build(backbone, 2, state=None, seed=0).state()
    with pytest.raises(errors.Unavailable, match="for 3 labels"):
        classifier.restore("resnet18", 3, backbone.scratch_preprocessing, stored)


def test_values_of_another_network_of_timm_are_refused() -> None:
    backbone = catalogue.find("mobilenetv4_conv_small")
    with pytest.raises(errors.WeightsUnavailable, match="mobilenetv4_conv_small"):
        classifier.build(backbone, 2, state={"conv_stem.weight": torch.zeros(1)}, seed=0)


def test_values_published_for_timm_are_read_by_timm() -> None:
    backbone = catalogue.find("ghostnet_100")
    state = published_state(backbone)
    built = classifier.build(backbone, 2, state=state, seed=0)
    kept = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    assert equal(built.body.state_dict(), kept)
    assert "state_dict" not in built.body.pretrained_cfg  # type: ignore[operator]


def test_published_densenets_have_the_names_of_an_older_torchvision() -> None:
    backbone = catalogue.find("densenet121")
    state = published_state(backbone)
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value for name, value in state.items()}
    assert older.keys() != state.keys()
    built = classifier.build(backbone, 2, state=older, seed=0)
    assert torch.equal(
        built.body.state_dict()["features.denseblock4.denselayer3.conv2.weight"],
        state["features.denseblock4.denselayer3.conv2.weight"],
    )


def test_values_load_also_without_the_versions_that_torch_notes_beside_them() -> None:
    backbone = catalogue.find("mnasnet0_5")
    state = published_state(backbone)
    built = classifier.build(backbone, 2, state=dict(state), seed=0)
    kept = {name: value for name, value in state.items() if not name.startswith("classifier.1")}
    assert equal(built.body.state_dict(), kept)


def test_a_weights_file_is_read_without_running_code_in_it(tmp_path: Path) -> None:
    good, bad, other = tmp_path / "good.pth", tmp_path / "bad.pth", tmp_path / "other.pth"
    safe, cut = tmp_path / "good.safetensors", tmp_path / "cut.safetensors"
    torch.save({"one": torch.ones(2)}, good)
    torch.save({"one": Path("anything that unpickling would have to call")}, bad)
    other.write_bytes(b"no weights")
    safetensors.torch.save_file({"one": torch.ones(2)}, safe)
    cut.write_bytes(safe.read_bytes()[:-4])
    assert classifier.read_state(good)["one"].tolist() == [1.0, 1.0]
    assert classifier.read_state(safe)["one"].tolist() == [1.0, 1.0]
    half = tmp_path / "half.pth"
    half.write_bytes(good.read_bytes()[:200])
    for path in (bad, other, cut, half, tmp_path / "missing.pth", tmp_path / "missing.safetensors"):
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
    own = Preprocessing(resize=100, crop=90, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    weights = replace(backbone.weights[0], preprocessing=own)
    state = published_state(backbone)
    assert classifier.build(backbone, 2, state=state, seed=0, weights=weights).preprocessing == own
    assert classifier.build(backbone, 2, state=state, seed=0).preprocessing == backbone.weights[0].preprocessing
    assert classifier.build(backbone, 2, state=None, seed=0).preprocessing == backbone.scratch_preprocessing


@pytest.mark.slow
def test_a_network_of_one_size_takes_the_size_of_its_weights() -> None:
    backbone = catalogue.find("vit_b_16")
    weights = backbone.find_weights("IMAGENET1K_SWAG_E2E_V1")
    state = published_state(backbone)
    state["encoder.pos_embedding"] = torch.zeros(1, 1 + (384 // 16) ** 2, 768)
    built = classifier.build(backbone, 2, state=state, seed=0, weights=weights).eval()
    restored = classifier.restore("vit_b_16", 2, built.preprocessing, built.state())
    batch = torch.zeros(1, 3, 384, 384, dtype=torch.uint8)
    with torch.inference_mode():
        assert close(restored(batch).logits, built(batch).logits)


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_real_weights_load_without_anything_left_over(test_data: Path, name: str) -> None:
    (path,) = (test_data / "weights").glob(f"{name}-*.pth")
    state = classifier.read_state(path)
    built = classifier.build(catalogue.find(name), 2, state=state, seed=0)
    kept = {f"body.{key}" for key in state if not key.startswith("classifier.1")}
    assert all(torch.equal(built.state()[key], state[key.removeprefix("body.")]) for key in kept)
