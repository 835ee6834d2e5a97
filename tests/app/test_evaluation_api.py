"""The evaluation of a model version over HTTP: figures, pictures, mistakes, the card; of old versions, too."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from markupsafe import escape

from app import evaluation
from app.backbones import catalogue, classifier
from app.backbones.figures import PACKAGED_WEIGHTS
from app.db import Database
from app.evaluation import ClassFigures, Evaluation, Mistake, OldLabels, Trust
from app.intervals import Interval
from app.models import artifact, pictures
from app.models import service as models
from app.models.artifact import Artifact, Calibration
from app.storage import Storage
from tests import factories
from tests.app.conftest import sqlite_url
from tests.problems import problem
from tests.training.test_evaluate import guesses
from worker.training import calibrate, conformal, evaluate, mistakes, separation, unknown

URL = "/v1/models/insects/versions/1"
SVG = "{http://www.w3.org/2000/svg}"
CLASSES = (ClassFigures("ants", 21, 0.5, 0.5, 0.5), ClassFigures("bees", 23, 0.5, 0.5, 0.5))
PHOTO = factories.image(factories.COLOURS["red"])


class Tags(HTMLParser):
    """The elements of a page, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"] or "")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


def measured(labels: Sequence[str], *, count: int = 120) -> Evaluation:
    """All that there is, of guesses."""
    probabilities, targets = guesses(count, len(labels))
    found = calibrate.reliability(probabilities, targets, seed=0)
    return replace(
        evaluate.evaluate(probabilities, targets, labels),
        also_chosen_by=True,
        roc=separation.roc(probabilities, targets, labels),
        reliability=found,
        unknown=unknown.evaluate(probabilities, probabilities, targets, labels, seed=0),
        conformal=conformal.evaluate(probabilities, targets, temperature=1.0, seed=0),
        mistakes=(Mistake("0" * 64, labels[0], labels[1], 0.9, 0.1, "ants/<1>.jpg"),),
    )


@pytest.fixture
def register(http: TestClient, database: Database, files: Storage, dataset_id: str) -> Any:
    """Makes the next version of a model with this evaluation; its id."""

    def made(
        document: dict[str, Any],
        labels: Sequence[str],
        *,
        thumbnails: Sequence[bytes] = (),
        backbone: str = "tinynet",
        provenance: dict[str, Any] | None = None,
    ) -> str:
        version_id = models.new_version_id()
        built = classifier.build(catalogue.find("tinynet"), len(labels), state=None, seed=0)
        plan = {"reasons": ["Few images, and *like* photos."]}
        whole = Artifact("tinynet", tuple(labels), built.preprocessing, plan, document, {}, built.state())
        artifact.write(files.model_version(version_id), whole, thumbnails=thumbnails)
        factories.register_version(
            database, version_id, dataset_id, labels=labels, backbone=backbone, provenance=provenance
        )
        return version_id

    return made


@pytest.fixture
def whole(register: Any) -> Evaluation:
    found = measured(("ants", "bees", "wasps | <hornets>"))
    register(
        asdict(found), ("ants", "bees", "wasps | <hornets>"), thumbnails=[mistakes.thumbnail(PHOTO, max_pixels=10**6)]
    )
    return found


def old(labels: Sequence[str]) -> dict[str, Any]:
    """What versions were stored with before there was more."""
    kept = set(evaluation.brief(measured(labels))) - {"accuracy_interval"}
    return {name: value for name, value in asdict(measured(labels)).items() if name in kept}


def test_all_figures_are_answered_as_they_were_stored(http: TestClient, whole: Evaluation) -> None:
    answer = http.get(f"{URL}/evaluation")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["version"], body["split"]) == ("insects", 1, "validation")
    assert body["pictures"] == ["confusion", "reliability", "roc", "rejection"]
    figures = body["figures"]
    assert figures["accuracy"] == whole.accuracy
    assert whole.reliability is not None
    assert figures["reliability"]["after"]["calibration_error"] == whole.reliability.after.calibration_error
    assert [one["alpha"] for one in figures["conformal"]] == list(conformal.ALPHAS)
    assert figures["mistakes"] == [asdict(whole.mistakes[0])] if whole.mistakes else None


def test_a_browser_gets_a_page_with_every_picture_and_names_that_do_no_harm(
    http: TestClient, whole: Evaluation
) -> None:
    answer = http.get(f"{URL}/evaluation", headers={"Accept": "text/html"})
    assert answer.headers["content-type"].startswith("text/html")
    assert '<link rel="icon" href="data:' in answer.text
    assert all(f'src="evaluation/{name}.svg"' in answer.text for name in pictures.PICTURES)
    assert 'src="evaluation/mistakes/0.jpg"' in answer.text
    assert "<code>ants/&lt;1&gt;.jpg</code>" in answer.text
    assert "<hornets>" not in answer.text
    assert "wasps | &lt;hornets&gt;" in answer.text
    assert http.get(f"{URL}/evaluation?format=json", headers={"Accept": "text/html"}).json()["version"] == 1


def page(http: TestClient) -> str:
    answer = http.get(f"{URL}/evaluation?format=html")
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_page_says_what_it_is_of(http: TestClient, whole: Evaluation) -> None:
    found, body = page(http), http.get(URL).json()
    created = datetime.fromisoformat(body["created_at"])
    dataset = http.get(f"/v1/datasets/{body['dataset_id']}").json()
    assert f"Trained on {created:%Y-%m-%d %H:%M} UTC from data set {dataset['name']}" in found
    assert body["dataset_id"] in found
    assert f"version {body['dataset_version']}; backbone" in found
    assert 'href="../../../../backbones/tinynet/anatomy">tinynet</a>' in found
    assert f"strategy {body['strategy']}" in found
    assert http.get(f"{URL}/../../../../backbones/tinynet/anatomy").status_code == 200
    http.delete(f"/v1/datasets/{body['dataset_id']}", headers={"If-Match": "*"})
    assert f"from data set {dataset['name']}" in page(http)


def test_the_figures_above_are_those_that_are_served(http: TestClient, register: Any) -> None:
    found = measured(("ants", "bees"))
    assert found.reliability is not None
    after = Trust(0.321, 0.0456, found.reliability.after.bins)
    scaled = replace(found, reliability=replace(found.reliability, temperature=2.5, after=after))
    register(asdict(scaled), ("ants", "bees"))
    before = found.reliability.before
    text = page(http)
    assert f"<dt>Log-loss</dt><dd>0.321<small>nats; {before.log_loss:.3f} before the temperature</small>" in text
    assert f"<dd>4.6 %<small>{100 * before.calibration_error:.1f} % before the temperature</small>" in text
    assert "fitted without it (5 folds)" in text
    assert "the one temperature of all images" not in text  # as there are no tables of runtimes
    assert "the one temperature of all images" in http.get(f"{URL}/card").text
    assert f"0.321 nats; {before.log_loss:.3f} before the temperature" in http.get(f"{URL}/card").text


def test_without_a_temperature_there_is_nothing_before_it(http: TestClient, register: Any) -> None:
    found = measured(("ants", "bees"))
    assert found.reliability is not None
    plain = replace(found.reliability, temperature=1.0, after=found.reliability.before)
    register(asdict(replace(found, reliability=plain)), ("ants", "bees"))
    assert "before the temperature" not in page(http)
    assert "No temperature does better" in page(http)


def test_what_is_not_shown_to_beat_guessing_is_said_wherever_one_looks(http: TestClient, register: Any) -> None:
    found = replace(measured(("ants", "bees"), count=44), confusion=((12, 9), (10, 13)), classes=CLASSES)
    register(asdict(found), ("ants", "bees"))
    doubt = http.get(f"{URL}/evaluation").json()["doubt"]
    assert doubt.startswith("It is not shown to do better than guessing")
    assert doubt == evaluation.doubt(found)
    assert f"<p>{escape(doubt)}</p>" in page(http)
    assert "**It is not shown to do better than guessing" in http.get(f"{URL}/card").text


def test_the_reasons_of_the_plan_and_the_confusions_are_on_the_page(http: TestClient, register: Any) -> None:
    found = replace(measured(("ants", "bees"), count=44), confusion=((12, 9), (10, 13)), classes=CLASSES)
    register(asdict(found), ("ants", "bees"))
    text = page(http)
    assert "<li>Few images, and *like* photos.</li>" in text
    places = [text.index(said) for said in ("<li>bees taken for ants: 10</li>", "<li>ants taken for bees: 9</li>")]
    assert places == sorted(places)


def test_mistakes_say_what_is_taken_for_what(http: TestClient, whole: Evaluation) -> None:
    assert "<figcaption>taken for bees (90.0 %)<br><span>is ants (10.0 %)</span>" in page(http)


def test_pictures_and_tables_have_words_and_can_be_reached_by_keys(http: TestClient, whole: Evaluation) -> None:
    text = page(http)
    for name in pictures.PICTURES:
        said = ET.fromstring(pictures.draw(name, whole)).findtext(f"{SVG}desc") or ""
        assert f'<a href="evaluation/{name}.svg"><img class="chart" src="evaluation/{name}.svg"' in text
        assert f'alt="{escape(said)}"' in text
    assert "<th>" not in text
    assert text.count("<table") == text.count('<table aria-label="') + text.count('<table class="named" aria-label="')
    assert text.count('class="wide"') == text.count('class="wide" tabindex="0" role="region" aria-label="')


@pytest.mark.parametrize(("count", "said"), [(100, "chart"), (101, "chart whole")])
def test_the_matrix_of_many_labels_is_not_reduced_until_nobody_can_read_their_names(
    http: TestClient, register: Any, count: int, said: str
) -> None:
    labels = tuple(f"label {number}" for number in range(count))
    register(asdict(measured(labels, count=2 * count)), labels)
    text = page(http)
    assert f'<img class="{said}" src="evaluation/confusion.svg"' in text
    assert '<img class="chart" src="evaluation/roc.svg"' in text
    assert ".wide .chart.whole { max-width: none; }" in text


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_each_picture_is_svg_for_light_and_dark(http: TestClient, whole: Evaluation, name: str) -> None:
    answer = http.get(f"{URL}/evaluation/{name}.svg")
    assert answer.headers["content-type"] == "image/svg+xml"
    root = ET.fromstring(answer.text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in answer.text


def test_pictures_are_dark_around_themselves_too(http: TestClient, whole: Evaluation) -> None:
    assert "color-scheme: light dark" in http.get(f"{URL}/evaluation/confusion.svg").text


def test_an_unknown_picture_is_answered_with_the_nearest(http: TestClient, whole: Evaluation) -> None:
    document = problem(http.get(f"{URL}/evaluation/confusions.svg"), 422)
    assert (document["code"], document["nearest"][0]) == ("unknown_picture", "confusion")


def test_a_mistake_has_its_thumbnail_and_others_have_none(http: TestClient, whole: Evaluation) -> None:
    answer = http.get(f"{URL}/evaluation/mistakes/0.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content[:2] == b"\xff\xd8"
    assert problem(http.get(f"{URL}/evaluation/mistakes/1.jpg"), 404)["code"] == "mistake_not_found"


def test_card_and_page_say_what_the_labels_of_the_base_have_lost(http: TestClient, register: Any) -> None:
    labels = ("ants", "bees")
    lost = OldLabels("base", 50, 0.9, 0.84, 0.88, 6.0, 2.0, (), Interval(0.5, 11.9), 2.0, "Train with *replay*.")
    of_version = replace(lost, images_of="version", lost=-1.0, interval=None, warning=None)
    register(asdict(replace(measured(labels), old_labels=(lost, of_version))), labels)
    card = http.get(f"{URL}/card").text
    assert "| the base | 50 | 90.0 % | 84.0 % | +2.0 | +6.0 (95 %: +0.5 to +11.9) |" in card
    assert "| the new version | 50 | 90.0 % | 84.0 % | +2.0 | -1.0 |" in card
    assert card.count("Train with \\*replay\\*.") == 1
    text = page(http)
    assert "<td>+6.0 (95 %: +0.5 to +11.9)</td>" in text
    assert text.count('<p>Train with *replay*. <a href="#old-labels">') == text.count('id="old-labels"') == 1


def test_the_card_says_what_is_known_and_what_is_not(http: TestClient, whole: Evaluation) -> None:
    answer = http.get(f"{URL}/card")
    assert answer.headers["content-type"].startswith("text/markdown")
    card = answer.text
    assert f"{100 * whole.accuracy:.1f} %" in card
    assert "also decided which of several classifiers was kept" in card
    assert "how many of these are refused is not known" in card
    assert "A base that learned" not in card
    assert "wasps \\| \\<hornets\\>" in card
    assert "- Few images, and \\*like\\* photos." in card
    rows = [line for line in card.splitlines() if line.startswith("| wasps")]
    assert rows[0].replace("\\|", "").count("|") == 7


@pytest.mark.parametrize(
    ("backbone", "began", "told", "licence"),
    [
        ("formnet", {"weights": {"name": PACKAGED_WEIGHTS, "sha256": "ab"}}, "FORMULAS\\_V1, sha256 `ab`", "Apache"),
        ("formnet", {"weights": {"name": None, "file": "my.pth", "sha256": "ab"}}, "my.pth, sha256 `ab`", None),
        ("tinynet", {"weights": None}, "random values", None),
        ("tinynet", None, "unknown values", None),
    ],
)
def test_the_card_says_what_the_bases_began_with_also_once_they_are_deleted(
    http: TestClient, register: Any, backbone: str, began: dict[str, Any] | None, told: str, licence: str | None
) -> None:
    labels = ("ants", "bees")
    provenance: dict[str, Any] = {} if began is None else {"backbone": began, "base": None}
    for number in (1, 2, 3):
        version_id = register(asdict(measured(labels)), labels, backbone=backbone, provenance=provenance)
        start = {"base": f"insects@{number}", "version_id": version_id}
        provenance = {"backbone": {"weights": None}, "base": start}
    for number in (2, 1):
        assert http.delete(f"/v1/models/insects/versions/{number}").status_code == 204
    card = http.get("/v1/models/insects/versions/3/card").text
    chain = "those of insects@2, which began with those of insects@1, which began with"
    assert f"| Starting values | {chain} {told} |" in card
    assert (f"| Licence of these | {licence}" in card) is (licence is not None)
    said = "A base that learned from another data set may have met some of them there"
    assert said in card
    assert said in http.get("/v1/models/insects/versions/3/evaluation", headers={"Accept": "text/html"}).text


def test_a_browser_gets_the_card_as_a_page_in_which_no_name_is_markup(http: TestClient, register: Any) -> None:
    labels = ("<script>alert(1)</script>", "[bees](javascript:alert(2))", "*wasps* | <b>x</b> &amp; ![i](x)")
    register(asdict(measured(labels)), labels)
    answer = http.get(f"{URL}/card", headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["vary"] == "Accept"
    assert '<a href="evaluation">' in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    found = Tags()
    found.feed(answer.text)
    assert not found.tags & {"script", "img", "b", "iframe"}
    root = "../../../../../"
    header = {f"{root}.", f"{root}docs", f"{root}v1/backbones/chart.svg"}
    assert set(found.links) == {*header, "evaluation", "card?format=markdown"}
    assert "*wasps* | &lt;b&gt;x&lt;/b&gt; &amp;amp; ![i](x)" in answer.text


def test_the_card_stays_markdown_for_programs_and_for_who_asks(http: TestClient, whole: Evaluation) -> None:
    for query, accept in (("", "*/*"), ("", "text/markdown"), ("?format=markdown", "text/html")):
        answer = http.get(f"{URL}/card{query}", headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("text/markdown")
        assert answer.text.startswith("# insects, version 1")
    assert "<h1>insects, version 1</h1>" in http.get(f"{URL}/card?format=html").text
    assert problem(http.get(f"{URL}/card?format=csv"), 422)["errors"][0]["location"] == ["query", "format"]


def test_a_version_of_an_older_service_has_what_it_was_stored_with(http: TestClient, register: Any) -> None:
    register(old(("ants", "bees")), ("ants", "bees"))
    body = http.get(f"{URL}/evaluation").json()
    assert body["pictures"] == ["confusion"]
    assert body["figures"]["images"] == 120
    assert body["figures"]["reliability"] is body["figures"]["unknown"] is None
    assert http.get(f"{URL}/evaluation/confusion.svg").status_code == 200
    for name in ("reliability", "roc", "rejection"):
        document = problem(http.get(f"{URL}/evaluation/{name}.svg"), 404)
        assert (document["code"], document["picture"]) == ("picture_not_available", name)
    assert "trained by an older service" in http.get(f"{URL}/card").text
    assert "trained by an older service" in http.get(f"{URL}/evaluation?format=html").text


def test_a_version_without_an_evaluation_or_an_artifact_says_so(
    http: TestClient, register: Any, files: Storage
) -> None:
    register({}, ("ants", "bees"))
    for path in ("evaluation", "evaluation/roc.svg", "card"):
        assert problem(http.get(f"{URL}/{path}"), 404)["code"] == "no_evaluation"
    (folder,) = (files.root / "models").iterdir()
    (folder / "evaluation.json").write_text("{}  ")
    assert "has changed" in problem(http.get(f"{URL}/card"), 503)["detail"]
    (folder / "artifact.json").unlink()
    assert "artifact.json is missing" in problem(http.get(f"{URL}/card"), 503)["detail"]
    assert problem(http.get("/v1/models/insects/versions/2/card"), 404)["code"] == "model_version_not_found"


def test_the_calibration_of_an_artifact_is_read_as_it_was_written(tmp_path: Path) -> None:
    built = classifier.build(catalogue.find("tinynet"), 2, state=None, seed=0)
    means = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32))
    kept = Calibration(temperature=1.5, unknown_below=0.4, conformal=((0.1, 0.2), (0.2, 0.5)), means=means)
    plain = Artifact("tinynet", ("ants", "bees"), built.preprocessing, {}, {}, {}, built.state())
    artifact.write(tmp_path / "new", replace(plain, calibration=kept), thumbnails=[PHOTO])
    artifact.write(tmp_path / "old", plain)

    found = artifact.read(tmp_path / "new").calibration
    assert found is not None
    assert replace(found, means=means) == kept
    assert torch.equal(found.means, means)
    assert artifact.read(tmp_path / "old").calibration is None
    assert artifact.thumbnail(tmp_path / "new", 0) == PHOTO


def test_the_brief_figures_are_those_that_versions_always_had() -> None:
    figures = (ClassFigures("ants", 1, 1.0, 1.0, 1.0),)
    found = Evaluation(images=1, accuracy=1.0, top5_accuracy=None, log_loss=0.1, classes=figures, confusion=((1,),))
    assert evaluation.brief(found)["classes"] == (asdict(figures[0]),)
    assert "mistakes" not in evaluation.brief(found)
