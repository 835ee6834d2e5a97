"""Labels that are cut go on differing."""

from app.models.shortening import LONGEST, shortened


def test_short_labels_stay_as_they_are() -> None:
    assert shortened(["ants", "x" * LONGEST, ""]) == ["ants", "x" * LONGEST, ""]


def test_begin_and_end_are_kept() -> None:
    (found,) = shortened(["a_very_long_label_that_somebody_took_from_a_database_2024"])
    assert found == "a_very_long…abase_2024"
    assert len(found) == LONGEST


def test_labels_that_differ_at_their_end_or_within_stay_different() -> None:
    ends = [f"Species Banded subspecies number {number:02}" for number in range(60)]
    assert len(set(shortened(ends))) == 60
    within = [f"Species of the {name} kind, seen in the garden of 2024" for name in ("banded", "blotchy", "bubbly")]
    found = shortened(within)
    assert len(set(found)) == 3
    assert "anded" in found[0]
    assert all(len(one) <= LONGEST for one in found)


def test_the_same_label_is_cut_in_the_same_way_wherever_it_is() -> None:
    long = "one label that is too long to be shown whole"
    first, _, third = shortened([long, "ants", long])
    assert first == third
