import dataclasses
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import errors
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone

CONTENT = b"the values of a network" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Publisher(http.server.ThreadingHTTPServer):
    """A web server on this machine that offers one file and counts who asks for it."""

    asked = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Publisher)
        self.server.asked += 1
        if self.path == "/moved.pth":
            self.send_response(302)
            self.send_header("Location", "/good.pth")
            self.end_headers()
            return
        body = {"/good.pth": CONTENT, "/other.pth": b"something else", "/cut.pth": CONTENT[:100]}.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(CONTENT if self.path == "/cut.pth" else body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing to say."""


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Publisher(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def backbone(url: str = "http://127.0.0.1:1/none.pth") -> Backbone:
    """A backbone of the catalogue whose published file is `CONTENT`, to be had at `url`."""
    real = catalogue.find("resnet18")
    assert real.weights is not None
    published = dataclasses.replace(real.weights, file_name=f"resnet18-{SHA256[:8]}.pth", url=url)
    return dataclasses.replace(real, weights=published)


def refusal(entry: Backbone, weights_dir: Path | None, cache_dir: Path, *, download: bool = False) -> list[str]:
    with pytest.raises(errors.WeightsUnavailable) as caught:
        weights.obtain(entry, weights_dir=weights_dir, cache_dir=cache_dir, download=download)
    tried = caught.value.detail["tried"]
    assert isinstance(tried, list)
    return [str(place) for place in tried]


def test_the_weights_folder_comes_first_even_with_other_weights_than_the_published(tmp_path: Path) -> None:
    own = b"values of our own"
    digest = hashlib.sha256(own).hexdigest()
    (tmp_path / f"resnet18-{digest[:8]}.pth").write_bytes(own)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"resnet18-{SHA256[:8]}.pth").write_bytes(CONTENT)
    entry = backbone()
    found = weights.obtain(entry, weights_dir=tmp_path, cache_dir=cache, download=False)
    assert entry.weights is not None
    assert (found.source, found.sha256, found.preprocessing) == ("weights_dir", digest, entry.weights.preprocessing)
    assert weights.at_hand(entry, weights_dir=tmp_path, cache_dir=cache) == "weights_dir"


def test_a_damaged_file_in_the_weights_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "resnet18-00000000.pth").write_bytes(b"damaged")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"resnet18-{SHA256[:8]}.pth").write_bytes(CONTENT)
    found = weights.obtain(backbone(), weights_dir=tmp_path, cache_dir=cache, download=False)
    assert (found.source, found.sha256) == ("cache", SHA256)


def test_files_of_other_backbones_are_not_taken(tmp_path: Path) -> None:
    for name in (f"resnet18-v2-{SHA256[:8]}.pth", f"resnet180-{SHA256[:8]}.pth", "resnet18-12345.pth", "resnet18.pth"):
        (tmp_path / name).write_bytes(CONTENT)
    assert weights.at_hand(backbone(), weights_dir=tmp_path, cache_dir=tmp_path / "cache") is None


def test_what_cannot_be_had_is_refused_with_every_place_that_was_tried(tmp_path: Path) -> None:
    (tmp_path / "resnet18-00000000.pth").write_bytes(b"damaged")
    tried = refusal(backbone(), tmp_path, tmp_path / "cache")
    assert len(tried) == 3
    assert "resnet18-00000000.pth has sha256" in tried[0]
    assert "the cache" in tried[1]
    assert tried[2] == "downloading is switched off"


@pytest.mark.parametrize("page", ["good.pth", "moved.pth"])
def test_weights_are_downloaded_into_the_cache_once(publisher: Publisher, tmp_path: Path, page: str) -> None:
    entry = backbone(f"http://127.0.0.1:{publisher.server_port}/{page}")
    cache = tmp_path / "hub" / "checkpoints"
    first = weights.obtain(entry, weights_dir=None, cache_dir=cache, download=True)
    asked = publisher.asked
    second = weights.obtain(entry, weights_dir=None, cache_dir=cache, download=True)
    assert (first.source, second.source) == ("download", "cache")
    assert first.path == second.path
    assert first.path.read_bytes() == CONTENT
    assert first.sha256 == second.sha256 == SHA256
    assert publisher.asked == asked
    assert weights.at_hand(entry, weights_dir=None, cache_dir=cache) == "cache"


@pytest.mark.parametrize(("page", "reason"), [("other.pth", "sha256"), ("cut.pth", "could not"), ("no.pth", "404")])
def test_a_bad_download_leaves_nothing_behind(publisher: Publisher, tmp_path: Path, page: str, reason: str) -> None:
    entry = backbone(f"http://127.0.0.1:{publisher.server_port}/{page}")
    assert reason in refusal(entry, None, tmp_path, download=True)[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_publisher_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/good.pth"
        assert f"{url} could not be downloaded" in refusal(backbone(url), None, tmp_path, download=True)[-1]


def test_a_cache_that_cannot_be_written_is_named(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    entry = backbone(f"http://127.0.0.1:{publisher.server_port}/good.pth")
    assert "could not be kept" in refusal(entry, None, tmp_path / "file" / "cache", download=True)[-1]


def test_weights_of_the_package_are_at_hand_without_a_folder_a_cache_or_a_publisher(tmp_path: Path) -> None:
    formnet = catalogue.find("formnet")
    assert formnet.weights is not None
    found = weights.obtain(formnet, weights_dir=None, cache_dir=tmp_path, download=False)
    assert found.source == "package"
    assert found.path.name == formnet.weights.file_name
    assert found.sha256.startswith(formnet.weights.sha256_prefix)
    assert found.path.stat().st_size < 4_000_000
    assert weights.at_hand(formnet, weights_dir=None, cache_dir=tmp_path) == "package"


def test_the_weights_folder_comes_before_the_package(tmp_path: Path) -> None:
    own = b"values of our own"
    (tmp_path / f"formnet-{hashlib.sha256(own).hexdigest()[:8]}.pth").write_bytes(own)
    formnet = catalogue.find("formnet")
    assert weights.obtain(formnet, weights_dir=tmp_path, cache_dir=tmp_path, download=False).source == "weights_dir"
    assert weights.at_hand(formnet, weights_dir=tmp_path, cache_dir=tmp_path) == "weights_dir"


def test_a_package_without_its_weights_file_says_so_and_asks_no_publisher(tmp_path: Path) -> None:
    real = catalogue.find("formnet")
    assert real.weights is not None
    lacking = dataclasses.replace(
        real, weights=dataclasses.replace(real.weights, file_name="formnet-00000000.safetensors")
    )
    assert weights.at_hand(lacking, weights_dir=None, cache_dir=tmp_path) is None
    tried = refusal(lacking, None, tmp_path, download=True)
    assert "this installation lacks its own file formnet-00000000.safetensors" in tried


def test_a_network_without_published_weights_has_none(tmp_path: Path) -> None:
    tinynet = catalogue.find("tinynet")
    assert weights.at_hand(tinynet, weights_dir=tmp_path, cache_dir=tmp_path) is None
    assert "from scratch" in refusal(tinynet, tmp_path, tmp_path)[0]


def test_the_default_cache_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.default_cache_dir() == tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    assert weights.default_cache_dir() == tmp_path / "home" / "hub" / "checkpoints"
