"""The pictures: well-formed, complete, and their geometry follows the data."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from app.backbones import anatomies, catalogue, charts, pages, placing
from app.backbones.anatomies import Question
from app.backbones.anatomy import Anatomy
from app.backbones.charts import Point
from app.backbones.placing import Box, Bubble

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def points() -> tuple[Point, ...]:
    return charts.points(catalogue.backbones().values())


@pytest.fixture(scope="module")
def chart(points: tuple[Point, ...]) -> ElementTree.Element:
    return ElementTree.fromstring(charts.accuracy(points))


@pytest.fixture(scope="module")
def vgg() -> Anatomy:
    return anatomies.Anatomies(capacity=1).get(Question("vgg16", 224, 1, "float32"))


def bubbles(chart: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """Circles of networks, those of the legend left out, by the name in their tooltip."""
    circles = [(circle, circle.find(f"{SVG}title")) for circle in chart.iter(f"{SVG}circle")]
    return {(title.text or "").partition(" ")[0]: circle for circle, title in circles if title is not None}


def test_every_network_with_figures_is_in_the_chart(points: tuple[Point, ...], chart: ElementTree.Element) -> None:
    names = {point.name for point in points}
    assert len(names) > 70
    assert bubbles(chart).keys() == names
    assert {"tinynet", "alexnet_2012"}.isdisjoint(names)
    texts = {text.text for text in chart.iter(f"{SVG}text")}
    assert names <= texts
    assert {point.family for point in points} <= texts


def test_accuracies_are_those_for_images_of_the_size_of_the_computation(points: tuple[Point, ...]) -> None:
    accuracy = {point.name: point.top1 for point in points}
    weights = catalogue.find("vit_l_16").weights
    sizes = {one.name: one.preprocessing.crop for one in weights}
    assert max(sizes.values()) > 224
    assert accuracy["vit_l_16"] == max(
        one.top1 for one in weights if one.preprocessing.crop == 224 and one.top1 is not None
    )


def test_bubbles_are_where_their_figures_put_them(points: tuple[Point, ...], chart: ElementTree.Element) -> None:
    drawn = bubbles(chart)
    by_name = {point.name: point for point in points}

    def x(name: str) -> float:
        return float(drawn[name].attrib["cx"])

    def y(name: str) -> float:
        return float(drawn[name].attrib["cy"])

    left, middle, right = "mobilenet_v3_small", "resnet50", "vgg19"
    scale = (x(right) - x(left)) / math.log(by_name[right].gmac / by_name[left].gmac)
    assert x(middle) - x(left) == pytest.approx(scale * math.log(by_name[middle].gmac / by_name[left].gmac), abs=0.2)
    slope = (y(left) - y(right)) / (by_name[right].top1 - by_name[left].top1)
    assert y(left) - y(middle) == pytest.approx(slope * (by_name[middle].top1 - by_name[left].top1), abs=0.2)
    radii = [float(drawn[name].attrib["r"]) for name in ("vgg16", "resnet50")]
    areas = by_name["vgg16"].parameters / by_name["resnet50"].parameters
    assert (radii[0] / radii[1]) ** 2 == pytest.approx(areas, rel=0.03)


def test_no_label_covers_another() -> None:
    # As many as the catalogue has, and closer together.
    crowd = [Bubble(300 + 7 * (n % 9), 300 + 9 * (n // 9), 4, f"network_{n}") for n in range(80)]
    placed = placing.place(crowd, within=Box(0, 0, 1000, 800), font_size=11)
    boxes = [label.box for label in placed if label is not None]
    assert len(boxes) > 70
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_label_stands_beside_its_bubble_where_there_is_room() -> None:
    (label,) = placing.place([Bubble(100, 100, 10, "alone")], within=Box(0, 0, 200, 200), font_size=10)
    assert label is not None
    assert label.line is None
    assert 0 < label.box.distance(100, 100) - 10 < 5


def test_a_chart_of_a_single_network_has_room_around_it() -> None:
    drawn = ElementTree.fromstring(charts.accuracy((Point("one", "Family", 1.0, 75.0, 1000),)))
    circle = bubbles(drawn)["one"]
    width, height = float(drawn.attrib["width"]), float(drawn.attrib["height"])
    assert 100 < float(circle.attrib["cx"]) < width - 100
    assert 100 < float(circle.attrib["cy"]) < height - 100


def test_bars_are_as_high_as_their_figures(vgg: Anatomy) -> None:
    drawn = ElementTree.fromstring(charts.layers("vgg16", vgg))
    heights = {
        kind: [float(bar.attrib["height"]) for bar in drawn.iter(f"{SVG}rect") if bar.attrib["class"] == kind]
        for kind in ("bytes", "parameters")
    }
    weighted = [row for row in vgg.rows if row.parameters]
    assert len(heights["bytes"]) == len(heights["parameters"]) == len(weighted) == 16
    most = max(row.parameters for row in weighted)
    for height, row in zip(heights["parameters"], weighted, strict=True):
        assert height / max(heights["parameters"]) == pytest.approx(row.parameters / most, abs=0.001)
    # conv1_2 and the pool behind it; the ReLUs work in place.
    own_memory = sum(row.bytes for row in vgg.rows if not row.in_place)
    assert heights["bytes"][1] / sum(heights["bytes"]) == pytest.approx(
        (3_211_264 + 802_816) * 4 / own_memory, rel=0.001
    )


def test_the_picture_tells_where_half_is_reached(vgg: Anatomy) -> None:
    drawn = ElementTree.fromstring(charts.layers("vgg16", vgg))
    described = drawn.findtext(f"{SVG}desc")
    assert described == ("Half of the activation memory is reached at bar 3 of 16, half of the parameters at bar 14.")


def test_an_axis_has_one_unit() -> None:
    assert pages.bytes_along([0, 786_432, 1_572_864]) == ["0", "0.75 MiB", "1.5 MiB"]
    assert pages.bytes_along([0, 500, 1000]) == ["0", "500 B", "1000 B"]
    assert pages.counts_along([0, 600_000, 1_200_000]) == ["0", "0.6 M", "1.2 M"]
    assert pages.counts_along([0, 3.5, 7]) == ["0", "3.5", "7"]


def test_pictures_suit_light_and_dark_screens_and_need_nothing_from_elsewhere(
    points: tuple[Point, ...], vgg: Anatomy
) -> None:
    for picture in (charts.accuracy(points), charts.layers("vgg16", vgg)):
        root = ElementTree.fromstring(picture)
        assert root.findtext(f"{SVG}title")
        assert root.findtext(f"{SVG}desc")
        assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")
        assert not re.search(r"<script|@import|url\(|href=", picture)


def test_names_cannot_break_out_of_the_picture() -> None:
    hostile = Point('<script>"&', "A & B", 1.0, 75.0, 1000)
    root = ElementTree.fromstring(charts.accuracy((hostile,)))
    assert '<script>"&' in {text.text for text in root.iter(f"{SVG}text")}


def test_both_pictures_can_stand_in_one_page(points: tuple[Point, ...], vgg: Anatomy) -> None:
    """The style sheets of pictures in a notebook hold for the whole page."""
    drawn = [ElementTree.fromstring(picture) for picture in (charts.accuracy(points), charts.layers("vgg16", vgg))]
    rules = [
        dict(re.findall(r"^(\.graft \.[\w-]+) {(.*)}$", root.findtext(f"{SVG}style") or "", flags=re.MULTILINE))
        for root in drawn
    ]
    assert len(rules[0]) > 5
    assert all(rules[1].get(name, rule) == rule for name, rule in rules[0].items())
    identifiers = [{part.attrib["id"] for part in root.iter() if "id" in part.attrib} for root in drawn]
    assert identifiers[0].isdisjoint(identifiers[1])
