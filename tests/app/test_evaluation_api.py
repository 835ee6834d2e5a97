"""The evaluation of a model version over HTTP: figures, pictures, mistakes, the card; of old versions, too."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from app import evaluation
from app.backbones import catalogue, classifier
from app.db import Database
from app.evaluation import ClassFigures, Evaluation, Mistake, OldLabels
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
PHOTO = factories.image(factories.COLOURS["red"])


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
        mistakes=(Mistake("0" * 64, labels[0], labels[1], 0.9, 0.1),),
    )


@pytest.fixture
def register(http: TestClient, database: Database, files: Storage, dataset_id: str) -> Any:
    """Makes the first version of a model with this evaluation."""

    def made(document: dict[str, Any], labels: Sequence[str], *, thumbnails: Sequence[bytes] = ()) -> None:
        version_id = models.new_version_id()
        built = classifier.build(catalogue.find("tinynet"), len(labels), state=None, seed=0)
        plan = {"reasons": ["Few images, and *like* photos."]}
        whole = Artifact("tinynet", tuple(labels), built.preprocessing, plan, document, {}, built.state())
        artifact.write(files.model_version(version_id), whole, thumbnails=thumbnails)
        factories.register_version(database, version_id, dataset_id, labels=labels)

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
    assert "<hornets>" not in answer.text
    assert "wasps | &lt;hornets&gt;" in answer.text
    assert http.get(f"{URL}/evaluation?format=json", headers={"Accept": "text/html"}).json()["version"] == 1


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_each_picture_is_svg_for_light_and_dark(http: TestClient, whole: Evaluation, name: str) -> None:
    answer = http.get(f"{URL}/evaluation/{name}.svg")
    assert answer.headers["content-type"] == "image/svg+xml"
    root = ET.fromstring(answer.text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in answer.text


@pytest.mark.parametrize("classes", [2, 30, 100])
@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_hold_from_two_labels_to_a_hundred(name: str, classes: int) -> None:
    found = measured([f"label {place} & more" for place in range(classes)], count=10 * classes)
    root = ET.fromstring(pictures.draw(name, found))
    assert 400 < float(root.attrib["width"]) < 1400
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    if name == "confusion":
        assert texts.count("label 1 & more") == 2


def test_an_unknown_picture_is_answered_with_the_nearest(http: TestClient, whole: Evaluation) -> None:
    document = problem(http.get(f"{URL}/evaluation/confusions.svg"), 422)
    assert (document["code"], document["nearest"][0]) == ("unknown_picture", "confusion")


def test_a_mistake_has_its_thumbnail_and_others_have_none(http: TestClient, whole: Evaluation) -> None:
    answer = http.get(f"{URL}/evaluation/mistakes/0.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content[:2] == b"\xff\xd8"
    assert problem(http.get(f"{URL}/evaluation/mistakes/1.jpg"), 404)["code"] == "mistake_not_found"


def test_the_card_says_what_the_labels_of_the_base_have_lost(http: TestClient, register: Any) -> None:
    labels = ("ants", "bees")
    lost = OldLabels("base", 50, 0.9, 0.84, 0.88, 6.0, 2.0, (), Interval(0.5, 11.9), 2.0, "Train with *replay*.")
    of_version = replace(lost, images_of="version", lost=-1.0, interval=None, warning=None)
    register(asdict(replace(measured(labels), old_labels=(lost, of_version))), labels)
    card = http.get(f"{URL}/card").text
    assert "| the base | 50 | 90.0 % | 84.0 % | +2.0 | +6.0 (95 %: +0.5 to +11.9) |" in card
    assert "| the new version | 50 | 90.0 % | 84.0 % | +2.0 | -1.0 |" in card
    assert card.count("Train with \\*replay\\*.") == 1


def test_the_card_says_what_is_known_and_what_is_not(http: TestClient, whole: Evaluation) -> None:
    answer = http.get(f"{URL}/card")
    assert answer.headers["content-type"].startswith("text/markdown")
    card = answer.text
    assert f"{100 * whole.accuracy:.1f} %" in card
    assert "also decided which of several classifiers was kept" in card
    assert "how many of these are refused is not known" in card
    assert "wasps \\| \\<hornets\\>" in card
    assert "- Few images, and \\*like\\* photos." in card
    rows = [line for line in card.splitlines() if line.startswith("| wasps")]
    assert rows[0].replace("\\|", "").count("|") == 7


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
