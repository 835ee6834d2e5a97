import tracemalloc
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics

from app import errors, evaluation
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.preprocess import Preprocessing
from app.evaluation import ClassFigures
from tests.training import samples
from tests.training.samples import Recorder
from worker.training import calibrate, conformal, evaluate, unknown
from worker.training.events import Progress

CLOSE = 1e-9
AT_32 = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def guesses(count: int, classes: int, *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities that lean towards the targets, of which every class has some."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(count) % classes)
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), targets] += 1
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True), targets


def labels(classes: int) -> list[str]:
    return [f"label {place}" for place in range(classes)]


@pytest.mark.parametrize(("count", "classes"), [(40, 2), (101, 5), (300, 8), (12, 12)])
def test_all_figures_are_those_of_scikit_learn(count: int, classes: int) -> None:
    probabilities, targets = guesses(count, classes, seed=count)
    predicted, every = probabilities.argmax(axis=1), list(range(classes))
    found = evaluate.evaluate(probabilities, targets, labels(classes))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        targets, predicted, labels=every, zero_division=0
    )

    assert found.images == count
    assert found.accuracy == pytest.approx(metrics.accuracy_score(targets, predicted), abs=CLOSE)
    assert found.log_loss == pytest.approx(metrics.log_loss(targets, probabilities, labels=every), abs=CLOSE)
    assert found.confusion == tuple(map(tuple, metrics.confusion_matrix(targets, predicted, labels=every).tolist()))
    assert [figures.label for figures in found.classes] == labels(classes)
    assert [figures.images for figures in found.classes] == images.tolist()
    assert [figures.precision for figures in found.classes] == pytest.approx(precision.tolist(), abs=CLOSE)
    assert [figures.recall for figures in found.classes] == pytest.approx(recall.tolist(), abs=CLOSE)
    assert [figures.f1 for figures in found.classes] == pytest.approx(f1.tolist(), abs=CLOSE)


@pytest.mark.parametrize("count", [1, 8, 21])
def test_it_is_kept_which_images_were_right(count: int) -> None:
    probabilities, targets = guesses(count, 3)
    found = evaluate.evaluate(probabilities, targets, labels(3))
    assert found.right is not None
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(found.right), np.uint8), count=count)
    assert bits.tolist() == (probabilities.argmax(axis=1) == targets).tolist()
    assert int(found.right, 16).bit_count() == round(found.accuracy * count)


@pytest.mark.parametrize("classes", [6, 9, 30])
def test_the_accuracy_of_the_five_best_is_that_of_scikit_learn(classes: int) -> None:
    probabilities, targets = guesses(200, classes)
    expected = metrics.top_k_accuracy_score(targets, probabilities, k=5, labels=list(range(classes)))
    found = evaluate.evaluate(probabilities, targets, labels(classes))
    assert found.top5_accuracy == pytest.approx(expected, abs=CLOSE)
    assert found.top5_accuracy is not None
    assert found.accuracy < found.top5_accuracy < 1


@pytest.mark.parametrize("classes", [2, 4, 30])
def test_the_accuracies_of_the_k_best_are_those_of_scikit_learn(classes: int) -> None:
    probabilities, targets = guesses(200, classes)
    found = evaluate.evaluate(probabilities, targets, labels(classes))
    assert found.top is not None
    assert [top.k for top in found.top] == [k for k in (2, 3, 5, 10) if k < classes]
    for top in found.top:
        expected = metrics.top_k_accuracy_score(targets, probabilities, k=top.k, labels=list(range(classes)))
        assert top.accuracy == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("classes", [2, 5])
def test_of_five_labels_the_five_best_say_nothing(classes: int) -> None:
    assert evaluate.evaluate(*guesses(20, classes), labels(classes)).top5_accuracy is None


def test_a_label_without_images_or_predictions_has_figures_of_zero() -> None:
    probabilities = np.array([[0.8, 0.2, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0], [0.1, 0.2, 0.7, 0.0]])
    targets = np.array([0, 1, 1])
    found = evaluate.evaluate(probabilities, targets, labels(4))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        targets, probabilities.argmax(axis=1), labels=[0, 1, 2, 3], zero_division=0
    )
    assert [figures.precision for figures in found.classes] == pytest.approx(precision.tolist(), abs=CLOSE)
    assert [figures.recall for figures in found.classes] == pytest.approx(recall.tolist(), abs=CLOSE)
    assert [figures.f1 for figures in found.classes] == pytest.approx(f1.tolist(), abs=CLOSE)
    assert found.classes[3] == ClassFigures("label 3", 0, 0.0, 0.0, 0.0)


def test_a_likelihood_that_is_rounded_to_zero_gives_a_finite_loss() -> None:
    probabilities, targets = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0])
    found = evaluate.evaluate(probabilities, targets, labels(2))
    assert found.log_loss == pytest.approx(metrics.log_loss(targets, probabilities, labels=[0, 1]), abs=CLOSE)
    assert found.log_loss == pytest.approx(-np.log(np.finfo(np.float64).eps) / 2, abs=CLOSE)


def test_classifiers_are_compared_at_the_temperature_that_suits_each() -> None:
    rng = np.random.default_rng(3)
    targets = rng.integers(4, size=300)
    logits = rng.normal(size=(300, 4)) + 1.5 * np.eye(4)[targets]

    def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
        return found

    fair = evaluate.tempered_log_loss(softmax(logits), targets)
    assert evaluate.tempered_log_loss(softmax(5 * logits), targets) == pytest.approx(fair, rel=1e-2)
    plain = [metrics.log_loss(targets, softmax(sharpness * logits)) for sharpness in np.linspace(0.1, 4, 200)]
    assert fair == pytest.approx(min(plain), rel=1e-2)
    noisier = softmax(logits + rng.normal(size=logits.shape))
    assert evaluate.tempered_log_loss(noisier, targets) > fair + 0.05
    certain = np.eye(4)[targets]
    assert evaluate.tempered_log_loss(certain, targets) == pytest.approx(0, abs=1e-6)


Figures = Callable[[NDArray[np.float64], NDArray[np.int64]], object]
FIGURES: dict[str, Figures] = {
    "tempered loss": evaluate.tempered_losses,
    "temperature": calibrate.fit,
    "tempered": lambda probabilities, _targets: calibrate.tempered(probabilities, 1.7),
    "reliability": lambda probabilities, targets: calibrate.reliability(probabilities, targets, seed=0),
    "conformal sets": lambda probabilities, targets: conformal.evaluate(
        probabilities, targets, temperature=1.3, seed=0
    ),
    "unknown": lambda similar, targets: unknown.evaluate(similar, similar, targets, labels(similar.shape[1]), seed=0),
}


@pytest.mark.parametrize(
    ("figures", "most"),
    [
        ("tempered loss", 0.4),
        ("temperature", 0.3),
        ("tempered", 1.2),
        ("reliability", 0.8),
        ("conformal sets", 0.9),
        ("unknown", 0.4),
    ],
)
def test_figures_take_little_more_memory_than_the_probabilities_that_they_are_of(figures: str, most: float) -> None:
    probabilities, targets = guesses(20_000, 200)
    tracemalloc.start()
    try:
        FIGURES[figures](probabilities, targets)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * probabilities.nbytes


@pytest.mark.parametrize("figures", FIGURES.values(), ids=FIGURES)
def test_figures_are_the_same_to_the_bit_in_whatever_parts_they_are_computed(
    figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = guesses(500, 6)
    whole = figures(*given)
    for module, name in ((evaluate, "_RANKED_AT_ONCE"), (unknown, "_RANKED_AT_ONCE"), (calibrate, "_VALUES_AT_ONCE")):
        monkeypatch.setattr(module, name, 42)
    parts = figures(*given)
    if isinstance(parts, np.ndarray):
        assert isinstance(whole, np.ndarray)
        assert np.array_equal(parts, whole)
    else:
        assert parts == whole


def test_figures_are_plain_values() -> None:
    found = evaluate.evaluate(*guesses(30, 7), labels(7))
    numbers = [found.accuracy, found.log_loss, found.top5_accuracy, found.classes[0].precision, found.classes[0].f1]
    assert {type(number) for number in numbers} == {float}
    assert {type(count) for row in found.confusion for count in row} == {int}
    assert type(found.images) is type(found.classes[0].images) is int


def test_the_confusion_matrix_which_may_have_millions_of_values_is_not_copied_to_be_plain() -> None:
    found = evaluate.evaluate(*guesses(30, 7), labels(7))
    assert evaluation.plain(found) == asdict(found)
    assert evaluation.plain(found)["confusion"] is evaluation.brief(found)["confusion"] is found.confusion


def test_predictions_are_softmax_of_the_logits_in_the_order_of_the_images() -> None:
    network = classifiers.build(catalogue.find("tinynet"), 3, state=None, seed=1).eval()
    images = samples.images(samples.colours(10))
    told = Recorder()
    found = evaluate.predict(
        classifiers.inference_form(network),
        images,
        AT_32,
        max_pixels=samples.MAX_PIXELS,
        phase="looking",
        emit=told,
        device=samples.CPU,
    )
    batch = torch.cat([samples.seen(file, AT_32) for file in images.files])
    with torch.inference_mode():
        expected = network(batch).logits.double().softmax(dim=1).numpy()
    assert found.dtype == np.float64
    assert found == pytest.approx(expected, abs=1e-6)
    assert found.sum(axis=1) == pytest.approx(np.ones(20), abs=1e-12)
    assert told.events == [Progress("looking", 8, 20), Progress("looking", 16, 20), Progress("looking", 20, 20)]


def test_a_file_that_is_no_image_is_named_as_such() -> None:
    network = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=1)
    images = samples.images([*samples.colours(1), (b"no image", 0)])
    with pytest.raises(errors.BadImage):
        evaluate.predict(
            classifiers.inference_form(network),
            images,
            AT_32,
            max_pixels=samples.MAX_PIXELS,
            phase="looking",
            emit=Recorder(),
            device=samples.CPU,
        )


def test_the_log_loss_of_a_sure_and_right_classifier_is_no_negative_zero() -> None:
    probabilities, targets = np.eye(2)[[0, 1, 1]], np.array([0, 1, 1])
    found = evaluate.evaluate(probabilities, targets, labels(2))
    for loss in (found.log_loss, calibrate.log_loss(probabilities, targets)):
        assert f"{loss:.3f}" == "0.000"
