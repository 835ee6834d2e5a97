"""Throughput and latency of the service beside plain FastAPI, LitServe and mosec: `python -m bench.serving`.

Each server in turn gets the same cores, which it shares with the load: wrk with 32 callers, each of which posts the
same JPEG of 80 KB again and again, and then with a single one. The networks have drawn values and a head of ten labels,
the same for all. What each peer is best at is found once, see `bench.serving.rivals`.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.predictions.loaded import Loaded
from bench.serving import bare, figures, pictures, rivals, servers, subjects, wrk
from bench.serving.bare import Bare
from bench.serving.figures import Agreement, Rounds, Served
from bench.serving.peers import task
from bench.serving.pictures import Pictures
from bench.serving.servers import Running, Server
from bench.serving.subjects import Folder, Labelled, Subject
from bench.serving.wrk import Load

NETWORKS = ("resnet18", "resnet50", "mobilenet_v3_small")
PRECISIONS = ("best", "fp32")
_PEERS = ("plain", "litserve", "mosec")
_WARM_UP_SECONDS = 2.0
_TRY_SECONDS = 4.0
_CHECKED = 40
"""Photos whose answers are compared, of a peer; of ours all are, by which its form was chosen."""


@dataclass(frozen=True)
class Bench:
    """What is the same for all servers."""

    pictures: Pictures
    scratch: Path
    cores: tuple[int, ...]
    seconds: float

    def served(self, server: Server, reference: Sequence[Labelled]) -> tuple[Served, Agreement]:
        """One round of a server."""
        log = self.scratch / f"{server.name}.log"
        body = self._body(server)
        with servers.running(server, self.pictures.sent, cores=self.cores, log=log) as found:
            files = self.pictures.validation.files
            checked = files if server.name == figures.OURS else files[:_CHECKED]
            with httpx.Client(timeout=60) as http:
                answers = [found.label(photo, http=http) for photo in checked]
            self._load(found, body, callers=wrk.CALLERS, seconds=_WARM_UP_SECONDS)
            many, cpu_seconds = self._load(found, body, callers=wrk.CALLERS, seconds=self.seconds)
            one, _ = self._load(found, body, callers=1, seconds=self.seconds)
        same = figures.agreement(answers, reference[: len(checked)])
        return Served(many, one, 1000 * cpu_seconds / max(1, many.requests)), same

    def rate(self, server: Server) -> float:
        """Photos per second of a server, measured briefly; none where it fails."""
        body = self._body(server)
        with servers.running(server, self.pictures.sent, cores=self.cores, log=self.scratch / "tried.log") as found:
            for seconds in (_WARM_UP_SECONDS, _TRY_SECONDS):
                load, _ = self._load(found, body, callers=wrk.CALLERS, seconds=seconds)
        return 0.0 if load.errors else load.rate

    def _load(self, server: Running, body: Path, *, callers: int, seconds: float) -> tuple[Load, float]:
        """A load, and the CPU seconds that the server took for it."""
        before = server.cpu_seconds()
        found = wrk.run(server.url, body, server.posting.content_type, callers=callers, seconds=seconds)
        taken = server.cpu_seconds() - before
        server.catch_up(self.pictures.sent)
        return found, taken

    def _body(self, server: Server) -> Path:
        path = self.scratch / f"{server.name}.body"
        path.write_bytes(server.posting.body(self.pictures.sent))
        return path


def compare(bench: Bench, loaded: Loaded, subject: Subject, order: list[Server], *, rounds: int) -> figures.Comparison:
    """All servers in `order` with one network, forth and back in turn."""
    found: Rounds = {server.name: [] for server in order}
    agreements: dict[str, list[Agreement]] = {server.name: [] for server in order}
    loops: list[Bare] = []
    for number in range(rounds):
        loops.append(bare.measure(loaded, bench.pictures.sent, cores=bench.cores, seconds=bench.seconds))
        for server in order if number % 2 == 0 else reversed(order):
            served, same = bench.served(server, subject.reference)
            found[server.name].append(served)
            agreements[server.name].append(same)
    return figures.Comparison(found, agreements, loops)


def _peers(bench: Bench, subject: Subject, arguments: argparse.Namespace, precision: str) -> list[Server]:
    known, found = rivals.peers(len(bench.cores)), []
    for name in arguments.peers:
        if arguments.quick:
            choice = rivals.Choice(task.CHANNELS_LAST, known[name].layouts[0])
        else:
            choice = rivals.best(known[name], subject, bench.rate, precision=precision, again=arguments.sweep)
        print(f"{name}: {choice}", flush=True)
        found.append(rivals.server(known[name], choice, subject))
    return found


def _network(bench: Bench, network: str, arguments: argparse.Namespace) -> bool:
    """Whether all holds for one network."""
    held = True
    folder = Folder(bench.scratch / network, bench.pictures)
    subject = subjects.make(network, folder, bench.pictures)
    for precision in arguments.precision:
        load = os.getloadavg()[0]
        print(f"\n{network}, {precision}; {len(bench.cores)} cores, load {load:.1f} before", flush=True)
        peers = _peers(bench, subject, arguments, precision)
        settings = subjects.optimised(folder, subject, precision=precision)
        ours = servers.graft(subject.model, folder.storage.root, settings)
        loaded = bare.opened(folder, subject, precision=precision, threads=len(bench.cores))
        print(f"ours: {loaded.form.name}", flush=True)
        found = compare(bench, loaded, subject, [ours, *peers], rounds=arguments.rounds)
        for line in found.table():
            print(line)
        for told, holds in found.verdicts(network, precision):
            print(f"{told}: {holds}", flush=True)
            held = held and holds
    folder.database.close()
    return held


def main() -> int:
    arguments = _arguments()
    servers.end_tidily()
    wrk.require()
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        shown = pictures.make(arguments.photos)
        bench = Bench(shown, Path(scratch), tuple(arguments.cores), arguments.seconds)
        held = [_network(bench, network, arguments) for network in arguments.networks]
    return 0 if all(held) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--photos", type=Path, help="an archive with a folder per class (default: drawn pictures)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of the catalogue, as torchvision has them")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--peers", nargs="*", choices=_PEERS, default=_PEERS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="all servers so often, medians count (default: 3)")
    servers.add_cores(parser)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--sweep", action="store_true", help="find anew what each peer is best at")
    chosen.add_argument("--quick", action="store_true", help="the peers as they come, not at their best: only to try")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
