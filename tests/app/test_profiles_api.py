"""Which profile a plan goes by."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from app.datasets import service as datasets
from app.datasets.service import NewVersion
from app.db import Database
from app.jobs import service as jobs
from app.profile import Profile
from app.profiles import service as profiles
from tests.app.conftest import NOW
from tests.app.planned import asked, measure, profile, wanted


def test_the_newest_profile_counts_and_the_same_weights_have_one(
    http: TestClient, versioned: str, database: Database
) -> None:
    def recorded(found: Profile, days: int) -> str:
        with database.write() as session:
            version = datasets.find_version(session, versioned, 1)
            now = NOW + timedelta(days=days)
            return profiles.record(session, version, found, choice="pretrained", job_id=job_id, now=now)

    job_id = asked(http, wanted(versioned, measure=True))["id"]
    first = recorded(profile(), 0)
    other = recorded(profile("6" * 64), 1)
    assert other != first
    assert http.post("/v1/plans", json=wanted(versioned)).json()["profile"]["id"] == other
    assert recorded(profile(images=20), 2) == first
    found = http.post("/v1/plans", json=wanted(versioned)).json()["profile"]
    assert (found["id"], found["figures"]["images"]) == (first, 20)


def test_a_profile_that_is_measured_anew_names_the_version_that_its_job_was_for(
    http: TestClient, versioned: str, database: Database
) -> None:
    measure(database, asked(http, wanted(versioned, measure=True))["id"])
    copy: str = http.post("/v1/datasets", json={"name": "copy"}).json()["id"]
    with database.write() as session:
        archive = jobs.Archive("imp_2", None, 10, "0" * 64)
        _, job = jobs.submit_import(session, copy, archive, max_attempts=1, now=NOW)
        counts = {"ants": {"train": 14, "validation": 6}, "bees": {"train": 7, "validation": 3}}
        version = NewVersion(1, ("ants", "bees"), counts, 30, "0" * 64, "v1-copy")
        datasets.add_version(session, "imp_2", copy, version, accepted=30, ignored=0, now=NOW)
        measured_again = datasets.find_version(session, copy, 1)
        profiles.record(session, measured_again, profile(), choice="pretrained", job_id=job.id, now=NOW)
    found = http.post("/v1/plans", json=wanted(versioned)).json()["profile"]
    assert (found["job_id"], found["dataset_id"], found["dataset_version"]) == (job.id, copy, 1)


def test_a_profile_is_found_by_what_it_was_asked_for_and_by_the_weights_that_it_was_made_with(
    http: TestClient, versioned: str, database: Database
) -> None:
    def found(weights: str) -> str:
        answer = http.post("/v1/plans", json=wanted(versioned, measure=True, weights=weights))
        assert answer.status_code == 200, answer.text
        profile_id: str = answer.json()["profile"]["id"]
        return profile_id

    # All that there is at the worker is a file of the second set, which stands in for the first.
    stand_in = replace(profile(), weights="IMAGENET1K_V2")
    first = measure(database, asked(http, wanted(versioned, measure=True))["id"], stand_in)
    assert found("pretrained") == found("IMAGENET1K_V2") == first
    job = asked(http, wanted(versioned, measure=True, weights="IMAGENET1K_V1"))
    second = measure(database, job["id"], profile("6" * 64), days=1)
    assert found("IMAGENET1K_V1") == second
    assert found("IMAGENET1K_V2") == first


@pytest.mark.parametrize("choices", [("IMAGENET1K_V2", "pretrained"), ("pretrained", "IMAGENET1K_V2")])
def test_a_profile_of_weights_by_their_name_is_not_measured_in_vain_for_those_they_stand_in_for(
    http: TestClient, versioned: str, database: Database, choices: tuple[str, str]
) -> None:
    stand_in = replace(profile(), weights="IMAGENET1K_V2")
    # Both are asked for before either is measured.
    jobs = [asked(http, wanted(versioned, measure=True, weights=choice))["id"] for choice in choices]
    for job_id in jobs:
        measure(database, job_id, stand_in)
    for choice in choices:
        assert http.post("/v1/plans", json=wanted(versioned, measure=True, weights=choice)).status_code == 200
