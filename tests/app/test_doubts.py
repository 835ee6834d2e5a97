"""When an accuracy shows that something was learned."""

import pytest

from app import evaluation
from app.evaluation import ClassFigures, Evaluation


def judged(*rows: tuple[int, ...]) -> Evaluation:
    """With this confusion matrix, of a version that was stored without intervals."""
    images = sum(map(sum, rows))
    right = sum(row[place] for place, row in enumerate(rows))
    classes = tuple(ClassFigures(f"label {place}", sum(row), 0, 0, 0) for place, row in enumerate(rows))
    return Evaluation(images, right / images, None, 0.1, classes, rows)


@pytest.mark.parametrize(
    "rows",
    [
        ((12, 9), (10, 13)),  # 25 of 44: 42 to 70 %, 23 of 44 without looking
        ((10, 10), (10, 10)),
        ((0, 10), (10, 0)),  # worse than guessing
        ((5, 5), (0, 90)),  # 95 %, where 90 % have the same label
    ],
)
def test_an_accuracy_that_guessing_may_have_is_doubted(rows: tuple[tuple[int, ...], ...]) -> None:
    assert "not shown to do better than guessing" in (evaluation.doubt(judged(*rows)) or "")


@pytest.mark.parametrize("rows", [((18, 2), (2, 18)), ((50, 5), (0, 945)), ((2, 0, 0), (0, 2, 0), (0, 0, 2))])
def test_an_accuracy_above_guessing_is_not(rows: tuple[tuple[int, ...], ...]) -> None:
    assert evaluation.doubt(judged(*rows)) is None


def test_the_doubt_names_the_label_and_the_interval() -> None:
    assert evaluation.doubt(judged((12, 9), (10, 13))) == (
        "It is not shown to do better than guessing: who always says 'label 1' is right for 52.3 % of the validation "
        "images, and its own accuracy of 56.8 % is between 42.2 % and 70.3 % (95 %). More images would "
        "tell, and may help."
    )
