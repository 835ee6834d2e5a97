"""The anatomy over HTTP."""

import csv
import io
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from app.backbones import pages
from app.doorbell import SilentDoorbell
from app.main import assemble
from app.settings import Settings
from tests.problems import problem

CONV: dict[str, Any] = {"type": "conv", "out_channels": 64, "kernel": 3, "padding": "same", "bias": False}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application without anything in its database, which none of these routes asks."""
    given = Settings(data_dir=tmp_path_factory.mktemp("anatomy"), download_weights=False, threads=1)
    with TestClient(assemble(given, SilentDoorbell()), raise_server_exceptions=False) as client:
        yield client


class Table(HTMLParser):
    """The cells of the last table of a page, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def anatomy(http: TestClient, name: str = "vgg16", **query: Any) -> dict[str, Any]:
    answer = http.get(f"/v1/backbones/{name}/anatomy", params=query)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


def test_a_network_is_answered_with_its_layers_and_what_is_counted(http: TestClient) -> None:
    read = anatomy(http)
    assert read["backbone"] == "vgg16"
    assert read["input"] == [3, 224, 224]
    assert read["layers"] == 16
    assert read["totals"]["parameters"] == 138_357_544 == sum(row["parameters"] for row in read["rows"])
    assert read["totals"]["layer_values"] == 15_237_608
    assert read["rows"][0]["receptive_field"] == [3, 3]
    assert read["rows"][-1]["receptive_field"] is None
    assert {"multiply_adds", "layer_values", "training"} <= read["counted"].keys()
    assert [stage["name"] for stage in read["stages"]] == list(
        dict.fromkeys(row["stage"] for row in read["rows"] if row["stage"])
    )


def test_size_batch_and_dtype_are_the_callers_choice(http: TestClient) -> None:
    one, four = anatomy(http, "alexnet"), anatomy(http, "alexnet", input=128, batch=4, dtype="float16")
    assert four["input"] == [3, 128, 128]
    assert four["totals"]["macs"] < one["totals"]["macs"]
    assert four["rows"][0]["bytes"] == four["rows"][0]["values"] * 4 * 2
    assert four["memory"]["weights"] * 2 == one["memory"]["weights"]


def test_a_table_for_spreadsheets_has_a_line_for_each_layer(http: TestClient) -> None:
    answer = http.get("/v1/backbones/vgg16/anatomy", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    rows = anatomy(http)["rows"]
    assert [line["name"] for line in lines] == [row["name"] for row in rows]
    assert lines[0].keys() == rows[0].keys()
    assert (lines[0]["kernel"], lines[0]["receptive_field"], lines[0]["in_place"]) == ("3x3", "3x3", "false")
    assert lines[-1]["receptive_field"] == "image"
    assert sum(int(line["parameters"]) for line in lines) == 138_357_544


def test_a_page_shows_the_table_and_the_picture(http: TestClient) -> None:
    answer = http.get("/v1/backbones/vgg16/anatomy", params={"format": "html", "batch": 2})
    assert answer.headers["content-type"].startswith("text/html")
    assert '<link rel="icon" href="data:' in answer.text
    table = Table()
    table.feed(answer.text)
    rows = anatomy(http)["rows"]
    assert [cells[0] for cells in table.rows] == ["layer", *(row["name"] for row in rows)]
    assert "1,792" in table.rows[1]
    assert 'src="anatomy.svg?input=224&amp;batch=2&amp;dtype=float32"' in answer.text
    assert "prefers-color-scheme: dark" in answer.text
    assert "<script" not in answer.text


def test_the_page_says_what_each_count_is_of_and_where_the_table_is(http: TestClient) -> None:
    page = http.get("/v1/backbones/formnet/anatomy", params={"format": "html", "batch": 2}).text
    read = anatomy(http, "formnet")
    weighted = sum(row["type"] in ("conv", "linear") for row in read["rows"])
    assert weighted > read["layers"]
    assert f"<dd>{read['layers']}<small>of {weighted} with weights</small></dd>" in page
    assert all(page.count(f"<dt>{name}</dt>") == 2 for name in pages.NAMES.values() if name != "Receptive field")
    assert read["counted"].keys() == pages.NAMES.keys()
    assert 'alt="Half of the activation memory is reached at bar' in page
    table = "anatomy?input=128&batch=2&dtype=float32&format=csv"
    assert f'href="{escape(table)}"' in page
    assert http.get(f"/v1/backbones/formnet/{table}").headers["content-type"].startswith("text/csv")


@pytest.mark.parametrize("name", ["formnet", "vgg16", "inception_v3", "vit_b_16"])
def test_the_rows_of_the_stages_add_up(http: TestClient, name: str) -> None:
    page = http.get(f"/v1/backbones/{name}/anatomy?format=html").text
    table = Table()
    table.feed(page[page.index("<h2>Stages") : page.index("<h2>Layers")])
    numbers = [[int(cell.replace(",", "")) for cell in cells[1:]] for cells in table.rows[1:]]
    totals = anatomy(http, name)["totals"]
    assert numbers[-1] == [totals["parameters"], totals["macs"], totals["all_values"]]
    assert [sum(column) for column in zip(*numbers[:-1], strict=True)] == numbers[-1]
    assert min(min(row) for row in numbers) >= 0


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "application/json"),
        ("text/*", "text/csv"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("text/csv;q=0.5, application/json;q=0.4", "text/csv"),
        ("text/html;q=x, text/csv", "text/csv"),
        ("application/json, text/html", "application/json"),
    ],
)
def test_the_header_decides_the_form(accept: str, media_type: str) -> None:
    assert pages.preferred(accept, (pages.JSON, pages.CSV, pages.HTML)) == media_type


def test_the_format_outweighs_the_header(http: TestClient) -> None:
    answer = http.get("/v1/backbones/alexnet/anatomy", params={"format": "csv"}, headers={"Accept": "text/html"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["vary"] == "Accept"


def test_the_pictures_are_svg(http: TestClient) -> None:
    for path in ("/v1/backbones/chart.svg", "/v1/backbones/alexnet/anatomy.svg"):
        answer = http.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/svg+xml"
        assert ElementTree.fromstring(answer.text).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_chart_shows_what_was_asked_for(http: TestClient) -> None:
    drawn = http.get("/v1/backbones/chart.svg", params={"family": "VGG", "max_gmac": 12}).text
    assert "vgg11" in drawn
    assert "vgg16" not in drawn
    assert "resnet18" not in drawn


def test_a_chart_of_nothing_is_refused(http: TestClient) -> None:
    document = problem(http.get("/v1/backbones/chart.svg", params={"max_params": 10}), 422)
    assert document["code"] == "empty_chart"
    document = problem(http.get("/v1/backbones/chart.svg", params={"family": "VG"}), 422)
    assert document["code"] == "unknown_family"


def test_an_unknown_network_is_not_found(http: TestClient) -> None:
    for path in ("anatomy", "anatomy.svg"):
        document = problem(http.get(f"/v1/backbones/vgg17/{path}"), 404)
        assert document["code"] == "unknown_backbone"
        assert "vgg16" in document["nearest"]


def test_an_image_too_small_is_refused_with_the_smallest_possible(http: TestClient) -> None:
    document = problem(http.get("/v1/backbones/vgg16/anatomy", params={"input": 31}), 422)
    assert document["code"] == "bad_input_size"
    assert document["smallest"] == 32
    assert "31 x 31" in document["detail"]


@pytest.mark.parametrize("query", [{"batch": 0}, {"batch": -1}, {"input": 0}, {"dtype": "int3"}, {"format": "xml"}])
def test_what_makes_no_sense_is_refused_by_name(http: TestClient, query: dict[str, Any]) -> None:
    document = problem(http.get("/v1/backbones/vgg16/anatomy", params=query), 422)
    assert document["errors"][0]["location"] == ["query", next(iter(query))]


def test_three_small_filters_are_compared_with_a_large_one(http: TestClient) -> None:
    given = {"channels": 64, "size": 56}
    relu = {"type": "relu"}
    stacks = [
        {"name": "three 3x3", "input": given, "layers": [CONV, relu] * 3},
        {"name": "one 7x7", "input": given, "layers": [{**CONV, "kernel": 7}, relu]},
    ]
    answer = http.post("/v1/anatomy", json={"stacks": stacks})
    assert answer.status_code == 200, answer.text
    small, large = answer.json()["comparison"]
    assert (small["parameters"], large["parameters"]) == (27 * 64**2, 49 * 64**2)
    assert large["parameters_ratio"] == round(49 / 27, 4) == large["macs_ratio"]
    assert small["receptive_field"] == large["receptive_field"] == [7, 7]
    assert (small["activation_functions"], large["activation_functions"]) == (3, 1)
    assert (small["layers"], large["layers"]) == (3, 1)
    assert [stack["name"] for stack in answer.json()["stacks"]] == ["three 3x3", "one 7x7"]
    assert len(answer.json()["stacks"][0]["rows"]) == 6


def test_a_stack_without_parameters_has_no_ratio(http: TestClient) -> None:
    pool = {"name": "pool", "input": {"size": 8}, "layers": [{"type": "max_pool", "kernel": 2}]}
    (compared,) = http.post("/v1/anatomy", json={"stacks": [pool]}).json()["comparison"]
    assert compared["parameters_ratio"] is None
    assert compared["output"] == [3, 4, 4]


def test_layers_that_do_not_fit_are_refused_with_stack_and_layer(http: TestClient) -> None:
    wrong = {"name": "wrong", "input": {"size": 8}, "layers": [CONV, {"type": "linear", "out_channels": 10}]}
    document = problem(http.post("/v1/anatomy", json={"stacks": [wrong]}), 422)
    assert document["code"] == "layers_do_not_fit"
    assert (document["stack"], document["layer"], document["comes_in"]) == ("wrong", 2, [64, 8, 8])
    assert "flatten" in document["detail"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"kernel": 0}, ["kernel"]),
        ({"type": "lstm"}, ["type"]),
        ({"kernle": 3}, ["kernle"]),
        ({"out_channels": 10**9}, ["out_channels"]),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused_with_its_place(
    http: TestClient, change: dict[str, Any], place: list[str]
) -> None:
    stack = {"name": "wrong", "input": {"size": 8}, "layers": [{**CONV, **change}]}
    document = problem(http.post("/v1/anatomy", json={"stacks": [stack]}), 422)
    assert document["errors"][0]["location"][:6] == ["body", "stacks", 0, "layers", 0, *place]


def test_the_largest_stack_that_may_be_asked_for_is_no_error_of_the_service(http: TestClient) -> None:
    wide = {"type": "conv", "out_channels": 16384, "kernel": 1024, "padding": 1024}
    stack = {"name": "huge", "input": {"channels": 16384, "size": 4096}, "layers": [wide] * 200}
    answer = http.post("/v1/anatomy", json={"stacks": [stack], "batch": 4096})
    assert answer.status_code in (200, 422), answer.text
