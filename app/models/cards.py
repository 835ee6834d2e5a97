"""What a person decides on: the card of a model version, in Markdown and as a page, and the page of its evaluation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app import errors, evaluation
from app.backbones import catalogue
from app.evaluation import Evaluation
from app.models import descriptions, pictures
from app.models.markdown import as_html
from app.models.service import Origin
from app.models.templating import environment
from app.optimisation import Report


@dataclass(frozen=True)
class Facts:
    """What is known of a model version besides its evaluation."""

    model: str
    number: int
    created_at: datetime
    job_id: str
    """Of its training."""
    dataset_id: str
    dataset_name: str
    dataset_version: int
    backbone: str
    strategy: str
    labels: tuple[str, ...]
    provenance: Mapping[str, Any]
    origin: Origin
    reasons: tuple[str, ...]
    runs: tuple["Run", ...] = ()
    """The newest optimisation for each kind of device."""


@dataclass(frozen=True)
class Run:
    """How a version is run on one kind of device."""

    report: Report
    served: str
    why: str


def markdown(facts: Facts, found: Evaluation) -> str:
    """The card."""
    template = environment().get_template("card.md")
    return template.render(
        facts=facts,
        found=found,
        pairs=descriptions.pairs(found),
        licence=licence(facts),
        doubt=evaluation.doubt(found),
        reasons=_reasons(facts, found),
    )


def card_page(facts: Facts, found: Evaluation) -> str:
    """The card as a page of its own, beside that of the evaluation."""
    template = environment().get_template("card.html")
    return template.render(facts=facts, body=as_html(markdown(facts, found)))


def evaluation_page(facts: Facts, found: Evaluation) -> str:
    """A page of its own, without scripts, for light and dark screens; its pictures are those of the routes below it."""
    template = environment().get_template("evaluation.html")
    return template.render(
        facts=facts,
        found=found,
        pairs=descriptions.pairs(found),
        drawn={name: descriptions.describe(name, found) for name in pictures.available(found)},
        doubt=evaluation.doubt(found),
        reasons=_reasons(facts, found),
        guessing=math.log(max(1, len(found.classes))),
    )


def _reasons(facts: Facts, found: Evaluation) -> list[str]:
    """Those of the plan, but for the doubt, which stands by itself."""
    return [reason for reason in facts.reasons if reason != evaluation.doubt(found)]


def licence(facts: Facts) -> str | None:
    """That of the published weights that its values go back to, over all its bases; None where these were random, or
    it is not known."""
    weights = facts.origin.weights or {}
    try:
        known = catalogue.find(facts.backbone).weights
    except errors.UnknownName:
        return None
    return next((one.licence for one in known if one.name == weights.get("name")), None)
