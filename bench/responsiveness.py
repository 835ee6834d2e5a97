"""How quickly the API answers while a job trains on the same machine: `python -m bench.responsiveness`.

The embedded service runs as `graft up` starts it. The same requests are sent first while nothing else goes on, then
while a network is trained on all cores: the ratio of the two is what a job costs those who ask.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from client import local, samples
from client.api import Client
from client.recipe import Recipe

LIMIT_SECONDS = 0.05
"""What the median while training must stay under."""

_PAUSE_SECONDS = 0.02
_RECIPE = Recipe(backbone="mobilenet_v2", strategy="full", weights="none", epochs=1000, batch_size=16)


@dataclass(frozen=True)
class Latencies:
    """Seconds from request to answer."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def row(self, name: str) -> str:
        ordered = sorted(self.seconds)
        p95, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.95, 0.99))
        figures = "".join(f"{1000 * value:10.1f}" for value in (self.median, p95, p99, ordered[-1]))
        return f"{name:28}{len(ordered):9}{figures}"


def measure(http: httpx.Client, path: str, *, seconds: float) -> Latencies:
    """Latencies of `GET path`, one request after the other with a short pause between."""
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        http.get(path).raise_for_status()
        found.append(time.perf_counter() - started)
        time.sleep(_PAUSE_SECONDS)
    return Latencies(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each route, idle and busy (default: 15)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        port = local.port_or_free(None)
        with local.service(Path(folder) / "data", port=port) as running, Client(running.url) as client:
            return _compare(client, running.url, Path(folder), seconds)


def _compare(client: Client, url: str, folder: Path, seconds: float) -> int:
    archive = folder / "patterns.zip"
    samples.write_archive(archive, each=60, seed=0)
    dataset = client.create_dataset("patterns")
    ingest = client.wait(client.upload(dataset.id, archive).job.id)
    paths = ("/healthz", "/v1/datasets", f"/v1/jobs/{ingest.id}", "/v1/backbones")
    with httpx.Client(base_url=url) as http:

        def all_routes() -> dict[str, Latencies]:
            return {path: measure(http, path, seconds=seconds) for path in paths}

        idle = all_routes()
        busy = _while_training(client, dataset.id, all_routes)
    return _report(idle, busy)


def _while_training(client: Client, dataset_id: str, work: Callable[[], dict[str, Latencies]]) -> dict[str, Latencies]:
    job = client.train(dataset_id, "busy", _RECIPE)
    while client.job(job.id).progress is None:
        time.sleep(0.2)
    result = work()
    assert client.job(job.id).state == "running", "the job did not train all the while"
    client.cancel(job.id)
    client.wait(job.id)
    return result


def _report(idle: dict[str, Latencies], busy: dict[str, Latencies]) -> int:
    print(f"{'milliseconds':28}{'requests':>9}{'median':>10}{'p95':>10}{'p99':>10}{'max':>10}")
    for path in idle:
        name = "/v1/jobs/{job_id}" if path.startswith("/v1/jobs/") else path
        print(idle[path].row(f"{name} idle"))
        print(busy[path].row(f"{name} training"))
        print(f"{'':28}ratio of the medians {busy[path].median / idle[path].median:.2f}")
    worst = max(latencies.median for latencies in busy.values())
    holds = worst <= LIMIT_SECONDS
    print(f"slowest median while training {1000 * worst:.1f} ms, limit {1000 * LIMIT_SECONDS:.0f} ms: {holds}")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
