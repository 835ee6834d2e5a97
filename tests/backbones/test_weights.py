"""None"""

import dataclasses
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from app import errors
from app.backbones import catalogue, weights
from tests.backbones.weightfiles import CONTENT, SHA256, at_hand, backbone, identified, refusal

HUB_FOLDER = "/timm/mobilenetv1_100.ra4_e3600_r224_in1k/resolve/main"


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
        body = {
            "/good.pth": CONTENT,
            "/other.pth": b"something else",
            "/cut.pth": CONTENT[:100],
            f"{HUB_FOLDER}/model.safetensors": CONTENT,
        }.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(CONTENT if self.path == "/cut.pth" else body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def do_HEAD(self) -> None:
        """What the hub says of a file: its sha256 as `ETag`, and the commit it is of."""
        known = self.path.endswith("/model.safetensors")
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", f'"{SHA256}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

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


def test_the_weights_folder_comes_first_even_with_other_weights_than_the_published(tmp_path: Path) -> None:
    own = b"values of our own"
    digest = hashlib.sha256(own).hexdigest()
    (tmp_path / f"resnet18-{digest[:8]}.pth").write_bytes(own)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"resnet18-{SHA256[:8]}.pth").write_bytes(CONTENT)
    entry = backbone()
    found = weights.obtain(entry, weights_dir=tmp_path, cache_dir=cache, download=False)
    assert (found.source, found.sha256, found.preprocessing) == ("weights_dir", digest, entry.weights[0].preprocessing)
    assert at_hand(entry, tmp_path, cache) == "weights_dir"


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
    assert at_hand(backbone(), tmp_path, tmp_path / "cache") is None


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
    assert at_hand(entry, None, cache) == "cache"


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
    found = weights.obtain(formnet, weights_dir=None, cache_dir=tmp_path, download=False)
    assert found.source == "package"
    assert (found.weights.name, found.path.name) == ("FORMULAS_V1", formnet.weights[0].file_name)
    assert found.sha256.startswith(formnet.weights[0].sha256_prefix or "unknown")
    assert found.path.stat().st_size < 4_000_000
    assert at_hand(formnet, None, tmp_path) == "package"


def test_the_weights_folder_comes_before_the_package(tmp_path: Path) -> None:
    own = b"values of our own"
    (tmp_path / f"formnet-{hashlib.sha256(own).hexdigest()[:8]}.pth").write_bytes(own)
    formnet = catalogue.find("formnet")
    assert weights.obtain(formnet, weights_dir=tmp_path, cache_dir=tmp_path, download=False).source == "weights_dir"
    assert at_hand(formnet, tmp_path, tmp_path) == "weights_dir"


def test_a_package_without_its_weights_file_says_so_and_asks_no_publisher(tmp_path: Path) -> None:
    real = catalogue.find("formnet")
    lost = dataclasses.replace(real.weights[0], file_name="formnet-00000000.safetensors")
    lacking = dataclasses.replace(real, weights=(lost,))
    assert at_hand(lacking, None, tmp_path) is None
    tried = refusal(lacking, None, tmp_path, download=True)
    assert "this installation lacks its own file formnet-00000000.safetensors" in tried


def test_a_network_without_published_weights_has_none(tmp_path: Path) -> None:
    tinynet = catalogue.find("tinynet")
    assert "from scratch" in refusal(tinynet, tmp_path, tmp_path)[0]


def test_weights_are_asked_for_by_name(tmp_path: Path) -> None:
    resnet50 = catalogue.find("resnet50")
    second = resnet50.find_weights("IMAGENET1K_V2")
    digits = SHA256[:8]
    entry = dataclasses.replace(
        resnet50,
        weights=(resnet50.weights[0], dataclasses.replace(second, file_name=f"resnet50-{digits}.pth")),
    )
    (tmp_path / f"resnet50-{digits}.pth").write_bytes(CONTENT)
    found = weights.obtain(entry, choice="IMAGENET1K_V2", weights_dir=tmp_path, cache_dir=tmp_path, download=False)
    assert (found.weights.name, found.preprocessing.resize) == ("IMAGENET1K_V2", 232)
    # A file is known by its hash, also where any will do.
    assert weights.obtain(entry, weights_dir=tmp_path, cache_dir=tmp_path, download=False).weights == found.weights
    with pytest.raises(errors.UnknownName, match="IMAGENET1K_V2"):
        weights.obtain(entry, choice="IMAGENET1K_V7", weights_dir=tmp_path, cache_dir=tmp_path, download=False)
    with pytest.raises(errors.WeightsUnavailable, match=r"IMAGENET1K_V1-<8 hex digits>"):
        weights.obtain(entry, choice="IMAGENET1K_V1", weights_dir=tmp_path, cache_dir=tmp_path, download=False)


def test_weights_of_ones_own_may_carry_the_name_of_published_ones(tmp_path: Path) -> None:
    own = b"the same network, trained on"
    digest = hashlib.sha256(own).hexdigest()
    (tmp_path / f"resnet50.IMAGENET1K_V2-{digest[:8]}.safetensors").write_bytes(own)
    resnet50 = catalogue.find("resnet50")
    for choice in ("pretrained", "IMAGENET1K_V2"):
        found = weights.obtain(resnet50, choice=choice, weights_dir=tmp_path, cache_dir=tmp_path, download=False)
        assert (found.sha256, found.weights.name) == (digest, "IMAGENET1K_V2")


@pytest.mark.parametrize("first_known_by", ["its hash", "no hash"])
def test_the_weights_that_are_listed_first_come_before_others_in_the_folder(
    tmp_path: Path, first_known_by: str
) -> None:
    contents = sorted((b"values", b"others"), key=lambda content: hashlib.sha256(content).hexdigest())
    other, first = (hashlib.sha256(content).hexdigest() for content in contents)
    real = catalogue.find("mobilenet_v2")
    published = real.weights[0]
    if first_known_by == "its hash":
        published = dataclasses.replace(published, file_name=f"mobilenet_v2-{first[:8]}.pth")
    entry = dataclasses.replace(
        real, weights=(published, dataclasses.replace(real.weights[1], file_name=f"mobilenet_v2-{other[:8]}.pth"))
    )
    for content, digest in zip(contents, (other, first), strict=True):
        (tmp_path / f"mobilenet_v2-{digest[:8]}.pth").write_bytes(content)

    found = weights.obtain(entry, weights_dir=tmp_path, cache_dir=tmp_path / "none", download=False)
    assert (found.weights.name, found.sha256) == ("IMAGENET1K_V1", first)
    assert identified(entry, tmp_path, tmp_path / "none") == first


def test_a_network_of_timm_does_not_take_the_file_of_its_namesake(tmp_path: Path) -> None:
    own = b"values of our own"
    digits = hashlib.sha256(own).hexdigest()[:8]
    (tmp_path / f"resnet50-{digits}.pth").write_bytes(own)
    entry = catalogue.find("timm:resnet50")
    with pytest.raises(errors.WeightsUnavailable, match="timm-resnet50-<8 hex digits>"):
        weights.obtain(entry, weights_dir=tmp_path, cache_dir=tmp_path, hub_cache_dir=tmp_path, download=False)
    (tmp_path / f"timm-resnet50-{digits}.safetensors").write_bytes(own)
    found = weights.obtain(entry, weights_dir=tmp_path, cache_dir=tmp_path, hub_cache_dir=tmp_path, download=False)
    assert found.path.name.startswith("timm-")


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A cache of the hub with the file of MobileNet v1, as its library lays it out."""
    repository = tmp_path / "models--timm--mobilenetv1_100.ra4_e3600_r224_in1k"
    snapshot = repository / "snapshots" / "0123abc"
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True)
    (repository / "blobs" / SHA256).write_bytes(CONTENT)
    (repository / "refs" / "main").write_text("0123abc")
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / SHA256)
    return tmp_path


def test_weights_of_the_hub_are_taken_from_its_cache(hub_cache: Path, tmp_path: Path) -> None:
    entry = catalogue.find("mobilenetv1_100")
    found = weights.obtain(
        entry, weights_dir=None, cache_dir=tmp_path / "torch", hub_cache_dir=hub_cache, download=False
    )
    assert (found.source, found.sha256, found.path.suffix) == ("cache", SHA256, ".safetensors")
    assert found.path.read_bytes() == CONTENT
    place = weights.at_hand(
        entry, entry.weights[0], weights_dir=None, cache_dir=tmp_path / "torch", hub_cache_dir=hub_cache
    )
    assert place == "cache"


def test_weights_of_the_hub_are_downloaded_once(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{publisher.server_port}"
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    entry = catalogue.find("mobilenetv1_100")
    first, second = (
        weights.obtain(entry, weights_dir=None, cache_dir=tmp_path, hub_cache_dir=tmp_path / "hub", download=True)
        for _ in range(2)
    )
    assert (first.source, second.source, first.sha256) == ("download", "cache", SHA256)
    assert first.path.read_bytes() == CONTENT
    missing = dataclasses.replace(entry, weights=(dataclasses.replace(entry.weights[0], file_name="none.safetensors"),))
    with pytest.raises(errors.WeightsUnavailable, match=r"none\.safetensors of timm/mobilenetv1_100.* could not be"):
        weights.obtain(missing, weights_dir=None, cache_dir=tmp_path, hub_cache_dir=tmp_path / "hub", download=True)


@pytest.mark.parametrize("damage", ["truncated", "replaced by a plain file"])
def test_a_damaged_file_in_the_cache_of_the_hub_is_refused(hub_cache: Path, damage: str) -> None:
    (link,) = hub_cache.rglob("model.safetensors")
    if damage == "truncated":
        link.resolve().write_bytes(CONTENT[:-1])
    else:
        link.unlink()
        link.write_bytes(CONTENT)
    with pytest.raises(errors.WeightsUnavailable) as caught:
        weights.obtain(
            catalogue.find("mobilenetv1_100"),
            weights_dir=None,
            cache_dir=hub_cache,
            hub_cache_dir=hub_cache,
            download=False,
        )
    assert "sha256" in str(caught.value)
    assert caught.value.detail["tried"][-1] == "downloading is switched off"  # type: ignore[index]


def test_the_default_cache_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.default_cache_dir() == tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    assert weights.default_cache_dir() == tmp_path / "home" / "hub" / "checkpoints"
