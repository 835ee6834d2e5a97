"""Keeping profiles, and finding them again."""

from dataclasses import asdict
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import errors
from app.backbones import catalogue
from app.backbones.catalogue import Backbone
from app.datasets.tables import DatasetVersion
from app.db import new_id
from app.profile import Profile, is_thin
from app.profiles.tables import StoredProfile
from app.recipe import Recipe

_PROFILE = TypeAdapter(Profile)


def find(session: Session, profile_id: str) -> StoredProfile:
    row = session.get(StoredProfile, profile_id)
    if row is None:
        raise errors.NotFound(f"no profile {profile_id}", code="profile_not_found")
    return row


def newest(session: Session, version: DatasetVersion, backbone: Backbone, *, choice: str) -> StoredProfile | None:
    """What was measured last of the content of `version` with the weights `choice` of `backbone`; None also where that
    is of a few images of each label, as once was measured of many labels, or without a stage that was once taken for
    the head. Raises `UnknownName` for the weights.

    By name, as which file will be used is known to the worker alone: an operator may exchange it. It may be one of
    other weights that stands in for `pretrained`, so what was asked for counts as well as what came of it.
    """
    made_with = StoredProfile.body["weights"].as_string()
    query = select(StoredProfile).where(
        StoredProfile.content_hash == version.content_hash,
        StoredProfile.backbone == backbone.name,
        or_(StoredProfile.weights == choice, made_with == backbone.find_weights(choice).name),
    )
    row = session.scalar(query.order_by(StoredProfile.created_at.desc(), StoredProfile.id.desc()).limit(1))
    return None if row is None or _is_thin(row) or _may_lack_last_stage(row, backbone) else row


def _is_thin(row: StoredProfile) -> bool:
    found = row.body
    return "measured_labels" not in found and is_thin(
        classes=found["classes"], images=found["images"], measured=found["measured"]
    )


def _may_lack_last_stage(row: StoredProfile, backbone: Backbone) -> bool:
    """Whether figures of the last stage are missing that its network's own classifier does not get: once they were
    taken for those of the head where these are as many, as a class token is as wide as the mean of the others."""
    found = row.body
    gets_mean = backbone.pre_logits is False and backbone.chain is not None and backbone.chain.layout != "tokens"
    is_there = backbone.stages[-1].name in (depth["name"] for depth in found["depths"])
    # What the classifier of a network of timm gets is not known here: what was measured since then counts as it is.
    return not is_there and not gets_mean and "full_gain" not in found["costs"]


def of_recipe(session: Session, version: DatasetVersion, recipe: Recipe, backbone: Backbone) -> StoredProfile | None:
    """What was measured last that tells of a training on `version` with `recipe`, whose backbone is `backbone`. Raises
    `UnknownName` for its weights."""
    if recipe.base is not None or not backbone.weights:
        # Nothing was measured with the values of a model version, and published ones would tell of another network.
        return None
    return newest(session, version, backbone, choice=choice_of(recipe))


def choice_of(recipe: Recipe) -> str:
    """The weights that a profile for `recipe` is of."""
    # A training from random values is compared with what the backbone usually knows.
    return catalogue.PRETRAINED if recipe.from_random else recipe.start


def figures(row: StoredProfile) -> Profile:
    """What was measured."""
    return _PROFILE.validate_python(row.body)


def record(
    session: Session, version: DatasetVersion, profile: Profile, *, choice: str, job_id: str, now: datetime
) -> str:
    """Keep what a job that was to take the weights `choice` has measured of `version`, in place of what was measured of
    the same before. Returns its id."""
    place = (
        StoredProfile.content_hash == version.content_hash,
        StoredProfile.backbone == profile.backbone,
        StoredProfile.weights_sha256 == profile.weights_sha256,
    )
    row = StoredProfile(
        id=new_id("prf"),
        dataset_id=version.dataset_id,
        dataset_version=version.number,
        content_hash=version.content_hash,
        backbone=profile.backbone,
        weights=choice,
        weights_sha256=profile.weights_sha256,
        body=asdict(profile),
        job_id=job_id,
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        values = {
            "dataset_id": version.dataset_id,
            "dataset_version": version.number,
            "body": asdict(profile),
            "job_id": job_id,
            "created_at": now,
        }
        if choice == catalogue.PRETRAINED:  # weights that are asked for by their name are found by the body's
            values["weights"] = choice
        return session.execute(
            update(StoredProfile).where(*place).values(**values).returning(StoredProfile.id)
        ).scalar_one()
    return row.id
