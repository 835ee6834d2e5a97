"""Many requests at the same moment, over both databases: each is answered, none waits for a thread that never comes."""

import asyncio

import httpx
from fastapi import FastAPI

MANY = 200


async def all_at_once(api: FastAPI, method: str, count: int) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app=api)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=transport, base_url="http://graft", timeout=60) as client,
    ):
        requests = [
            client.request(method, "/v1/datasets", json={"name": f"set-{number}"} if method == "POST" else None)
            for number in range(count)
        ]
        return await asyncio.gather(*requests)


def test_many_writers_at_once_are_all_served(api: FastAPI) -> None:
    answers = asyncio.run(all_at_once(api, "POST", MANY))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == MANY


def test_many_readers_at_once_are_all_served(api: FastAPI) -> None:
    answers = asyncio.run(all_at_once(api, "GET", MANY))

    assert {answer.status_code for answer in answers} == {200}
