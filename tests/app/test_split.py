"""The split: stratified, seeded, and stable when images are added."""

from collections import Counter

import pytest

from app import errors
from app.datasets import split
from app.datasets.split import Candidate


def candidates(**classes: int) -> list[Candidate]:
    return [Candidate(f"{label}-{number}", label, None) for label, count in classes.items() for number in range(count)]


def assigned(items: list[Candidate], *, fraction: float = 0.3, seed: int = 0) -> dict[str, str]:
    splits = split.assign(items, held={}, validation_fraction=fraction, seed=seed)
    return {item.sha256: chosen for item, chosen in zip(items, splits, strict=True)}


def test_each_class_is_divided_by_the_fraction() -> None:
    chosen = assigned(candidates(ants=10, bees=200))

    assert Counter((name.split("-")[0], where) for name, where in chosen.items()) == {
        ("ants", "train"): 7,
        ("ants", "validation"): 3,
        ("bees", "train"): 140,
        ("bees", "validation"): 60,
    }


def test_the_split_depends_on_the_seed_and_on_nothing_else() -> None:
    items = candidates(ants=30, bees=30)

    assert assigned(items) == assigned(items[::-1])
    assert assigned(items) != assigned(items, seed=1)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_two_images_are_one_for_each_split(fraction: float) -> None:
    assert sorted(assigned(candidates(ants=2), fraction=fraction).values()) == ["train", "validation"]


def test_one_image_cannot_be_split_and_the_message_names_the_class() -> None:
    with pytest.raises(errors.BadArchive, match="'bees' has 1 usable image to train on and 0 to") as caught:
        assigned(candidates(ants=5, bees=1))
    assert caught.value.code == "too_few_images"


def test_added_images_bring_the_whole_to_the_fraction() -> None:
    splits = split.assign(
        candidates(ants=90), held={"ants": {"train": 10, "validation": 0}}, validation_fraction=0.2, seed=0
    )

    assert Counter(splits) == {"validation": 20, "train": 70}


def test_splits_given_by_folders_are_kept() -> None:
    items = [Candidate("a", "ants", "validation"), Candidate("b", "ants", "train"), Candidate("c", "ants", "train")]

    assert split.assign(items, held={}, validation_fraction=0.9, seed=0) == ["validation", "train", "train"]


def test_a_class_without_training_images_is_an_error() -> None:
    with pytest.raises(errors.BadArchive) as caught:
        split.assign([Candidate("a", "ants", "validation")], held={}, validation_fraction=0.5, seed=0)
    assert caught.value.code == "too_few_images"
