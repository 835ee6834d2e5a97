"""The base of a recipe: the model version that a training starts from, found, checked, and its labels matched."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from app import errors, warm, warmstart
from app.backbones.catalogue import Backbone
from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.facts import NetworkFacts, VersionFacts
from app.models import service as models
from app.models.tables import ModelVersion
from app.plan import Plan
from app.profile import HEAD
from app.recipe import Recipe
from app.warmstart import WarmStart


@dataclass(frozen=True)
class FoundBase:
    """What a recipe's base turned out to be."""

    recipe: Recipe
    """With the version of the base written out, so that a later one changes nothing."""
    start: WarmStart
    network: NetworkFacts
    """Of the base's network, which may be cut."""
    images: DatasetVersion | None
    """The version of a data set that it was made from; None where that is deleted."""

    def plan(self, version: DatasetVersion, facts: VersionFacts) -> Plan:
        """That for `version`, of which these are the `facts`. Raises `UnknownName` and `Invalid`."""
        trained_on = self._trained_on(version, facts)
        replayed = trained_on.train_images - facts.train_images
        can_replay = self.images is not None
        return warm.plan(self.recipe, self.start, trained_on, self.network, can_replay=can_replay, replayed=replayed)

    def _trained_on(self, version: DatasetVersion, facts: VersionFacts) -> VersionFacts:
        """`facts` of `version` with the images that are replayed, about: which of these it has already, maybe with
        another label, is not known here; of a data set that both are from it is taken to have as many as it can."""
        if not self.start.replay or self.images is None:
            return facts
        is_same = self.images.dataset_id == version.dataset_id
        own = {label: counts["train"] for label, counts in version.counts.items()}
        more = {one.new: self.images.counts.get(one.old, {}).get("train", 0) for one in self.start.kept}
        most = {label: max(count, more.get(label, 0)) for label, count in own.items()}
        images = sum(most.values() if is_same else (*own.values(), *more.values()))
        return replace(facts, train_images=images, smallest_class=min((own if is_same else most).values()))


def find(session: Session, recipe: Recipe, backbone: Backbone, version: DatasetVersion) -> FoundBase:
    """The base that `recipe` names, for a training on `version`. Raises `NotFound` where there is none, `Invalid` where
    it cannot be started from, `UnknownName` for a label, and `Conflict` where its images are wanted and gone."""
    reference, base, network, images = _startable(session, recipe, backbone)
    kept, fresh, dropped = warmstart.match(base.labels, version.labels, recipe.label_map)
    start = WarmStart(
        base=reference,
        version_id=base.id,
        kept=kept,
        fresh=fresh,
        dropped=dropped,
        replay=bool(recipe.replay),
        label_prior=recipe.label_prior or ("training" if recipe.is_evened_out else "learned"),
    )
    return FoundBase(replace(recipe, base=reference), start, network, images)


def check(session: Session, recipe: Recipe, backbone: Backbone) -> None:
    """Raises as `find` where no version of a data set would make the training with this base right."""
    _, base, _, _ = _startable(session, recipe, backbone)
    warmstart.check_renamed(base.labels, recipe.label_map)


def _startable(
    session: Session, recipe: Recipe, backbone: Backbone
) -> tuple[str, ModelVersion, NetworkFacts, DatasetVersion | None]:
    """The base with its reference, what there is of its network to train, and the images that it was made from."""
    name, base = _referenced(session, str(recipe.base))
    reference = f"{name}@{base.number}"
    if base.backbone != recipe.backbone:
        raise errors.Invalid(
            f"{reference} is a {base.backbone}, and the recipe asks for {recipe.backbone}: values of one network mean "
            f"nothing in another; take backbone {base.backbone}, or another base",
            code="base_of_other_backbone",
            detail={"base": reference, "base_backbone": base.backbone, "backbone": recipe.backbone},
        ).at("recipe.base")
    network = _network(recipe, backbone, base, reference)
    images = _images_of(session, base)
    if recipe.replay and images is None:
        raise errors.Conflict(
            f"the data set that {reference} was made from is deleted, so its images cannot be added; leave replay out",
            code="base_images_gone",
            detail={"base": reference},
        ).at("recipe.replay")
    return reference, base, network, images


def _referenced(session: Session, reference: str) -> tuple[str, ModelVersion]:
    try:
        return models.referenced(session, reference)
    except errors.NotFound as error:
        error.at("recipe.base")
        raise


def _network(recipe: Recipe, backbone: Backbone, base: ModelVersion, reference: str) -> NetworkFacts:
    """Of the base's network, which may end early. Raises `Invalid` where it does so that its layers cannot be
    trained."""
    names = tuple(stage.name for stage in backbone.stages)
    outlet: Mapping[str, Any] = base.provenance.get("backbone", {}).get("outlet") or {}
    if outlet.get("taps") and recipe.strategy in ("top", "full"):
        raise errors.Invalid(
            f"the classifier of {reference} sees selected features of several stages, so none of them can be trained "
            "on; strategy 'head' extends it",
            code="base_of_several_stages",
            detail={"base": reference},
        ).at("recipe.strategy")
    taps = outlet.get("taps") or (HEAD,)
    last = outlet.get("stage") or taps[-1]
    if last not in names:
        return backbone.facts
    return replace(backbone.facts, stages=names[: names.index(last) + 1], pre_logits=False)


def _images_of(session: Session, base: ModelVersion) -> DatasetVersion | None:
    try:
        return datasets.find_version(session, base.dataset_id, base.dataset_version)
    except errors.NotFound:
        return None
