"""Answers: what is said of an image by what a network makes of it."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from app.backbones import catalogue, classifier, crops
from app.models.artifact import Calibration
from app.predictions.engine import Engine
from app.predictions.loaded import Answer
from tests.app.engines import PHOTO, Versions, engine, one, scheduler, shelf, versions

__all__ = ["engine", "scheduler", "shelf", "versions"]  # fixtures


def test_an_image_below_the_threshold_of_its_version_is_unknown(versions: Versions, engine: Engine) -> None:
    built = classifier.build(catalogue.find("tinynet"), 2, state=None, seed=0).eval()
    pixels = crops.load(PHOTO, built.preprocessing, max_pixels=10**6)
    with torch.inference_mode():
        own = functional.normalize(built.features(torch.from_numpy(pixels).permute(2, 0, 1)[None]), dim=1)
    means = torch.cat([-own, own])

    def answer(name: str, threshold: float) -> Answer:
        kept = Calibration(temperature=1.0, unknown_below=threshold, conformal=(), means=means)
        return one(engine, versions.add(name, kept))

    known, foreign = answer("known", 0.99), answer("foreign", 1.01)
    assert known.similarity == pytest.approx(1, abs=1e-4)
    assert (known.is_unknown, foreign.is_unknown) == (False, True)
    assert known.ranked(2) == foreign.ranked(2)


def test_a_version_of_old_says_nothing_of_unknown_images(versions: Versions, engine: Engine) -> None:
    found = one(engine, versions.add("old"))
    assert found.similarity is found.is_unknown is None


def test_probabilities_are_those_at_the_temperature(versions: Versions, engine: Engine) -> None:
    kept = Calibration(temperature=4.0, unknown_below=-1.0, conformal=(), means=torch.zeros(2, 128))
    plain, cooled = one(engine, versions.add("plain")), one(engine, versions.add("cooled", kept))

    expected = np.exp(plain.logits.astype(np.float64) / 4)
    assert cooled.probabilities == pytest.approx(expected / expected.sum())
    assert plain.probabilities != pytest.approx(cooled.probabilities)


def test_labels_below_the_threshold_are_left_out_and_equals_come_in_their_order() -> None:
    answer = Answer(("a", "b", "c", "d"), np.array([0.1, 0.4, 0.4, 0.1]), np.zeros(4, np.float32), None, None)
    assert [item.label for item in answer.ranked(10)] == ["b", "c", "a", "d"]
    assert [item.label for item in answer.ranked(10, threshold=0.2)] == ["b", "c"]
    assert [item.label for item in answer.ranked(1)] == ["b"]
