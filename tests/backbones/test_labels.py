from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.backbones import catalogue, labels

KNOWN = ["tench, Tinca tinca", "goldfish, Carassius auratus", "pickup, pickup truck", "crane", "tow_truck", "crane"]


def test_the_labels_of_torchvisions_weights_are_those_of_imagenet() -> None:
    found = labels.labels(catalogue.find("resnet50").find_weights("IMAGENET1K_V2"))
    assert len(found) == 1000
    assert (found[0], found[207], found[-1]) == ("tench", "golden retriever", "toilet tissue")


def test_the_labels_of_timms_weights_follow_from_their_number() -> None:
    mobilenet = catalogue.find("mobilenetv4_conv_medium")
    small = labels.labels(mobilenet.find_weights("e500_r256_in1k"))
    large = labels.labels(mobilenet.find_weights("e180_r384_in12k"))
    assert (len(small), len(large)) == (1000, 11821)
    assert small[0] == "tench, Tinca tinca"


def test_labels_that_nobody_publishes_are_not_made_up() -> None:
    weights = catalogue.find("mobilenetv1_100").weights[0]
    changed = replace(weights, classes=7)
    with pytest.raises(errors.NotFound, match="7 outputs"):
        labels.labels(changed)


def test_labels_match_by_name_and_never_by_place() -> None:
    found = labels.match(["Goldfish", "heron", "pick-up"], KNOWN)
    assert [(one.kind, one.known_as, one.known_indices) for one in found.matches] == [
        ("moved", "goldfish, Carassius auratus", (1,)),
        ("new", None, ()),
        ("new", None, ()),
    ]
    assert found.missing == ("tench, Tinca tinca", "pickup, pickup truck", "crane", "tow_truck", "crane")


@pytest.mark.parametrize(
    "name", ["Tinca tinca", "TINCA_TINCA", "tinca-tinca", " tinca  tinca ", "Tench", "tench, Tinca tinca"]
)
def test_any_spelling_and_any_synonym_of_a_label_will_do(name: str) -> None:
    (one,) = labels.match([name], KNOWN).matches
    assert (one.kind, one.known_indices) == ("same", (0,))


def test_a_name_that_two_labels_share_is_answered_with_both() -> None:
    (one,) = labels.match(["crane"], KNOWN).matches
    assert one.known_indices == (3, 5)
    (truck,) = labels.match(["tow truck"], KNOWN).matches
    assert truck.known_indices == (4,)


def test_the_first_name_of_a_label_counts_before_synonyms_of_others() -> None:
    (one,) = labels.match(["jay"], ["blue bird, jay", "jay"]).matches
    assert one.known_as == "jay"


@given(st.lists(st.text(max_size=12), max_size=8), st.lists(st.text(max_size=12), max_size=8))
def test_every_label_is_either_matched_or_new_and_every_known_one_matched_or_missing(
    wanted: list[str], known: list[str]
) -> None:
    found = labels.match(wanted, known)
    assert [one.label for one in found.matches] == wanted
    used = {index for one in found.matches for index in one.known_indices}
    assert sorted(found.missing) == sorted(label for index, label in enumerate(known) if index not in used)
    for one in found.matches:
        assert (one.kind == "new") == (one.known_as is None) == (not one.known_indices)
