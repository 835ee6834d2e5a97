"""Files of weights that are at hand: which one it is, told without reading it again, and ones that cannot be read."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from app import files
from app.backbones import catalogue, weights
from tests import factories
from tests.backbones.weightfiles import CONTENT, SHA256, at_hand, backbone, identified, known, refusal


def test_a_file_is_identified_as_the_one_that_would_be_taken(tmp_path: Path) -> None:
    entry, folder, cache = backbone(), tmp_path / "weights", tmp_path / "cache"
    for place in (folder, cache):
        place.mkdir()
    assert identified(entry, folder, cache) is None
    (cache / f"resnet18-{SHA256[:8]}.pth").write_bytes(CONTENT)
    assert identified(entry, folder, cache) == SHA256[:8]
    # A damaged one is passed over, and so it is here.
    damaged = folder / "resnet18-00000000.pth"
    damaged.write_bytes(b"damaged")
    assert identified(entry, folder, cache) == SHA256
    damaged.unlink()
    own = b"values of our own"
    digest = hashlib.sha256(own).hexdigest()
    (folder / f"resnet18-{digest[:8]}.pth").write_bytes(own)
    assert identified(entry, folder, cache) == digest
    assert weights.obtain(entry, weights_dir=folder, cache_dir=cache, download=False).sha256 == digest
    formnet = catalogue.find("formnet")
    packaged = weights.obtain(formnet, weights_dir=None, cache_dir=cache, download=False)
    assert packaged.sha256.startswith(str(identified(formnet, None, cache)))


def test_what_is_known_of_a_file_is_other_once_it_was_changed_in_its_place(tmp_path: Path) -> None:
    entry, path = backbone(), tmp_path / f"resnet18-{SHA256[:8]}.pth"
    path.write_bytes(CONTENT[:-1])
    damaged = known(entry, tmp_path, tmp_path / "cache")
    assert known(entry, tmp_path, tmp_path / "cache") == damaged
    path.write_bytes(CONTENT)
    assert known(entry, tmp_path, tmp_path / "cache") not in (None, damaged)
    assert identified(entry, tmp_path, tmp_path / "cache") == SHA256[:8]


def test_a_weights_folder_that_cannot_be_read_is_passed_over_and_named(tmp_path: Path) -> None:
    closed, formnet = factories.unreadable(tmp_path), catalogue.find("formnet")
    assert at_hand(formnet, closed, tmp_path) == "package"
    assert (identified(formnet, closed, tmp_path) or "none") in formnet.weights[0].file_name
    assert weights.obtain(formnet, weights_dir=closed, cache_dir=tmp_path, download=False).source == "package"
    assert refusal(backbone(), closed, tmp_path)[0] == f"{closed} cannot be read: File name too long"


def test_a_cache_that_cannot_be_read_is_passed_over_and_named(tmp_path: Path) -> None:
    closed, name = factories.unreadable(tmp_path), f"resnet18-{SHA256[:8]}.pth"
    assert at_hand(backbone(), None, closed) is None
    assert identified(backbone(), None, closed) is None
    assert f"{closed / name} cannot be read: File name too long" in refusal(backbone(), None, closed)
    (tmp_path / name).write_bytes(CONTENT)
    assert at_hand(backbone(), tmp_path, closed) == "weights_dir"


def test_a_file_that_may_not_be_read_is_passed_over_where_it_is_identified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"resnet18-{SHA256[:8]}.pth"
    folder, cache = tmp_path / "weights", tmp_path / "cache"
    for place in (folder, cache):
        place.mkdir()
        (place / name).write_bytes(CONTENT)
    read = files.sha256

    def lost(path: Path) -> str:
        if path.parent == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path)

    monkeypatch.setattr(files, "sha256", lost)
    assert identified(backbone(), folder, cache) == SHA256
