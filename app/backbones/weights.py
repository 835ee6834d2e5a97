"""Where pre-trained weights come from: a folder of the operator, this package, the local cache, or their publisher.
Knows no torch.

The name of a weights file ends in the first hex digits of its sha256; a file whose content does not fit its name is
never used.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from app import errors
from app.backbones.catalogue import Backbone, Weights
from app.backbones.preprocess import Preprocessing

Place = Literal["weights_dir", "package", "cache"]
"""On this machine."""
Source = Literal["weights_dir", "package", "cache", "download"]

_PACKAGED = Path(__file__).parent / "data"
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine whose content fits its name, with the preprocessing that belongs to it."""

    path: Path
    sha256: str
    source: Source
    preprocessing: Preprocessing


def obtain(backbone: Backbone, *, weights_dir: Path | None, cache_dir: Path, download: bool) -> WeightsFile:
    """The weights of `backbone`: from `weights_dir`, else those that come with this package, else from `cache_dir`,
    else downloaded into `cache_dir`.

    Raises `WeightsUnavailable`, which tells of every place why it was of no use.
    """
    published = backbone.weights
    if published is None:
        raise errors.WeightsUnavailable(backbone.name, ["none are published, it is trained from scratch"])
    tried: list[str] = []
    places: list[Callable[[], WeightsFile | None]] = [
        lambda: _from_folder(backbone, published, weights_dir, tried),
        lambda: _from_package(published, tried),
        lambda: _from_cache(published, cache_dir, tried),
        lambda: _from_publisher(published, cache_dir, tried, download=download),
    ]
    for look in places:
        found = look()
        if found is not None:
            return found
    raise errors.WeightsUnavailable(backbone.name, tried)


def at_hand(backbone: Backbone, *, weights_dir: Path | None, cache_dir: Path) -> Place | None:
    """Where a file for `backbone` lies on this machine; its content is not looked at."""
    if backbone.weights is None:
        return None
    if weights_dir is not None and any(_candidates(backbone, weights_dir)):
        return "weights_dir"
    if backbone.weights.url is None:
        return "package" if (_PACKAGED / backbone.weights.file_name).is_file() else None
    return "cache" if (cache_dir / backbone.weights.file_name).is_file() else None


def default_cache_dir() -> Path:
    """Folder in which torch keeps the checkpoints that it has downloaded."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(caches, "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _from_folder(
    backbone: Backbone, published: Weights, weights_dir: Path | None, tried: list[str]
) -> WeightsFile | None:
    if weights_dir is None:
        tried.append("no weights folder is set")
        return None
    candidates = list(_candidates(backbone, weights_dir))
    if not candidates:
        tried.append(f"the weights folder {weights_dir} has no file {backbone.name}-<8 hex digits>.pth")
    for path in candidates:
        found = _verified(path, path.stem.rpartition("-")[2], "weights_dir", published, tried)
        if found is not None:
            return found
    return None


def _from_package(published: Weights, tried: list[str]) -> WeightsFile | None:
    if published.url is not None:
        return None
    path = _PACKAGED / published.file_name
    if not path.is_file():
        tried.append(f"this installation lacks its own file {published.file_name}")
        return None
    return _verified(path, published.sha256_prefix, "package", published, tried)


def _from_cache(published: Weights, cache_dir: Path, tried: list[str]) -> WeightsFile | None:
    path = cache_dir / published.file_name
    if not path.is_file():
        tried.append(f"the cache {cache_dir} has no file {published.file_name}")
        return None
    return _verified(path, published.sha256_prefix, "cache", published, tried)


def _from_publisher(published: Weights, cache_dir: Path, tried: list[str], *, download: bool) -> WeightsFile | None:
    if published.url is None:
        return None
    if not download:
        tried.append("downloading is switched off")
        return None
    try:
        return _download(published, published.url, cache_dir, tried)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        tried.append(f"{published.url} could not be downloaded: {error or type(error).__name__}")
    except OSError as error:
        tried.append(f"{published.url} could not be kept in {cache_dir}: {error}")
    return None


def _download(published: Weights, url: str, cache_dir: Path, tried: list[str]) -> WeightsFile | None:
    cache_dir.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=cache_dir, prefix=f"{published.file_name}.", suffix=".part")
    part = Path(name)
    try:
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as file:
            for chunk in _chunks(url):
                file.write(chunk)
                digest.update(chunk)
        if not digest.hexdigest().startswith(published.sha256_prefix):
            tried.append(f"{url} gave a file with sha256 {digest.hexdigest()[:16]}…, not the published one")
            return None
        path = cache_dir / published.file_name
        # A job that stops half-way leaves no file under the final name.
        os.replace(part, path)
        return WeightsFile(path, digest.hexdigest(), "download", published.preprocessing)
    finally:
        part.unlink(missing_ok=True)


def _chunks(url: str) -> Iterator[bytes]:
    with httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as response:
        response.raise_for_status()
        yield from response.iter_bytes(1024 * 1024)


def _candidates(backbone: Backbone, weights_dir: Path) -> Iterator[Path]:
    pattern = re.compile(rf"{re.escape(backbone.name)}-[0-9a-f]{{8}}\.pth")
    if weights_dir.is_dir():
        yield from (path for path in sorted(weights_dir.iterdir()) if pattern.fullmatch(path.name) and path.is_file())


def _verified(path: Path, prefix: str, source: Source, published: Weights, tried: list[str]) -> WeightsFile | None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        tried.append(f"{path} cannot be read: {error.strerror}")
        return None
    if not digest.startswith(prefix):
        tried.append(f"{path} has sha256 {digest[:16]}… and not the one in its name, so it is damaged or another file")
        return None
    return WeightsFile(path, digest, source, published.preprocessing)
