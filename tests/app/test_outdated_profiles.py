"""Profiles of earlier versions that say too little: what they are of is measured anew."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from app.backbones import catalogue
from app.db import Database
from app.profiles import service as profiles
from tests.app.planned import DEPTH, asked, measure, profile, wanted


@pytest.mark.parametrize(
    ("images", "measured", "says_labels", "status"),
    [
        (75_000, 2_000, False, 202),
        (75_000, 2_000, True, 200),  # of how many labels, which may be null
        (75_000, 2_020, False, 200),  # 20 of each
        (1_500, 1_500, False, 200),  # no sample
    ],
)
def test_what_was_measured_on_a_few_images_of_each_of_many_labels_is_measured_anew_once(
    http: TestClient, versioned: str, database: Database, images: int, measured: int, says_labels: bool, status: int
) -> None:
    body = wanted(versioned, strategy="auto")
    found = replace(profile(images=images), classes=101, measured=measured)
    profile_id = measure(database, asked(http, body)["id"], found)
    with database.write() as session:
        row = profiles.find(session, profile_id)
        row.body = {name: value for name, value in row.body.items() if says_labels or name != "measured_labels"}

    answer = http.post("/v1/plans", json=body)
    assert answer.status_code == status
    if status == 202:
        assert answer.json()["kind"] == "analyse"
        assert measure(database, answer.json()["id"], found) == profile_id
        assert http.post("/v1/plans", json=body).status_code == 200


@pytest.mark.parametrize(
    ("backbone", "depths", "is_old", "status"),
    [
        ("vit_b_16", ("layers9", "head"), True, 202),
        ("convnext_tiny", ("stage3", "head"), True, 202),
        ("timm:test_vit", ("blocks.4", "head"), True, 202),
        ("timm:test_vit", ("blocks.4", "head"), False, 200),  # whatever its classifier gets
        ("vit_b_16", ("layers9", "layers12", "head"), True, 200),
        ("mobilenet_v2", ("stage5", "head"), True, 200),  # whose classifier gets the mean over the last one
        ("swin_t", ("stage3", "head"), True, 200),
    ],
)
def test_what_was_measured_without_the_last_stage_is_measured_anew_once(
    http: TestClient,
    versioned: str,
    database: Database,
    backbone: str,
    depths: tuple[str, ...],
    is_old: bool,
    status: int,
) -> None:
    body = wanted(versioned, backbone=backbone, strategy="auto")
    weights = catalogue.find(backbone).weights[0].name
    found = replace(
        profile(), backbone=backbone, weights=weights, depths=tuple(replace(DEPTH, name=name) for name in depths)
    )
    profile_id = measure(database, asked(http, body)["id"], found)
    with database.write() as session:
        row = profiles.find(session, profile_id)
        costs = {name: value for name, value in row.body["costs"].items() if not (is_old and name == "full_gain")}
        row.body = {**row.body, "costs": costs}

    answer = http.post("/v1/plans", json=body)
    assert answer.status_code == status, answer.text
    if status == 202:
        assert measure(database, answer.json()["id"], found) == profile_id
        assert http.post("/v1/plans", json=body).status_code == 200
