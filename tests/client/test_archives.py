"""Photos on disk become an archive."""

import os
import zipfile
from pathlib import Path

import pytest

from client import archives
from client.errors import Refused


def test_a_folder_is_packed_with_its_class_folders(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("ants/1.jpg", "bees/deep/2.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(name.encode())
    os.utime(photos / "ants/1.jpg", (0, 0))  # older than zip can say

    with archives.archive(photos) as path:
        assert path.name == "photos.zip"
        with zipfile.ZipFile(path) as packed:
            assert {name: packed.read(name) for name in packed.namelist()} == {
                "ants/1.jpg": b"ants/1.jpg",
                "bees/deep/2.jpg": b"bees/deep/2.jpg",
            }
    assert not path.exists()


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    given = tmp_path / "photos.tar"
    given.write_bytes(b"x")
    with archives.archive(given) as path:
        assert path == given
    assert given.exists()


def test_what_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not exist"), archives.archive(tmp_path / "none"):
        pass
    with pytest.raises(Refused, match="holds no files"), archives.archive(tmp_path):
        pass
