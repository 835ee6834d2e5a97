"""The split: stratified, seeded, and stable when images are added."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256

import pytest

from app import errors
from app.datasets import split
from app.datasets.archive import Split
from app.datasets.split import Candidate


def candidate(name: str, label: str, where: Split | None = None) -> Candidate:
    """One that is like no other."""
    return Candidate(name, label, where, int.from_bytes(sha256(name.encode()).digest()[:8], "big"))


def candidates(**classes: int) -> list[Candidate]:
    return [candidate(f"{label}-{number}", label) for label, count in classes.items() for number in range(count)]


def in_groups(*sizes: int, label: str = "ants") -> list[Candidate]:
    """Near copies of as many images as there are sizes; what comes before the dash in a name is the group's."""
    found = []
    for group, size in enumerate(sizes):
        base = candidate(f"{label} {group}", label).difference_hash
        found += [Candidate(f"{group}-{copy}", label, None, base ^ 1 << copy % 60) for copy in range(size)]
    return found


def assigned(
    items: list[Candidate], *, held: Iterable[Candidate] = (), fraction: float = 0.3, seed: int = 0
) -> dict[str, str]:
    splits = split.assign(items, held=held, validation_fraction=fraction, seed=seed)
    return {item.sha256: chosen for item, chosen in zip(items, splits, strict=True)}


def parted(chosen: dict[str, str]) -> list[str]:
    """The groups that lie in both splits."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name, where in chosen.items():
        groups[name.split("-")[0]].add(where)
    return [name for name, splits in groups.items() if len(splits) > 1]


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


def test_all_labels_that_are_in_one_split_alone_are_named() -> None:
    items = [
        candidate("a", "ants", "train"),
        candidate("b", "ants", "validation"),
        candidate("c", "bees", "train"),
        candidate("d", "wasps", "validation"),
        candidate("e", "wasps", "validation"),
    ]
    expected = (
        "class 'bees' has 1 usable image to train on and 0 to validate with, "
        "class 'wasps' has 0 usable images to train on and 2 to validate with; each class needs one or more of both"
    )
    with pytest.raises(errors.BadArchive, match=f"^{expected}$") as caught:
        assigned(items)
    assert caught.value.detail["labels"] == ["bees", "wasps"]

    many = [candidate(f"{number}", f"label {number:02}", "train") for number in range(12)]
    with pytest.raises(errors.BadArchive, match=r"class 'label 09' has .*, and so on for 2 more; each"):
        assigned(many)


def test_added_images_bring_the_whole_to_the_fraction() -> None:
    there = [candidate(f"there-{number}", "ants", "train") for number in range(10)]
    chosen = assigned(candidates(ants=90), held=there, fraction=0.2)
    assert Counter(chosen.values()) == {"validation": 20, "train": 70}


def test_splits_given_by_folders_are_kept() -> None:
    items = [candidate("a", "ants", "validation"), candidate("b", "ants", "train"), candidate("c", "ants", "train")]
    assert list(assigned(items, fraction=0.9).values()) == ["validation", "train", "train"]
    copies = [replace(one, difference_hash=7) for one in items]
    assert list(assigned(copies, fraction=0.9).values()) == ["validation", "train", "train"]


def test_a_class_without_training_images_is_an_error() -> None:
    with pytest.raises(errors.BadArchive) as caught:
        assigned([candidate("a", "ants", "validation")], fraction=0.5)
    assert caught.value.code == "too_few_images"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("sizes", "held_out"),
    [
        ((1,) * 20, 6),
        ((2,) * 10, 6),
        ((3,) * 10, 9),
        ((1,) * 10 + (10,), 6),
        ((5, 5, 5, 5), 5),  # of 6
        ((2, 2, 2, 2, 2), 2),  # of 3, and four are as far off
        ((14, 6), 6),
    ],
)
def test_near_copies_of_an_image_come_into_one_split(sizes: tuple[int, ...], held_out: int, seed: int) -> None:
    items = in_groups(*sizes)
    chosen = assigned(items, seed=seed)
    assert Counter(chosen.values())["validation"] == held_out
    assert parted(chosen) == []
    assert chosen == assigned(items[::-1], seed=seed)


@pytest.mark.parametrize(
    ("sizes", "fraction", "held_out"),
    [((2,), 0.2, 1), ((20,), 0.3, 6), ((30, 30), 0.2, 12), ((50, 2), 0.5, 26)],
)
def test_a_group_is_divided_where_the_label_could_not_be_otherwise(
    sizes: tuple[int, ...], fraction: float, held_out: int
) -> None:
    chosen = assigned(in_groups(*sizes), fraction=fraction)
    assert Counter(chosen.values())["validation"] == held_out
    assert len(parted(chosen)) == 1


def test_images_of_which_none_is_a_copy_are_divided_as_they_always_were() -> None:
    chosen = assigned(candidates(ants=6), fraction=0.4)
    assert [name for name, where in chosen.items() if where == "validation"] == ["ants-3", "ants-4"]


def test_a_copy_of_an_image_that_is_there_comes_to_it() -> None:
    first, second = in_groups(4, 4)[::4]
    there = [replace(first, split="train"), replace(second, split="validation"), candidate("other", "ants", "train")]
    added = in_groups(4, 4)[1:4] + in_groups(4, 4)[5:]
    chosen = assigned(added, held=there)
    assert {name: where for name, where in chosen.items() if name.startswith("0")} == dict.fromkeys(
        ("0-1", "0-2", "0-3"), "train"
    )
    assert {where for name, where in chosen.items() if name.startswith("1")} == {"validation"}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("sizes", "held_out", "apart"),
    [
        ((20, 20, 20, 20, 20), 20, 0),  # each split has its share of copies
        ((1, 1, 1, 1, 40), 9, 1),
        ((40, 1, 1, 1, 1), 9, 1),
        ((30, 31, 32, 33, 1), 25, 1),
    ],
)
def test_copies_of_what_is_there_leave_either_split_no_less_than_half(
    sizes: tuple[int, ...], held_out: int, apart: int, seed: int
) -> None:
    groups = [[one for one in in_groups(*sizes) if one.sha256.startswith(f"{group}-")] for group in range(len(sizes))]
    there = [replace(group[0], split="train") for group in groups[:-1]] + [replace(groups[-1][0], split="validation")]
    added = [one for group in groups for one in group[1:]]
    chosen = assigned(added, held=there, fraction=0.2, seed=seed)
    whole = {**chosen, **{image.sha256: str(image.split) for image in there}}
    assert Counter(whole.values())["validation"] == held_out
    assert len(parted(whole)) == apart
    assert chosen == assigned(added[::-1], held=there, fraction=0.2, seed=seed)


def test_a_copy_of_the_only_image_of_a_split_goes_to_the_other_where_that_has_none() -> None:
    first, second = in_groups(2)
    assert assigned([replace(first, split="train"), second])[second.sha256] == "validation"
    assert assigned([replace(first, split="validation"), second])[second.sha256] == "train"


def test_copies_of_images_in_both_splits_are_divided_like_others() -> None:
    copies = in_groups(40)
    there = [replace(copies[0], split="train"), replace(copies[1], split="validation")]
    assert Counter(assigned(copies[2:], held=there, fraction=0.25).values()) == {"train": 29, "validation": 9}


def test_copies_with_another_label_are_another_matter() -> None:
    items = in_groups(10) + [replace(one, sha256=f"b{one.sha256}", label="bees") for one in in_groups(2, 8)]
    assert Counter(assigned(items).values())["validation"] > 0


def test_a_series_of_images_is_divided_like_others() -> None:
    """Together they would leave nothing else to one of the splits."""
    series, others = in_groups(200, *[1] * 40)[:200], in_groups(200, *[1] * 40)[200:]
    chosen = assigned([*series, *others])
    assert Counter(chosen.values())["validation"] == round(0.3 * 240)
    assert {chosen[image.sha256] for image in others} == {"train", "validation"}
    there = [replace(image, split="train") for image in others[:8]] + [replace(series[0], split="validation")]
    assert Counter(assigned(series[1:], held=there).values())["validation"] < 70
