"""Anatomies of the catalogue's networks."""

import threading

import pytest

from app import errors
from app.backbones import anatomy
from app.backbones.anatomies import Anatomies, Question
from app.backbones.anatomy import Anatomy
from tests.backbones.samples import ALEXNET_LAYERS, ALEXNET_POOLS, weighted


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was really computed, and not taken from what was known."""
    seen: list[str] = []
    real = anatomy.of

    def noted(*args: object, **options: object) -> Anatomy:
        seen.append("computed")
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(anatomy, "of", noted)
    return seen


def question(name: str, size: int = 224, batch: int = 1) -> Question:
    return Question(name, size, batch, "float32")


def test_alexnet_of_2012_has_the_layers_of_its_paper() -> None:
    found = Anatomies(capacity=1).get(question("alexnet_2012_ungrouped", 227))
    assert weighted(found) == ALEXNET_LAYERS
    assert [row.output for row in found.rows if row.type == "max_pool"] == ALEXNET_POOLS
    assert found.layers == 8
    assert Anatomies(capacity=1).get(question("alexnet_2012", 227)).totals.parameters == 60_965_224


def test_the_stages_are_those_of_the_catalogue() -> None:
    found = Anatomies(capacity=1).get(question("vgg16"))
    assert len(found.stages) > 1
    assert {row.stage for row in found.rows} >= {stage.name for stage in found.stages}
    assert sum(stage.parameters for stage in found.stages) == sum(
        row.parameters for row in found.rows if row.stage is not None
    )


@pytest.mark.parametrize("name", ["regnet_x_400mf", "mobilenetv4_conv_small", "timm:test_vit"])
def test_networks_that_read_tensors_while_they_are_made_have_an_anatomy_too(name: str) -> None:
    found = Anatomies(capacity=1).get(question(name, 160 if name.startswith("timm:") else 224))
    assert sum(row.parameters for row in found.rows) == found.totals.parameters > 0


def test_an_anatomy_is_computed_once(computed: list[str]) -> None:
    kept = Anatomies(capacity=2)
    first = kept.get(question("alexnet"))
    assert kept.get(question("alexnet")) is first
    assert len(computed) == 1


def test_an_anatomy_asked_for_by_many_at_once_is_computed_once(computed: list[str]) -> None:
    kept, found = Anatomies(capacity=2), list[Anatomy]()
    start = threading.Barrier(6)

    def ask() -> None:
        start.wait()
        found.append(kept.get(question("resnet18")))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1
    assert len({id(one) for one in found}) == 1
    assert len(found) == 6


def test_what_was_asked_for_longest_ago_is_let_go(computed: list[str]) -> None:
    kept = Anatomies(capacity=2)
    for batch in (1, 2, 1, 3, 1, 2):
        kept.get(question("alexnet", batch=batch))
    assert len(computed) == 4


def test_an_error_is_not_kept(computed: list[str]) -> None:
    kept = Anatomies(capacity=2)
    for _ in range(2):
        with pytest.raises(errors.Invalid, match="the smallest it can take is 63 x 63"):
            kept.get(question("alexnet", 40))
    assert len(computed) == 2


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(errors.UnknownName, match="alexnet"):
        Anatomies(capacity=2).get(question("alexnett"))
