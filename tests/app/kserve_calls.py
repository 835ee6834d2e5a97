"""Calls of the KServe client, for an interpreter that has it: `python kserve_calls.py URL < photos.json`.

What it needs besides cannot be in one environment with Graft. Photos come as a list of base64; what the service said
goes out as JSON.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "insects"


async def main(url: str, texts: Sequence[str]) -> dict[str, Any]:
    photos = [base64.b64decode(text) for text in texts]
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=60)) as client:
        of_v2 = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "in_json": await infer(client, url, texts, is_binary=False),
            "in_binary": await infer(client, url, photos, is_binary=True),
            "model_ready": await client.is_model_ready(url, MODEL),
            "other_ready": await client.is_model_ready(url, "bugs"),
            "error": await error(client, url),
        }
    async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=60)) as client:
        body = {"instances": [{"image": {"b64": text}} for text in texts]}
        return {**of_v2, "v1": await client.infer(url, body, model_name=MODEL)}


async def infer(client: InferenceRESTClient, url: str, values: Sequence[Any], *, is_binary: bool) -> Any:
    tensor = InferInput("image", [len(values), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(values, np.object_)[:, None], binary_data=is_binary)
    wanted = [RequestedOutput(name, {"binary_data": is_binary}) for name in ("probabilities", "label", "unknown")]
    request = InferRequest(MODEL, [tensor], request_id="42", request_outputs=wanted)
    found = await client.infer(url, request, model_name=MODEL)
    return {"id": found.id, **{output.name: output.as_numpy().tolist() for output in found.outputs}}


async def error(client: InferenceRESTClient, url: str) -> dict[str, Any]:
    tensor = InferInput("image", [1, 1], "BYTES", data=["?"])
    try:
        await client.infer(url, InferRequest(MODEL, [tensor]), model_name=MODEL)
    except httpx.HTTPStatusError as wrong:
        return {"status": wrong.response.status_code, **wrong.response.json()}
    raise AssertionError("rubbish was taken")


if __name__ == "__main__":
    found = asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
    print(json.dumps(found, default=lambda value: value.decode()))  # noqa: T201
