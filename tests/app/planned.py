"""What plans need of others: a profile, and the job that measures it."""

from datetime import timedelta
from typing import Any

from fastapi.testclient import TestClient

from app.datasets import service as datasets
from app.db import Database
from app.jobs import leases
from app.jobs.leases import Claim, Failure
from app.profile import Costs, CurvePoint, Depth, Probe, Profile
from app.profiles import service as profiles
from tests.app.conftest import NOW

SHA256 = "5" * 64
PROBE = Probe(accuracy=0.9, log_loss=0.3, error=0.02)
DEPTH = Depth(name="head", features=1280, probe=PROBE, log_me=0.1, h_score=0.8, neighbours=0.85)


def profile(sha256: str = SHA256, *, images: int = 21) -> Profile:
    return Profile(
        backbone="mobilenet_v2",
        weights="IMAGENET1K_V1",
        weights_sha256=sha256,
        classes=2,
        images=images,
        smallest_class=7,
        largest_class=14,
        measured=images,
        depths=(DEPTH,),
        together=PROBE,
        curve=(CurvePoint(images=images, probe=PROBE),),
        random=(DEPTH,),
        random_images=images,
        reference=(),
        costs=Costs(decode=0.001, forward=0.01, step=0.04, device="cpu", threads=1, probe=0.2, probes=0.9),
    )


def wanted(dataset_id: str, *, measure: bool = False, **recipe: object) -> dict[str, object]:
    return {
        "dataset": dataset_id,
        "recipe": {"backbone": "mobilenet_v2", "strategy": "head", **recipe},
        "measure": measure,
    }


def measure(database: Database, job_id: str, found: Profile | None = None, *, days: int = 0) -> str:
    """What a worker does with the job when it has measured; the profile's id."""
    now = NOW + timedelta(days=days)
    with database.write() as session:
        claim = leases.claim(session, job_id, now=now, lease_seconds=30)
        assert claim is not None
        assert claim.kind == "analyse"
        version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
        choice = claim.spec["weights"]
        profile_id = profiles.record(session, version, found or profile(), choice=choice, job_id=job_id, now=now)
        leases.succeed(session, claim, {"profile": profile_id}, now=now)
    return profile_id


def claimed(database: Database, job_id: str) -> Claim:
    """By a worker that goes on with it."""
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
    assert claim is not None
    return claim


def fail(database: Database, job_id: str) -> None:
    claim = claimed(database, job_id)
    with database.write() as session:
        leases.fail(session, claim, Failure("weights_unavailable", "no usable weights", {}), now=NOW)


def asked(http: TestClient, body: dict[str, object], **headers: str) -> dict[str, Any]:
    """The job that a request to measure is answered with."""
    answer = http.post("/v1/plans", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job
