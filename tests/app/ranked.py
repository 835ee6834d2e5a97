"""A ranking, and the job that makes it."""

from datetime import datetime
from typing import Any

from fastapi.testclient import TestClient

from app import ranking
from app.datasets import service as datasets
from app.db import Database
from app.jobs import leases
from app.rankings import service as rankings
from tests.app.conftest import NOW
from tests.app.test_ranking import SETTING, measured

DAMAGED = f"{'5' * 8} 100-1"
FOUND = ranking.order(
    SETTING,
    [measured("mobilenet_v2", 0.9, h_score=0.5, milliseconds=12), measured("formnet", 0.7, h_score=0.1, macs=None)],
    [
        ranking.Refused(
            name="resnet18", code="weights_unavailable", message="no usable weights for resnet18", file=DAMAGED
        )
    ],
)
WEIGHTS_HERE = {"mobilenet_v2": f"{'0' * 8} 200-1", "formnet": "0" * 8, "resnet18": DAMAGED}


def asked(http: TestClient, dataset_id: str, **fields: object) -> dict[str, Any]:
    """The job that a wish for a ranking is answered with."""
    answer = http.post("/v1/jobs", json={"kind": "rank", "dataset": dataset_id, **fields})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def ranked(database: Database, job_id: str, *, found: ranking.Ranking = FOUND, now: datetime = NOW) -> str:
    """What a worker does with the job when it has measured; the ranking's id."""
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        assert claim.kind == "rank"
        version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
        is_of_all = claim.spec["candidates"] is None
        ranking_id = rankings.record(session, version, found, is_of_all=is_of_all, job_id=job_id, now=now)
        leases.succeed(session, claim, {"ranking": ranking_id, "best": found.best.name}, now=NOW)
    return ranking_id
