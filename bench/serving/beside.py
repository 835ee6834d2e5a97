"""What a small request waits for while large ones are read and refused: `python -m bench.serving.beside`.

One caller posts a small photo again and again, first alone and then beside another one, who does so with 200 MB of JSON
that is of no use, or of chunks with hardly anything in them; and at last beside a request of many images of many
pixels. A photo as large as phones make them is answered.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from bench.serving import loader, pictures, servers, subjects
from bench.serving.loader import Call, Calls, Loader
from bench.serving.overload import outcome, report
from bench.serving.servers import Running
from bench.serving.subjects import Folder

LIMIT_SECONDS = 0.05
"""By which the slowest small request beside large ones may exceed the slowest alone."""
SIZE = 200_000_000
"""Bytes of a large body, about."""

_IMAGES = 64
"""The most that one request may have."""
_PHONE, _PHONE_BYTES = (4000, 3000), 12_000_000
_QUALITIES = range(35, 100, 5)
_LARGEST_USUAL = (4000, 3970)
"""Pixels of an image that is decoded beside others, and takes longest."""


@dataclass(frozen=True)
class Rubbish:
    """A large body of no use."""

    name: str
    action: str
    """What its address has after the model."""
    make: Callable[[int], bytes]
    """About so many bytes of it."""
    code: str
    """By which it is refused."""
    is_in_chunks: bool = False
    """Or else its length is said before it."""

    @property
    def headers(self) -> dict[str, str]:
        given = {"Content-Type": "application/json"}
        return {**given, "Transfer-Encoding": "chunked"} if self.is_in_chunks else given


def _without_end(size: int) -> bytes:
    return b'{"images": [{"b64": "' + size * b"A"


def _one_image(size: int) -> bytes:
    return _without_end(size) + b'"}]}'


def _images(size: int) -> bytes:
    text = base64.b64encode(bytes(size // _IMAGES * 3 // 4)).decode()
    return json.dumps({"images": [{"b64": text}] * _IMAGES}).encode()


def _numbers(size: int) -> bytes:
    return b'{"instances": [' + size // 2 * b"7," + b"7]}"


def _fields(size: int) -> bytes:
    return b"{" + size // 6 * b'"a":1,' + b'"a":1}'


def _in_chunks(size: int, *, of: int) -> bytes:
    chunk = b"%x\r\n%s\r\n" % (of, of * b"a")
    return size // len(chunk) * chunk + b"0\r\n\r\n"


RUBBISH = (
    Rubbish("JSON without an end", "/predict", _without_end, "too_large"),
    Rubbish("one image that is too large", "/predict", _one_image, "too_large"),
    Rubbish(f"{_IMAGES} images that are none", "/predict", _images, "not_an_image"),
    Rubbish("numbers", ":predict", _numbers, "too_large"),
    Rubbish("fields", "/predict", _fields, "not_images"),
    Rubbish("chunks of a byte", "/predict", partial(_in_chunks, of=1), "chunks_too_small", is_in_chunks=True),
    Rubbish("chunks that nobody wants", "/none", partial(_in_chunks, of=64), "no_such_route", is_in_chunks=True),
)


@dataclass(frozen=True)
class Beside:
    """What small requests have waited for."""

    rubbish: Rubbish
    alone: Calls
    small: Calls
    large: Calls

    def report(self) -> Iterator[tuple[str, bool]]:
        """What must hold, told with its figures, and whether it does."""
        refused = Counter(map(outcome, self.large.calls))
        told = f"{self.rubbish.name}: large requests {dict(refused)}, small ones {self.small.statuses}"
        yield told, {*refused} == {self.rubbish.code} and {*self.small.statuses} == {HTTPStatus.OK}
        usual, median = self.alone.median, self.small.median
        told = f"  small ones' median {1000 * median:.1f} ms, {median / usual:.1f} x that of those alone"
        slowest = self.small.percentile(1.0)
        late = slowest - self.alone.percentile(1.0)
        told = f"{told}; the slowest {1000 * slowest:.1f} ms, {1000 * late:.0f} more than the slowest alone"
        yield f"{told}, at most {1000 * LIMIT_SECONDS:.0f}", late <= LIMIT_SECONDS


async def measure(running: Running, photo: bytes, *, seconds: float) -> list[tuple[str, bool]]:
    """Small requests alone and beside all kinds of rubbish, for so long each."""
    load = Loader(running.url)
    headers = {"Content-Type": running.posting.content_type}
    small = itertools.repeat(loader.request(running.url, photo, headers))
    alone = await load.closed_loop(small, callers=1, seconds=seconds)
    told = [(f"alone: median {1000 * alone.median:.1f} ms, slowest {1000 * alone.percentile(1.0):.1f} ms", True)]
    for rubbish in RUBBISH:
        url = running.url.removesuffix("/predict") + rubbish.action
        is_over = threading.Event()
        sending = asyncio.create_task(asyncio.to_thread(_sent, url, rubbish.make(SIZE), rubbish.headers, is_over))
        calls = await load.closed_loop(small, callers=1, seconds=seconds)
        is_over.set()
        told.extend(Beside(rubbish, alone, calls, await sending).report())
    told.append(await _beside_slow_images(load, running, small, seconds=seconds))
    large = _of_phone()
    found = await load.call(loader.request(running.url, large, headers))
    load.close()
    size = f"{_PHONE[0]} x {_PHONE[1]} pixels, {len(large) / 1e6:.1f} MB"
    told.append((f"a photo of {size}: {outcome(found)} after {found.seconds:.2f} s", found.status == HTTPStatus.OK))
    return told


async def _beside_slow_images(
    load: Loader, running: Running, small: Iterator[bytes], *, seconds: float
) -> tuple[str, bool]:
    """To compare: small requests beside a single one of many images, each of which takes long."""
    image = base64.b64encode(_of_many_pixels()).decode()
    body = json.dumps({"images": [{"b64": image}] * _IMAGES}).encode()
    request = loader.request(running.url, body, {"Content-Type": "application/json", "X-Request-Timeout": "60"})
    sending = asyncio.create_task(load.call(request))
    calls = await load.closed_loop(small, callers=1, seconds=seconds)
    found = await sending
    told = (
        f"{_IMAGES} images of 16 megapixels in one request: {outcome(found)} after {found.seconds:.1f} s; small ones "
        f"{calls.statuses}, median {1000 * calls.median:.1f} ms, slowest {1000 * calls.percentile(1.0):.0f} ms"
    )
    return told, found.status == HTTPStatus.OK and {*calls.statuses} == {HTTPStatus.OK}


def _sent(url: str, body: bytes, headers: dict[str, str], is_over: threading.Event) -> Calls:
    """Post the body again and again. In a thread, and by what needs the interpreter least: others time themselves."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=loader.GIVE_UP_SECONDS)
    calls, began = [], time.perf_counter()
    while not is_over.is_set():
        sent = time.perf_counter()
        with suppress(ConnectionError):  # where the connection ends before all is sent, for the answer has come
            connection.request("POST", parts.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        calls.append(Call(sent - began, time.perf_counter() - sent, answer.status, content))
    connection.close()
    return Calls(tuple(calls), 0)


def _of_phone() -> bytes:
    """A JPEG of noise, at the first quality at which it has as many bytes as phones write at their best."""
    width, height = _PHONE
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    return next(file for file in (_jpeg(image, quality) for quality in _QUALITIES) if len(file) >= _PHONE_BYTES)


def _of_many_pixels() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", _LARGEST_USUAL, (90, 120, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def main() -> int:
    arguments = _arguments()
    servers.end_tidily()
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        shown = pictures.make(None)
        folder = Folder(Path(scratch) / "service", shown)
        subject = subjects.make(arguments.network, folder, shown)
        ours = servers.graft(subject.model, folder.storage.root, dict(arguments.setting))
        print(f"{arguments.network}, load {os.getloadavg()[0]:.1f} before", flush=True)
        with servers.running(ours, shown.sent, cores=arguments.cores, log=Path(scratch) / "graft.log") as running:
            told = asyncio.run(measure(running, shown.sent, seconds=arguments.seconds))
        folder.database.close()
    return report(told)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving.beside", description=__doc__)
    parser.add_argument("--network", default="mobilenet_v3_small")
    parser.add_argument("--seconds", type=float, default=5.0, help="alone, and beside each kind (default: 5)")
    servers.add_setting(parser)
    servers.add_cores(parser)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
