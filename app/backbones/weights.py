"""Where pre-trained weights come from: a folder of the operator, this package, a local cache, or their publisher.

Knows no torch.

A file is used only where its sha256 is the one that is known of it: from its name, or from the Hugging Face hub, whose
cache names files by it.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import httpx
import httpx2
import huggingface_hub
from huggingface_hub import constants as hub_constants

from app import errors, files
from app.backbones import catalogue
from app.backbones.catalogue import Backbone, Weights
from app.backbones.preprocess import Preprocessing

Source = Literal["weights_dir", "package", "cache", "download"]
Entry = TypeVar("Entry")

_PACKAGED = Path(__file__).with_name("data")

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine whose content is the one that is known of it, and the weights that it holds."""

    path: Path
    sha256: str
    source: Source
    weights: Weights

    @property
    def preprocessing(self) -> Preprocessing:
        """What images go through before a network with these weights sees them."""
        return self.weights.preprocessing


def obtain(
    backbone: Backbone,
    *,
    choice: str = catalogue.PRETRAINED,
    weights_dir: Path | None,
    cache_dir: Path,
    hub_cache_dir: Path | None = None,
    download: bool,
) -> WeightsFile:
    """The weights of `backbone` called `choice`: from `weights_dir`, else from a cache, else downloaded into that.

    `cache_dir` is torch's, `hub_cache_dir` that of the Hugging Face hub, its usual one if left out. Raises
    `WeightsUnavailable`, which tells of every place why it was of no use, and `UnknownName`.
    """
    if not backbone.weights:
        raise errors.WeightsUnavailable(backbone.name, ["none are published, it is trained from scratch"])
    published = backbone.find_weights(choice)
    tried: list[str] = []
    places: list[Callable[[], WeightsFile | None]] = [lambda: _from_folder(backbone, choice, weights_dir, tried)]
    if published.hub is not None:
        repository, hub_cache = published.hub, hub_cache_dir or default_hub_cache_dir()
        places.append(lambda: _from_hub_cache(published, repository, hub_cache, tried))
        places.append(lambda: _from_hub(published, repository, hub_cache, tried, download=download))
    elif published.url is not None:
        url = published.url
        places.append(lambda: _from_cache(published, cache_dir, tried))
        places.append(lambda: _from_publisher(published, url, cache_dir, tried, download=download))
    else:
        places.append(lambda: _from_package(published, tried))
    for look in places:
        try:
            found = look()
        except OSError as error:
            tried.append(f"{error.filename} cannot be read: {error.strerror}")
            continue
        if found is not None:
            return found
    raise errors.WeightsUnavailable(backbone.name, tried)


def at_hand(
    backbone: Backbone, published: Weights, *, weights_dir: Path | None, cache_dir: Path, hub_cache_dir: Path
) -> Literal["weights_dir", "package", "cache"] | None:
    """Where a file with these weights of `backbone` lies on this machine; its content is not looked at, nor a place
    that cannot be read."""
    found = next(_files(backbone, published, weights_dir, cache_dir, hub_cache_dir), None)
    return None if found is None else found.source


def identify(
    backbone: Backbone, published: Weights, *, weights_dir: Path | None, cache_dir: Path, hub_cache_dir: Path
) -> str | None:
    """Which file `obtain` would take without a download: leading hex digits of its sha256, and after a space what is
    another one once the file is changed in its place. None where there is no file.

    The digits are those of the file's name. Only where several files could be meant is it looked at whether the first
    is what it claims to be, and again once it changes. Places and files that cannot be read are passed over.
    """
    found = list(_files(backbone, published, weights_dir, cache_dir, hub_cache_dir))
    if len(found) > 1:
        for file in found:
            digest = _digest(file.path)
            if digest is not None and digest.startswith(file.digits):
                return f"{digest} {_state(file.path)}"
    return f"{found[0].digits} {_state(found[0].path)}" if found else None


@dataclass(frozen=True)
class _Found:
    """A file whose sha256 is to begin with `digits`."""

    path: Path
    source: Literal["weights_dir", "package", "cache"]
    digits: str


def _files(
    backbone: Backbone, published: Weights, weights_dir: Path | None, cache_dir: Path, hub_cache_dir: Path
) -> Iterator[_Found]:
    """The files that `obtain` looks at, in that order."""
    choice = catalogue.PRETRAINED if published == backbone.weights[0] else published.name
    if weights_dir is not None:
        for path, _ in _readable(_candidates(backbone, choice, weights_dir)):
            yield _Found(path, "weights_dir", path.stem.rpartition("-")[2])
    yield from _readable(_kept(published, cache_dir, hub_cache_dir))


def _kept(published: Weights, cache_dir: Path, hub_cache_dir: Path) -> Iterator[_Found]:
    """The file in the package or the cache that is the one for these weights."""
    if published.hub is not None:
        cached = _in_hub_cache(published, published.hub, hub_cache_dir)
        if cached is not None:
            yield _Found(cached, "cache", cached.resolve().name)
        return
    path = (_PACKAGED if published.url is None else cache_dir) / published.file_name
    if path.is_file():
        yield _Found(path, "package" if published.url is None else "cache", _known_digits(published))


def _readable(found: Iterable[Entry]) -> list[Entry]:
    """What is `found` at a place, nothing where that cannot be read."""
    try:
        return list(found)
    except OSError:
        return []


def _digest(path: Path) -> str | None:
    """None where the file cannot be read."""
    try:
        facts = path.stat()
        return _digest_of(path, facts.st_size, facts.st_mtime_ns)
    except OSError:
        return None


def _state(path: Path) -> str:
    """Of a file, what changes with it, but not what is in it."""
    try:
        facts = path.stat()
    except OSError:
        return "unreadable"
    return f"{facts.st_size}-{facts.st_mtime_ns}"


@lru_cache(maxsize=1024)
def _digest_of(path: Path, _size: int, _changed: int) -> str:
    return files.sha256(path)


def default_hub_cache_dir() -> Path:
    """Folder in which the Hugging Face libraries keep what they have downloaded."""
    return Path(hub_constants.HF_HUB_CACHE)


def default_cache_dir() -> Path:
    """Folder in which torch keeps the checkpoints that it has downloaded."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(caches, "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _from_folder(backbone: Backbone, choice: str, weights_dir: Path | None, tried: list[str]) -> WeightsFile | None:
    if weights_dir is None:
        tried.append("no weights folder is set")
        return None
    candidates = list(_candidates(backbone, choice, weights_dir))
    if not candidates:
        name = _file_stem(backbone) if choice == catalogue.PRETRAINED else f"{_file_stem(backbone)}.{choice}"
        tried.append(f"the weights folder {weights_dir} has no file {name}-<8 hex digits>.pth or .safetensors")
    for path, weights in candidates:
        found = _verified(path, path.stem.rpartition("-")[2], "weights_dir", weights, tried)
        if found is not None:
            return found
    return None


def _from_package(published: Weights, tried: list[str]) -> WeightsFile | None:
    path = _PACKAGED / published.file_name
    if not path.is_file():
        tried.append(f"this installation lacks its own file {published.file_name}")
        return None
    return _verified(path, _known_digits(published), "package", published, tried)


def _from_cache(published: Weights, cache_dir: Path, tried: list[str]) -> WeightsFile | None:
    path = cache_dir / published.file_name
    if not path.is_file():
        tried.append(f"the cache {cache_dir} has no file {published.file_name}")
        return None
    return _verified(path, _known_digits(published), "cache", published, tried)


def _from_hub_cache(published: Weights, repository: str, cache_dir: Path, tried: list[str]) -> WeightsFile | None:
    path = _in_hub_cache(published, repository, cache_dir)
    if path is None:
        tried.append(f"the cache {cache_dir} has no file {published.file_name} of {repository}")
        return None
    return _verified_blob(path, "cache", published, tried)


def _from_hub(
    published: Weights, repository: str, cache_dir: Path, tried: list[str], *, download: bool
) -> WeightsFile | None:
    if not download:
        tried.append("downloading is switched off")
        return None
    try:
        path = huggingface_hub.hf_hub_download(repository, published.file_name, cache_dir=cache_dir)
    except (httpx2.HTTPError, OSError, ValueError) as error:
        tried.append(f"{published.file_name} of {repository} could not be downloaded: {error or type(error).__name__}")
        return None
    return _verified_blob(Path(path), "download", published, tried)


def _in_hub_cache(published: Weights, repository: str, cache_dir: Path) -> Path | None:
    found = huggingface_hub.try_to_load_from_cache(repository, published.file_name, cache_dir=cache_dir)
    return Path(found) if isinstance(found, str) else None


def _verified_blob(path: Path, source: Source, published: Weights, tried: list[str]) -> WeightsFile | None:
    """Large files lie in the cache of the hub under their sha256, with links to them under their names."""
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        tried.append(f"{path} is no link to a file that is named by its sha256, so nothing tells whether it is whole")
        return None
    found = _verified(blob, blob.name, source, published, tried)
    return None if found is None else replace(found, path=path)


def _from_publisher(
    published: Weights, url: str, cache_dir: Path, tried: list[str], *, download: bool
) -> WeightsFile | None:
    if not download:
        tried.append("downloading is switched off")
        return None
    try:
        return _download(published, url, cache_dir, tried)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        tried.append(f"{url} could not be downloaded: {error or type(error).__name__}")
    except OSError as error:
        tried.append(f"{url} could not be kept in {cache_dir}: {error}")
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
        if not digest.hexdigest().startswith(_known_digits(published)):
            tried.append(f"{url} gave a file with sha256 {digest.hexdigest()[:16]}…, not the published one")
            return None
        path = cache_dir / published.file_name
        # A job that stops half-way leaves no file under the final name.
        os.replace(part, path)
        return WeightsFile(path, digest.hexdigest(), "download", published)
    finally:
        part.unlink(missing_ok=True)


def _chunks(url: str) -> Iterator[bytes]:
    with httpx.stream("GET", url, timeout=_TIMEOUT, follow_redirects=True) as response:
        response.raise_for_status()
        yield from response.iter_bytes(1024 * 1024)


def _candidates(backbone: Backbone, choice: str, weights_dir: Path) -> Iterator[tuple[Path, Weights]]:
    """The files in the folder that may hold the weights `choice`, with the weights that they are taken for.

    A file without the name of weights in its own is known by its hash; one of other values stands in for `pretrained`,
    for which files come in the order in which their weights are listed. Raises `OSError` where it cannot be read.
    """
    sets = {weights.name: weights for weights in backbone.weights}
    digits = {weights.sha256_prefix: weights for weights in backbone.weights if weights.sha256_prefix}
    names = {weights.file_name for weights in digits.values()}
    pattern = re.compile(rf"{re.escape(_file_stem(backbone))}(?:\.(\w+))?-[0-9a-f]{{8}}\.(?:pth|safetensors)")
    found: list[tuple[Path, Weights]] = []
    for path in sorted(weights_dir.iterdir()) if weights_dir.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if (match is None and path.name not in names) or not path.is_file():
            continue
        known = digits.get(path.stem.rpartition("-")[2])
        named = sets.get(match[1]) if match is not None and match[1] else known
        if choice == catalogue.PRETRAINED:
            found.append((path, named or backbone.weights[0]))
        elif named is not None and named.name == choice:
            found.append((path, named))
    yield from sorted(found, key=lambda candidate: backbone.weights.index(candidate[1]))


def _file_stem(backbone: Backbone) -> str:
    # Networks of timm may bear the name of another one of the catalogue, and no file's name should have a colon.
    return backbone.name.partition(".")[0].replace(":", "-")


def _known_digits(published: Weights) -> str:
    if published.sha256_prefix is None:
        raise ValueError(f"{published.file_name} does not end in -<hex digits of sha256>")
    return published.sha256_prefix


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
    return WeightsFile(path, digest, source, published)
