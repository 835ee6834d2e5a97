"""What a person decides on: the card of a model version in Markdown, and its evaluation as a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app import errors
from app.backbones import catalogue
from app.evaluation import Evaluation
from app.models import pictures
from app.optimisation import Report

_PAIRS = 10


@dataclass(frozen=True)
class Facts:
    """What is known of a model version besides its evaluation."""

    model: str
    number: int
    created_at: datetime
    dataset_id: str
    dataset_version: int
    backbone: str
    strategy: str
    labels: tuple[str, ...]
    provenance: Mapping[str, Any]
    reasons: tuple[str, ...]
    runs: tuple["Run", ...] = ()
    """The newest optimisation for each kind of device."""


@dataclass(frozen=True)
class Run:
    """How a version is run on one kind of device."""

    report: Report
    served: str
    why: str


@dataclass(frozen=True)
class Pair:
    """Images of one label that are taken for another one."""

    label: str
    predicted: str
    count: int


def markdown(facts: Facts, found: Evaluation) -> str:
    """The card."""
    template = pictures.environment().get_template("card.md")
    return template.render(facts=facts, found=found, pairs=pairs(found), licence=licence(facts))


def html(facts: Facts, found: Evaluation) -> str:
    """A page of its own, without scripts, for light and dark screens; its pictures are those of the routes below it."""
    template = pictures.environment().get_template("evaluation.html")
    return template.render(facts=facts, found=found, pairs=pairs(found), drawn=pictures.available(found))


def pairs(found: Evaluation) -> list[Pair]:
    """The labels that are mistaken most often."""
    labels = [figures.label for figures in found.classes]
    wrong = [
        Pair(labels[row], labels[column], count)
        for row, counts in enumerate(found.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(wrong, key=lambda pair: -pair.count)[:_PAIRS]


def licence(facts: Facts) -> str | None:
    """That of the weights the training began with; None where it began with random values or is not known."""
    weights = (facts.provenance.get("backbone") or {}).get("weights") or {}
    try:
        known = catalogue.find(facts.backbone).weights
    except errors.UnknownName:
        return None
    return next((one.licence for one in known if one.name == weights.get("name")), None)
