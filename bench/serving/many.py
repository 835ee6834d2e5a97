"""Many models in little memory, asked for at random: `python -m bench.serving.many`.

Twenty models of 45 MB, of which only some fit into the memory that the service may use for models. Each names its
labels in another order, so that an answer from the wrong one is seen.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from app.optimisation import Runtime
from bench.serving import loader, memory, pictures, servers, subjects, written
from bench.serving.loader import NO_ANSWER, Calls, Loader
from bench.serving.memory import Memory
from bench.serving.overload import report
from bench.serving.pictures import Pictures
from bench.serving.servers import Running
from bench.serving.subjects import Folder

MARGIN = 1.1
_NETWORK = "resnet18"
_CALLERS = 8


@dataclass(frozen=True)
class Mix:
    """What the calls have shown."""

    calls: Calls
    right: int
    """Answers with the label that this model gives the photo."""
    memory: Memory
    megabytes: float
    """The budget."""

    def report(self) -> Iterator[tuple[str, bool]]:
        """What must hold, told with its figures, and whether it does."""
        answered = self.calls.statuses.get(200, 0)
        others = [one for one in self.calls.calls if one.status not in (200, NO_ANSWER)]
        reasons = Counter(json.loads(one.body)["detail"] for one in others)
        why = "".join(f"; {count} x {reason}" for reason, count in reasons.items())
        yield f"answers {self.calls.statuses}, none may be but 200{why}", set(self.calls.statuses) == {200}
        yield f"right {self.right} of {answered}", self.right == answered
        base = self.memory.megabytes[0]
        grown = self.memory.peak - base
        told = f"memory in MB: {base:.0f} without a model, {self.memory.peak:.0f} at most; grown by {grown:.0f}"
        yield f"{told}, at most {MARGIN:g} x {self.megabytes:.0f}", grown <= MARGIN * self.megabytes
        told = f"median {1000 * self.calls.median:.0f} ms, p99 {1000 * self.calls.percentile(0.99):.0f} ms"
        yield told, True


def register(folder: Folder, shown: Pictures, count: int, runtime: Runtime) -> dict[str, str]:
    """So many models, to be run by `runtime`; the label that each gives the photo that is sent, by name."""
    classifier, calibration = subjects.fitted(_NETWORK, shown)
    with torch.inference_mode():
        first = int(classifier(subjects.pixels([shown.sent], classifier)).logits.argmax())
    found = {}
    for number in range(count):
        name = f"model-{number:02}"
        folder.register(name, classifier, _NETWORK, calibration)
        if runtime != "torch":
            written.write(folder, name, runtime)
        found[name] = shown.labels[(first + number) % len(shown.labels)]
        subjects.roll(classifier, 1)
    return found


async def call(running: Running, shown: Pictures, labels: dict[str, str], *, seconds: float, megabytes: float) -> Mix:
    """Ask for models at random."""
    base = running.url.partition("/v1/")[0]
    chosen: list[str] = []
    rng = random.Random(0)

    def requests() -> Iterator[bytes]:
        while True:
            chosen.append(rng.choice(list(labels)))
            yield posts[chosen[-1]]

    posts = {
        name: loader.request(f"{base}/v1/models/{name}/predict", shown.sent, {"Content-Type": "image/jpeg"})
        for name in labels
    }
    load = Loader(base)
    await memory.settled(running.process_id)
    async with memory.sampled(running.process_id) as used:
        calls = await load.closed_loop(requests(), callers=_CALLERS, seconds=seconds)
    load.close()
    answers = [json.loads(one.body) for one in calls.calls if one.status == 200]
    right = sum(one["predictions"][0]["labels"][0]["label"] == labels[one["model"]] for one in answers)
    return Mix(calls, right, used, megabytes)


def main() -> int:
    arguments = _arguments()
    servers.end_tidily()
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        shown = pictures.make(None)
        folder = Folder(Path(scratch) / "service", shown)
        labels = register(folder, shown, arguments.models, arguments.runtime)
        budget = {"GRAFT_MODEL_MEMORY_BYTES": str(round(arguments.megabytes * 1024 * 1024))}
        ours = servers.graft(min(labels), folder.storage.root, {**budget, **dict(arguments.setting)})
        print(
            f"{arguments.models} models of {_NETWORK}, {arguments.runtime}, load {os.getloadavg()[0]:.1f} before",
            flush=True,
        )
        with servers.running(ours, None, cores=arguments.cores, log=Path(scratch) / "graft.log") as running:
            megabytes = arguments.megabytes
            found = asyncio.run(call(running, shown, labels, seconds=arguments.seconds, megabytes=megabytes))
        folder.database.close()
    return report(list(found.report()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving.many", description=__doc__)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--runtime", choices=written.RUNTIMES, default="torch", help="by which all are run, in fp32")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the calls (default: 60)")
    parser.add_argument("--megabytes", type=float, default=400.0, help="that models may take (default: 400)")
    servers.add_setting(parser)
    servers.add_cores(parser)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
