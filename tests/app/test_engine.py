"""The engine: which classifiers it keeps, and who waits for one that is being loaded."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from app import errors
from app.backbones import catalogue, classifier, preprocess
from app.models.artifact import Calibration
from app.models.service import Served
from app.predictions.engine import Answer, Engine
from app.storage import Storage
from tests import factories

PHOTO = factories.image(factories.COLOURS["red"])


class Shelf:
    """Model versions on disk."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(folder)

    def add(self, name: str, calibration: Calibration | None = None) -> Served:
        factories.write_artifact(self.storage.model_version(name), calibration=calibration)
        return Served(name, name, 1)

    def remove(self, version: Served) -> None:
        self._manifest(version).unlink()

    def stall(self, version: Served) -> Callable[[], None]:
        """Let the loading of a version wait until the function that is returned is called."""
        manifest = self._manifest(version)
        content = manifest.read_text()
        manifest.unlink()
        os.mkfifo(manifest)

        def go_on() -> None:
            # One reader alone is served, so a second loading of the same would wait for ever.
            manifest.write_text(content)
            manifest.unlink()

        return go_on

    def _manifest(self, version: Served) -> Path:
        return self.storage.model_version(version.version_id) / "artifact.json"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def engine(shelf: Shelf) -> Engine:
    return Engine(shelf.storage, loaded_models=2, max_image_pixels=1_000_000)


def test_a_model_that_takes_long_to_load_holds_up_no_other_and_is_loaded_once(shelf: Shelf, engine: Engine) -> None:
    slow, other = shelf.add("slow"), shelf.add("other")
    go_on = shelf.stall(slow)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(engine.classify, slow, [PHOTO], top_k=1) for _ in range(2)]
        answered = pool.submit(engine.classify, other, [PHOTO], top_k=1)
        try:
            assert len(answered.result(timeout=60)) == 1
            assert not any(future.done() for future in waiting)
        finally:
            threading.Thread(target=go_on).start()
        assert waiting[0].result(timeout=60) == waiting[1].result(timeout=60)


def test_the_models_used_last_are_kept(shelf: Shelf, engine: Engine) -> None:
    versions = [shelf.add(name) for name in ("first", "second", "third")]
    for version in (versions[0], versions[1], versions[0], versions[2]):
        engine.classify(version, [PHOTO], top_k=1)
    for version in versions:
        shelf.remove(version)

    engine.classify(versions[0], [PHOTO], top_k=1)
    engine.classify(versions[2], [PHOTO], top_k=1)
    with pytest.raises(errors.Unavailable):
        engine.classify(versions[1], [PHOTO], top_k=1)


def test_a_model_that_could_not_be_loaded_is_tried_again(shelf: Shelf, engine: Engine) -> None:
    missing = Served("missing", "missing", 1)
    with pytest.raises(errors.Unavailable):
        engine.classify(missing, [PHOTO], top_k=1)
    shelf.add("missing")

    assert len(engine.classify(missing, [PHOTO], top_k=1)) == 1


def test_an_image_below_the_threshold_of_its_version_is_unknown(shelf: Shelf, engine: Engine) -> None:
    built = classifier.build(catalogue.find("tinynet"), 2, state=None, seed=0).eval()
    pixels = preprocess.load(PHOTO, built.preprocessing, max_pixels=10**6)
    with torch.inference_mode():
        own = functional.normalize(built.features(torch.from_numpy(pixels).permute(2, 0, 1)[None]), dim=1)
    means = torch.cat([-own, own])

    def answer(name: str, threshold: float) -> Answer:
        kept = Calibration(temperature=1.0, unknown_below=threshold, conformal=(), means=means)
        return engine.classify(shelf.add(name, kept), [PHOTO], top_k=2)[0]

    known, foreign = answer("known", 0.99), answer("foreign", 1.01)
    assert known.similarity == pytest.approx(1, abs=1e-4)
    assert (known.is_unknown, foreign.is_unknown) == (False, True)
    assert known.labels == foreign.labels


def test_a_version_of_old_says_nothing_of_unknown_images(shelf: Shelf, engine: Engine) -> None:
    (found,) = engine.classify(shelf.add("old"), [PHOTO], top_k=1)
    assert found.similarity is found.is_unknown is None
