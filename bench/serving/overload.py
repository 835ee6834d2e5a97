"""What happens at four times the load that the service can carry: `python -m bench.serving.overload`.

The load is open: requests leave when their time has come, answered or not. Each says by `X-Request-Timeout` until when
its answer is of use. With `--swaps`, an alias moves to and fro between two versions at half the load it can carry.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from bench.serving import loader, memory, pictures, servers, subjects, swaps, wrk
from bench.serving.loader import NO_ANSWER, Call, Calls, Loader
from bench.serving.memory import Memory
from bench.serving.servers import Running
from bench.serving.subjects import Folder, Subject

TIMES = 4
"""The load by what the service can carry."""
BACK_SECONDS = 2.0
"""When latency must be the usual one again."""

OK = "ok"
_ALIAS, _VERSIONS = "production", (1, 2)
_TOLD_AT_ONCE = ("overloaded", "model_busy", "model_loading")
"""Codes of those that are to come again, which were never let in."""
_EXPIRED = "deadline_exceeded"
"""The code of those that were let in, and whose time ran out."""
_PROBE_SECONDS = 4.0
_GROWTH = 1.1
_SLOWER = 2.0
"""By which a latency still counts as the usual one."""


@dataclass(frozen=True)
class Strain:
    """What the overload has shown."""

    capacity: float
    """Requests per second with as many callers as the benchmark has."""
    before: Calls
    """A single caller's."""
    during: Calls
    after: Calls
    """A single caller's, from the moment at which the load ends."""
    memory: Memory

    def report(self, *, deadline: float, seconds: float) -> Iterator[tuple[str, bool]]:
        """What must hold, told with its figures, and whether it does."""
        sent, unanswered = len(self.during.calls), self.during.statuses.get(NO_ANSWER, 0)
        told = f"sent {sent / seconds:.0f}/s, {TIMES} times {self.capacity:.0f}/s; held back {self.during.held_back}"
        outcomes = Counter(map(outcome, self.during.calls))
        yield f"{told}; answers {dict(outcomes)}", set(outcomes) <= {OK, _EXPIRED, *_TOLD_AT_ONCE}
        yield f"without an answer {unanswered}, none may be", not unanswered
        accepted = self._ended(OK, _EXPIRED)
        p99 = accepted.percentile(0.99)
        told = f"accepted {len(accepted.calls)}, of which {outcomes[_EXPIRED]} expired; their p99 {p99:.2f} s"
        yield f"{told}, at most twice the deadline of {deadline:g} s", p99 <= 2 * deadline
        refused = self._ended(*_TOLD_AT_ONCE)
        if refused.calls:
            soon, late = (1000 * refused.percentile(share) for share in (0.5, 0.99))
            yield f"to compare, told to come again {len(refused.calls)}: p50 {soon:.0f} ms, p99 {late:.0f} ms", True
        early, late = self.memory.quarter(1), self.memory.quarter(3)
        told = f"memory in MB: {self.memory.megabytes[0]:.0f} before, {early:.0f} and {late:.0f} in the second and last"
        yield f"{told} quarter of the time, {self.memory.peak:.0f} at most", late <= _GROWTH * early
        back = loader.settled_at(self.after.calls, within=_SLOWER * self.before.median)
        told = f"median of one caller {1000 * self.before.median:.1f} ms before"
        yield f"{told}, as before {back:.2f} s after, at most {BACK_SECONDS:g} s", back <= BACK_SECONDS

    def _ended(self, *outcomes: str) -> Calls:
        return Calls(tuple(call for call in self.during.calls if outcome(call) in outcomes), 0)


def outcome(call: Call) -> str:
    """What became of a request: `ok`, the code of the problem that it was answered with, or what there was instead."""
    if call.status == HTTPStatus.OK:
        return OK
    if call.status == NO_ANSWER:
        return "no answer"
    try:
        return str(json.loads(call.body)["code"])
    except (ValueError, LookupError, TypeError):
        return f"{call.status} that is no problem document"


async def strain(running: Running, body: bytes, *, seconds: float, deadline: float) -> Strain:
    """Find out what the service can carry, and give it four times that."""
    load = Loader(running.url)
    plain = itertools.repeat(loader.request(running.url, body, {"Content-Type": running.posting.content_type}))
    headers = {"Content-Type": running.posting.content_type, "X-Request-Timeout": f"{deadline:g}"}
    urgent = itertools.repeat(loader.request(running.url, body, headers))
    carried = await load.closed_loop(plain, callers=wrk.CALLERS, seconds=_PROBE_SECONDS)
    capacity = len(carried.calls) / _PROBE_SECONDS
    before = await load.closed_loop(plain, callers=1, seconds=_PROBE_SECONDS)
    async with memory.sampled(running.process_id) as used:
        overload = asyncio.create_task(load.open_loop(urgent, rate=TIMES * capacity, seconds=seconds))
        await asyncio.sleep(seconds)
        caller = Loader(running.url)
        after = await caller.closed_loop(plain, callers=1, seconds=_PROBE_SECONDS)
        during = await overload
    for one in (load, caller):
        one.close()
    return Strain(capacity, before, during, after, used)


async def swapped(
    running: Running, body: bytes, subject: Subject, *, every: float, seconds: float
) -> Iterator[tuple[str, bool]]:
    """Move an alias of the model all the while at half the load that it can carry."""
    base = running.url.partition("/v1/")[0]
    url = f"{base}/v1/models/{subject.model}:{_ALIAS}/predict"
    async with swaps.moving(base, subject.model, _ALIAS, versions=_VERSIONS, every=every) as moves:
        load = Loader(url)
        requests = itertools.repeat(loader.request(url, body, {"Content-Type": running.posting.content_type}))
        carried = await load.closed_loop(requests, callers=wrk.CALLERS, seconds=_PROBE_SECONDS)
        rate = len(carried.calls) / _PROBE_SECONDS / 2
        calls = await load.open_loop(requests, rate=rate, seconds=seconds)
        load.close()
    return _of_swaps(calls, subject.of_sent, moves=moves.count, rate=rate)


def _of_swaps(calls: Calls, labels: Sequence[str], *, moves: int, rate: float) -> Iterator[tuple[str, bool]]:
    told = f"{moves} moves of an alias at {rate:.0f}/s: answers {calls.statuses}, none may be but 200"
    yield told, set(calls.statuses) == {200} and moves > 0
    answered, right = calls.statuses.get(200, 0), swaps.right(calls, labels)
    yield f"of the version that they name {right} of {answered}", right == answered


async def _measure(
    running: Running, body: bytes, subject: Subject, arguments: argparse.Namespace
) -> list[tuple[str, bool]]:
    found = await strain(running, body, seconds=arguments.seconds, deadline=arguments.deadline)
    told = list(found.report(deadline=arguments.deadline, seconds=arguments.seconds))
    if arguments.swaps:
        every, seconds = arguments.swaps, arguments.seconds / 4
        told.extend(await swapped(running, body, subject, every=every, seconds=seconds))
    return told


def main() -> int:
    arguments = _arguments()
    servers.end_tidily()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard > 0 else soft, hard))
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        shown = pictures.make(None)
        folder = Folder(Path(scratch) / "service", shown)
        subject = subjects.make(arguments.network, folder, shown, versions=len(_VERSIONS))
        settings = {"GRAFT_PREDICT_TIMEOUT_SECONDS": f"{arguments.deadline:g}", **dict(arguments.setting)}
        settings |= subjects.optimised(folder, subject, precision="best")
        ours = servers.graft(subject.model, folder.storage.root, settings)
        print(f"{arguments.network}, load {os.getloadavg()[0]:.1f} before", flush=True)
        with servers.running(ours, shown.sent, cores=arguments.cores, log=Path(scratch) / "graft.log") as running:
            told = asyncio.run(_measure(running, shown.sent, subject, arguments))
        folder.database.close()
    return report(told)


def report(told: Sequence[tuple[str, bool]]) -> int:
    """Print what must hold; the exit status."""
    for line, holds in told:
        print(f"{line}: {holds}")
    return 0 if all(holds for _, holds in told) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving.overload", description=__doc__)
    parser.add_argument("--network", default="mobilenet_v3_small")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the overload (default: 120)")
    parser.add_argument("--deadline", type=float, default=1.0, help="of each request, in seconds (default: 1)")
    parser.add_argument("--swaps", type=float, metavar="SECONDS", help="also move an alias so often")
    servers.add_setting(parser)
    servers.add_cores(parser)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
