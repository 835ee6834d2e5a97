"""The pictures of an evaluation: what they show, and that it can be told apart."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from app.backbones import palette
from app.backbones.palette import DARK, LIGHT, Theme
from app.evaluation import Bin, Evaluation, Reliability, Trust
from app.models import pictures
from tests.app.test_evaluation_api import measured

SVG = "{http://www.w3.org/2000/svg}"
COLOURS = {"black": palette.BLACK, "white": palette.WHITE}
KINDS = ("kept", "sure", "unsure")


def drawn(found: Evaluation, name: str) -> ET.Element:
    return ET.fromstring(pictures.draw(name, found))


def texts(root: ET.Element) -> str:
    return " ".join(element.text or "" for element in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("classes", [2, 30, 100])
@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_hold_from_two_labels_to_a_hundred(name: str, classes: int) -> None:
    found = measured([f"label {place} & more" for place in range(classes)], count=10 * classes)
    root = ET.fromstring(pictures.draw(name, found))
    assert 400 < float(root.attrib["width"]) < 1400
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    if name == "confusion":
        assert texts.count("label 1 & more") == 2


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_numbers_of_the_matrix_can_be_read_on_every_tone(theme: Theme) -> None:
    labels = [f"label {place}" for place in range(20)]
    # From one to twenty images of a hundred, right and wrong.
    rows = tuple(
        tuple(100 - 6 * row if row == column else 6 * row * (column == (row + 1) % 20) for column in range(20))
        for row in range(16)
    ) + tuple(tuple(5 for _ in range(20)) for _ in range(4))
    found = replace(measured(labels, count=200), confusion=rows)
    inks = {f"{kind}-{name}": value for kind in ("light", "dark") for name, value in COLOURS.items()}
    screen = "light" if theme is LIGHT else "dark"
    parents = list(drawn(found, "confusion"))
    counted = [(parents[place - 1], one) for place, one in enumerate(parents) if "count" in one.get("class", "")]
    assert len(counted) > 100
    for cell, number in counted:
        colour = theme.first if cell.attrib["class"] == "right" else theme.second
        ground = palette.mixed(colour, theme.paper, float(cell.attrib["fill-opacity"]))
        (ink,) = (inks[name] for name in number.attrib["class"].split() if name.startswith(screen))
        assert palette.contrast(ink, ground) >= 4.5


def test_with_two_labels_the_one_curve_is_explained() -> None:
    assert "mirror image" in texts(drawn(measured(("ants", "bees")), "roc"))
    assert "mirror image" not in texts(drawn(measured(("ants", "bees", "wasps")), "roc"))


def test_curves_differ_by_their_dashes_too() -> None:
    style = drawn(measured([f"label {place}" for place in range(9)]), "roc").findtext(f"{SVG}style") or ""
    dashes = re.findall(r"\.c\d \{ stroke: #\w+; stroke-dasharray: ([^;]+);", style)
    assert len(dashes) == len(set(dashes)) == len(LIGHT.lines)


def test_one_reliability_diagram_is_enough_where_no_temperature_is_used() -> None:
    found = measured(("ants", "bees"))
    assert found.reliability is not None
    scaled = replace(found, reliability=replace(found.reliability, temperature=2.0))
    assert "At temperature 2.000, as served" in texts(drawn(scaled, "reliability"))
    plain = replace(found.reliability, temperature=1.0, after=found.reliability.before)
    one = drawn(replace(found, reliability=plain), "reliability")
    assert "No temperature does better" in texts(one)
    bars = [rect for rect in one.iter(f"{SVG}rect") if rect.get("class") == "kept"]
    assert len(bars) == 1 + sum(each.images > 0 for each in plain.before.bins)  # with that of the legend


def test_too_sure_and_too_unsure_are_apart_and_cover_nothing() -> None:
    bins = (Bin(0.4, 0.6, 10, 0.5, 0.8), Bin(0.8, 1.0, 30, 0.9, 0.6))
    trust = Trust(0.5, 0.3, bins)
    found = replace(measured(("ants", "bees")), reliability=Reliability(1.0, 5, trust, trust))
    shapes = [one for one in drawn(found, "reliability").iter(f"{SVG}rect") if one.get("class") in KINDS][3:]
    assert [one.attrib["class"] for one in shapes] == ["kept", "unsure", "kept", "sure"]
    for kept, gap in zip(shapes[::2], shapes[1::2], strict=True):
        bottom = float(gap.attrib["y"]) + float(gap.attrib["height"])
        assert bottom == pytest.approx(float(kept.attrib["y"]), abs=0.11)
    # The bars end at 80 % right, and at 60 % right with 90 % promised.
    assert [round((496 - float(one.attrib["y"])) / 340, 2) for one in shapes] == [0.5, 0.8, 0.6, 0.9]


def test_the_bar_of_certain_answers_stands_beyond_the_others() -> None:
    bins = (Bin(14 / 15, 1.0, 10, 0.95, 0.8), Bin(1.0, 1.0, 30, 1.0, 0.6))
    trust = Trust(0.5, 0.3, bins)
    found = replace(measured(("ants", "bees")), reliability=Reliability(1.0, 5, trust, trust))
    below, certain = [one for one in drawn(found, "reliability").iter(f"{SVG}rect") if one.get("class") == "many"][1:]
    assert float(below.attrib["x"]) + float(below.attrib["width"]) < float(certain.attrib["x"])
    assert float(certain.attrib["width"]) > 0


def test_the_text_at_the_threshold_lies_on_the_curves() -> None:
    last = list(drawn(measured(("ants", "bees", "wasps")), "rejection"))[-1]
    assert "threshold" in (last.text or "")
    assert "halo" in last.attrib["class"]
