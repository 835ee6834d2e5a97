"""What one image costs: in total, and stage by stage on the way of the same passes."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier, InferenceForm
from app.controlgroups import ControlGroups
from app.profile import Costs
from tests.training import samples
from tests.training.fitted import AT_32
from tests.training.test_pieces import Cramped
from worker.training import costs, graphs, precision


def measured(classifier: Classifier, network: InferenceForm | None = None) -> Costs:
    images = samples.images(samples.colours(3))
    network = network or classifiers.inference_form(classifier)
    return costs.measure(classifier, network, images, max_pixels=samples.MAX_PIXELS, device=samples.CPU)


@pytest.mark.parametrize("name", ["formnet", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_each_stage_ends_later_on_the_way_there_and_earlier_on_the_way_back(name: str) -> None:
    classifier = classifiers.build(catalogue.find(name), 2, state=None, seed=0)
    found = measured(classifier)

    assert tuple(stage.name for stage in found.stages) == classifier.stages
    for earlier, later in pairwise(found.stages):
        assert earlier.forward < later.forward < found.forward
        assert earlier.step_before < later.step_before
        assert earlier.step_behind > later.step_behind > 0
    assert all(stage.step_before + stage.step_behind < found.step for stage in found.stages)


@pytest.mark.parametrize("name", ["tinynet", "formnet", "efficientnet_b0"])
def test_what_a_step_keeps_of_an_image_is_what_the_catalogue_tells_of_it(name: str) -> None:
    backbone = catalogue.find(name)
    found = measured(classifiers.build(backbone, 2, state=None, seed=0)).kept_bytes_per_pixel
    assert found is not None
    assert backbone.kept_bytes is not None
    assert found * backbone.input_size**2 == pytest.approx(backbone.kept_bytes, rel=0.01)


def test_a_step_that_does_not_fit_the_memory_is_measured_with_fewer_images() -> None:
    classifier = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0)
    network = classifiers.inference_form(classifier)
    classifier.normalisation = Cramped(AT_32, room=3)
    assert measured(classifier, network).step > 0
    classifier.normalisation = Cramped(AT_32, room=1)
    with pytest.raises(torch.OutOfMemoryError):
        measured(classifier, network)


@pytest.mark.parametrize("is_half", [False, True])
def test_steps_in_fp32_are_measured_besides_where_others_are_in_bf16(
    is_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "is_half_quicker", lambda _device: is_half)
    found = measured(classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0))
    assert found.full_precision > 0
    assert (found.full_precision != 1.0) == is_half


@pytest.mark.parametrize("is_half", [False, True])
def test_what_it_gives_to_repeat_steps_is_measured_in_each_precision(
    is_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for CUDA graphs, which repeats steps in bf16 in no time."""
    repeated: list[Callable[[], None]] = []

    class Quick:
        def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
            run()
            repeated.append(run)
            return run if len(repeated) > is_half else lambda: None

        def forget(self) -> None:
            """There is nothing."""

    monkeypatch.setattr(precision, "is_half_quicker", lambda _device: is_half)
    monkeypatch.setattr(graphs, "are_wanted", lambda _device: True)
    monkeypatch.setattr(graphs, "Graphs", Quick)
    found = measured(classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0))
    assert len(repeated) == 1 + is_half
    assert found.gain >= 1
    if is_half:
        assert found.full_gain is not None
        assert found.gain > 10 * found.full_gain
    else:
        assert found.full_gain is None


def test_passes_are_not_watched_any_more_once_they_are_measured() -> None:
    classifier = classifiers.build(catalogue.find("formnet"), 2, state=None, seed=0)
    network = classifiers.inference_form(classifier)
    measured(classifier, network)
    modules = [*classifier.modules(), *network.modules()]
    assert not [module for module in modules if module._forward_hooks or module._forward_pre_hooks]


def test_a_network_that_cannot_be_entered_between_stages_has_its_costs_as_a_whole_alone() -> None:
    classifier = classifiers.build(catalogue.find("timm:test_resnet"), 2, state=None, seed=0)
    assert not classifier.walk.can_enter
    found = measured(classifier)
    assert found.stages == ()
    assert min(found.forward, found.step) > 0
    assert torch.get_num_threads() == found.threads


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_the_memory_of_a_container_is_what_its_control_group_may_take(tmp_path: Path, name: str) -> None:
    groups = ControlGroups(tmp_path, tmp_path / "none")
    machine = costs.device_bytes(samples.CPU, groups)
    assert machine == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    for said, bytes_ in (("1000000\n", 10**6), ("max\n", machine), ("9223372036854771712\n", machine), ("", machine)):
        file.write_text(said)
        assert costs.device_bytes(samples.CPU, groups) == bytes_
