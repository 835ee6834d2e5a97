"""An environment for each peer, made once and kept in the user's cache: its pinned requirements are its own, while
torch, torchvision and what they need are those of the environment that runs the benchmark.

They are links in a folder outside of the peer's environment: pip takes what lies there as installed, but never removes
it, and what it installs itself goes first.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_REQUIREMENTS = Path(__file__).with_name("peers")
_SHARED = ("torch", "torchvision", "numpy", "pillow")
_STAMP = "graft-bench-ready"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def cache() -> Path:
    """The folder for what benchmarks keep between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graft-bench"


def python(peer: str) -> Path:
    """The interpreter of the peer's environment, which is made where there is none for its requirements."""
    folder = cache() / "peers" / f"{peer}-{fingerprint(peer)}"
    if not (folder / _STAMP).exists():
        print(f"making the environment {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder, _REQUIREMENTS / f"{peer}.txt")
        (folder / _STAMP).touch()
    return folder / "bin" / "python"


def fingerprint(peer: str) -> str:
    """Of everything that makes the peer's environment."""
    pinned = (_REQUIREMENTS / f"{peer}.txt").read_text(encoding="utf-8")
    return _digest(pinned, _libraries_name())


def _make(folder: Path, requirements: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    interpreter = folder / "bin" / "python"
    told = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([interpreter, "-c", told], check=True, capture_output=True, text=True).stdout.strip()
    (Path(packages) / "graft-bench.pth").write_text(f"{_libraries()}\n", encoding="utf-8")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([interpreter, *install, "--requirement", str(requirements)], check=True)


def _libraries() -> Path:
    """The folder with the links, which is made where there is none."""
    folder = cache() / "peers" / _libraries_name()
    if not (folder / _STAMP).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for found in _distributions():
            for target in _top_level(found):
                link = folder / target.name
                if not link.is_symlink():
                    link.symlink_to(target)
        (folder / _STAMP).touch()
    return folder


def _libraries_name() -> str:
    versions = sorted(f"{found.name}=={found.version} {found.locate_file('')}" for found in _distributions())
    return f"libraries-{_digest(*versions)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join((platform.python_version(), *parts)).encode()).hexdigest()[:12]


def _distributions() -> list[metadata.Distribution]:
    """Those of `_SHARED` and all that they need, as far as they are installed."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(_SHARED)
    while waiting:
        name = waiting.pop().lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another system
        waiting += [_needed(line) for line in found[name].requires or () if "extra ==" not in line]
    return list(found.values())


def _needed(requirement: str) -> str:
    match = _NAME.match(requirement)
    assert match is not None, requirement
    return match[0]


def _top_level(found: metadata.Distribution) -> set[Path]:
    names = {file.parts[0] for file in found.files or ()}
    return {Path(str(found.locate_file(name))) for name in names if name not in ("..", "__pycache__")}
