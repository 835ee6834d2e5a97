"""An alias that moves between versions of a model while it is asked for."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from bench.serving.loader import Calls


@dataclass
class Moves:
    """How often it has moved."""

    count: int = 0


@asynccontextmanager
async def moving(url: str, model: str, alias: str, *, versions: tuple[int, ...], every: float) -> AsyncIterator[Moves]:
    """Move the alias on by one of `versions` after `every` seconds, while the block runs. It is
    made before that begins.

    Raises `httpx.HTTPStatusError` for a move that is refused.
    """
    moves = Moves()
    path = f"/v1/models/{model}/aliases/{alias}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        etag = await _move(http, path, versions[0], {"If-None-Match": "*"})

        async def move() -> None:
            nonlocal etag
            for version in itertools.cycle((*versions[1:], versions[0])):
                await asyncio.sleep(every)
                etag = await _move(http, path, version, {"If-Match": etag})
                moves.count += 1

        task = asyncio.create_task(move())
        try:
            yield moves
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def right(calls: Calls, labels: Sequence[str]) -> int:
    """How many answers have the label that the version which they name gives the photo; `labels`: of the versions, the
    first one's first."""
    answers = [json.loads(call.body) for call in calls.calls if call.status == 200]
    return sum(answer["predictions"][0]["labels"][0]["label"] == labels[answer["version"] - 1] for answer in answers)


async def _move(http: httpx.AsyncClient, path: str, version: int, condition: dict[str, str]) -> str:
    """The ETag of the alias after it was moved."""
    answer = await http.put(path, json={"version": version, "keep_loaded": False}, headers=condition)
    answer.raise_for_status()
    return str(answer.headers.get("ETag", "*"))
