"""However a photo gets to a model, and whichever come with it, the answer is the one of the evaluation."""

import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from app.backbones import crops
from app.optimisation import Runtime
from app.settings import Settings
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.scheduling import until
from tests.app.serving import LABELS, Listening, Passes
from tests.training.samples import MAX_PIXELS

TOLERANCE = 1e-4
PATIENCE = 60.0
"""Seconds: other tests have the cores, too."""
PHOTOS = tuple(
    factories.image(colour, seed=seed, size=size, kind=kind)
    for seed, (size, kind) in enumerate(
        [((48, 40), "JPEG"), ((700, 300), "JPEG"), ((64, 64), "PNG"), ((90, 200), "WEBP")]
    )
    for colour in list(factories.COLOURS.values())[:2]
)
"""The validation split."""

BATCH = 8
ONE_BY_ONE: dict[str, Any] = {"threads": 2, "batch_size": 1}
IN_BATCHES: dict[str, Any] = {"threads": 1, "batch_size": BATCH, "batch_wait_seconds": PATIENCE}
"""As one pass is made at a time, all images of a request are in it."""
SIDE_BY_SIDE: dict[str, Any] = {"threads": 2, "batch_size": BATCH}
"""Two batches at a time, where that many images wait."""

Rows = NDArray[np.float64]
Ask = Callable[[Listening, Sequence[bytes]], Rows]


@pytest.fixture(scope="module")
def passes() -> Iterator[Passes]:
    with serving.watched() as found:
        yield found


@pytest.fixture(scope="module", params=[ONE_BY_ONE, IN_BATCHES], ids=["one by one", "in batches"])
def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, passes: Passes
) -> Iterator[Listening]:
    with serving.listening(settings(tmp_path_factory.mktemp("serving"), request.param)) as found:
        yield found


def settings(folder: Path, given: dict[str, Any]) -> Settings:
    return Settings(data_dir=folder / "data", database_url=sqlite_url(folder), **given)


@pytest.fixture(scope="module")
def expected() -> Rows:
    return serving.evaluated(PHOTOS)


def b64(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def pixels_of(photo: bytes) -> NDArray[np.uint8]:
    return crops.load(photo, serving.preprocessing(), max_pixels=MAX_PIXELS)


def normalised(photo: bytes) -> NDArray[np.float32]:
    """As a client makes a tensor for a network, in float32."""
    given = serving.preprocessing()
    scaled = pixels_of(photo).astype(np.float32) / 255
    values = (scaled - np.array(given.mean, np.float32)) / np.array(given.std, np.float32)
    return values.transpose(2, 0, 1).astype(np.float32)


def post(url: str, **given: Any) -> httpx.Response:
    return httpx.post(url, timeout=PATIENCE, **given)


def answered(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def in_order(found: dict[str, float]) -> list[float]:
    return [found[label] for label in LABELS]


def of_own(document: Any) -> Rows:
    return np.array(
        [in_order({one["label"]: one["probability"] for one in row["labels"]}) for row in document["predictions"]]
    )


def of_serving(rows: Sequence[Any]) -> Rows:
    return np.array([in_order(dict(zip(row["labels"], row["probabilities"], strict=True))) for row in rows])


def raw(here: Listening, photos: Sequence[bytes]) -> Rows:
    url, headers = f"{here.url}/v1/models/insects/predict", {"Content-Type": "application/octet-stream"}
    return np.concatenate([of_own(answered(post(url, content=photo, headers=headers))) for photo in photos])


def form(here: Listening, photos: Sequence[bytes]) -> Rows:
    files = [("file", ("photo", photo)) for photo in photos]
    return of_own(answered(post(f"{here.url}/v1/models/insects@1/predict", files=files)))


def own_json(here: Listening, photos: Sequence[bytes]) -> Rows:
    body = {"images": [{"b64": b64(photo)} for photo in photos]}
    return of_own(answered(post(f"{here.url}/v1/models/insects/predict", json=body)))


def v2_json(here: Listening, photos: Sequence[bytes]) -> Rows:
    texts = [b64(photo) for photo in photos]
    tensor = {"name": "image", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return v2_posted(here, tensor)


def v2_nested(here: Listening, photos: Sequence[bytes]) -> Rows:
    values = np.stack([pixels_of(photo) for photo in photos])
    return v2_posted(
        here, {"name": "raw_pixels", "shape": [*values.shape], "datatype": "UINT8", "data": values.tolist()}
    )


def v2_whole_floats(here: Listening, photos: Sequence[bytes]) -> Rows:
    values = np.stack([pixels_of(photo) for photo in photos]).astype(np.float64)
    return v2_posted(
        here, {"name": "raw_pixels", "shape": [*values.shape], "datatype": "UINT8", "data": values.tolist()}
    )


def v2_posted(here: Listening, tensor: dict[str, Any]) -> Rows:
    url = f"{here.url}/v2/models/insects/versions/1/infer"
    document = answered(post(url, json={"inputs": [tensor], "outputs": [{"name": "probabilities"}]}))
    (output,) = document["outputs"]
    assert output["shape"] == [tensor["shape"][0], len(LABELS)]
    return np.array(output["data"]).reshape(output["shape"])


def v2_triton(here: Listening, name: str, values: NDArray[Any], datatype: str, *, binary: bool = True) -> Rows:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary)
    with triton.InferenceServerClient(here.address) as client:
        found: Rows = client.infer("insects", [tensor], outputs=[wanted]).as_numpy("probabilities")
    return found


def v2_files(here: Listening, photos: Sequence[bytes]) -> Rows:
    return v2_triton(here, "image", np.array(photos, np.object_)[:, None], "BYTES")


def v2_texts(here: Listening, photos: Sequence[bytes]) -> Rows:
    texts = np.array([b64(photo) for photo in photos], np.object_)[:, None]
    return v2_triton(here, "image", texts, "BYTES", binary=False)


def v2_floats(here: Listening, photos: Sequence[bytes]) -> Rows:
    return v2_triton(here, "pixels", np.stack([normalised(photo) for photo in photos]), "FP32")


def v2_floats_in_json(here: Listening, photos: Sequence[bytes]) -> Rows:
    return v2_triton(here, "pixels", np.stack([normalised(photo) for photo in photos]), "FP32", binary=False)


def v2_bytes(here: Listening, photos: Sequence[bytes]) -> Rows:
    return v2_triton(here, "raw_pixels", np.stack([pixels_of(photo) for photo in photos]), "UINT8")


def serving_rows(here: Listening, photos: Sequence[bytes]) -> Rows:
    body = {"instances": [{"b64": b64(photo)} for photo in photos], "signature_name": "serving_default"}
    return of_serving(answered(post(f"{here.url}/v1/models/insects:predict", json=body))["predictions"])


def serving_columns(here: Listening, photos: Sequence[bytes]) -> Rows:
    body = {"inputs": {"image": [{"b64": b64(photo)} for photo in photos]}}
    found = answered(post(f"{here.url}/v1/models/insects/versions/1:predict", json=body))["outputs"]
    return of_serving([dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)])


def serving_pixels(here: Listening, photos: Sequence[bytes]) -> Rows:
    body = {"instances": [pixels_of(photo).tolist() for photo in photos]}
    return of_serving(answered(post(f"{here.url}/v1/models/insects:predict", json=body))["predictions"])


@pytest.mark.parametrize("count", range(1, len(PHOTOS) + 1))
@pytest.mark.parametrize(
    "ask",
    [
        raw,
        form,
        own_json,
        v2_json,
        v2_nested,
        v2_whole_floats,
        v2_files,
        v2_texts,
        v2_floats,
        v2_floats_in_json,
        v2_bytes,
        serving_rows,
        serving_columns,
        serving_pixels,
    ],
)
def test_the_answer_is_that_of_the_evaluation(
    here: Listening, passes: Passes, expected: Rows, ask: Ask, count: int
) -> None:
    first = len(PHOTOS) - count
    passes.sizes.clear()
    found = ask(here, PHOTOS[first:])

    assert found.shape == (count, len(LABELS))
    # Of photos that are sent as they are, each is a request of its own.
    assert passes.sizes == ([1] * count if here.settings.batch_size == 1 or ask is raw else [count])
    np.testing.assert_allclose(found, expected[first:], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_answer_is_that_of_the_evaluation_also_by_other_runtimes(
    tmp_path: Path, passes: Passes, expected: Rows, runtime: Runtime
) -> None:
    with serving.listening(settings(tmp_path, IN_BATCHES), runtime) as here:
        for ask in (raw, form, v2_files, v2_floats, serving_rows):
            passes.sizes.clear()
            np.testing.assert_allclose(ask(here, PHOTOS), expected, rtol=0, atol=TOLERANCE)
            assert passes.sizes == ([1] * len(PHOTOS) if ask is raw else [len(PHOTOS)])
        assert serving.metric(here.url, f'graft_model_loads_total{{form="{runtime}-fp32"}}') == 1


@pytest.mark.parametrize(
    "given", [ONE_BY_ONE, IN_BATCHES, SIDE_BY_SIDE], ids=["one by one", "in batches", "in batches side by side"]
)
def test_files_and_tensors_that_come_together_have_the_same_answers(
    tmp_path: Path, passes: Passes, expected: Rows, given: dict[str, Any]
) -> None:
    asked = [(ask, place) for place in range(len(PHOTOS)) for ask in (raw, v2_floats, v2_bytes, serving_pixels)]
    with serving.listening(settings(tmp_path, given)) as here, ThreadPoolExecutor(len(asked)) as callers:
        raw(here, PHOTOS[:1])  # which loads it
        with passes.held():
            answers = [callers.submit(ask, here, PHOTOS[place : place + 1]) for ask, place in asked]
            until(lambda: sum(passes.sizes) + serving.metric(here.url, "graft_queued_images") == len(asked))
        found = [answer.result() for answer in answers]

    assert max(passes.sizes) == given["batch_size"]
    for rows, (_, place) in zip(found, asked, strict=True):
        np.testing.assert_allclose(rows, expected[place : place + 1], rtol=0, atol=TOLERANCE)


def test_the_photos_have_different_answers(expected: Rows) -> None:
    assert np.ptp(expected[:, 0]) > 100 * TOLERANCE
