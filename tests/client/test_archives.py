"""Photos on disk become an archive."""

import errno
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import errors
from app.datasets import archive
from app.datasets.entries import Limits
from client import archives
from client.errors import Refused

LIMITS = Limits(max_total_bytes=1 << 20, max_file_bytes=1000, max_entries=100)


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


def good(tmp_path: Path) -> Path:
    """A folder with two classes."""
    photos = tmp_path / "photos"
    for name in ("ants/1.jpg", "bees/2.jpg"):
        (photos / name).parent.mkdir(parents=True)
        (photos / name).write_bytes(name.encode())
    return photos


def packed(photos: Path) -> list[str]:
    with archives.archive(photos) as path, zipfile.ZipFile(path) as found:
        return found.namelist()


def test_a_class_that_is_a_link_to_a_folder_is_packed(tmp_path: Path) -> None:
    photos, elsewhere = good(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3.jpg").write_bytes(b"wasp")
    (photos / "wasps").symlink_to(elsewhere)
    (photos / "wild bees").symlink_to(photos / "bees")

    assert packed(photos) == ["ants/1.jpg", "bees/2.jpg", "wasps/3.jpg", "wild bees/2.jpg"]


def test_links_that_lead_round_in_a_circle_or_to_nothing_are_refused(tmp_path: Path) -> None:
    photos = good(tmp_path)
    (photos / "ants" / "all").symlink_to(photos)
    with pytest.raises(Refused, match="ants/all is a link to a folder that it lies in"):
        packed(photos)
    (photos / "ants" / "all").unlink()
    (photos / "ants" / "gone.jpg").symlink_to(tmp_path / "none")
    with pytest.raises(Refused, match=r"ants/gone\.jpg is no file that can be read"):
        packed(photos)


def test_an_empty_class_folder_is_sent_for_the_service_to_see(tmp_path: Path) -> None:
    photos = good(tmp_path)
    (photos / "wasps").mkdir()
    (photos / "hornets").mkdir()
    (photos / "hornets" / ".DS_Store").write_bytes(b"x")
    (photos / "flies").mkdir()
    (photos / "flies" / "Thumbs.db").write_bytes(b"x")
    (photos / "moths" / ".thumbs").mkdir(parents=True)
    (photos / "moths" / ".thumbs" / "1.jpg").write_bytes(b"x")
    (photos / ".hidden").mkdir()
    with archives.archive(photos) as path:
        opened = archive.open_archive(path, LIMITS)
        with pytest.raises(errors.BadArchive, match="of classes 'flies', 'hornets', 'moths', 'wasps'") as caught:
            archive.check_classes(archive.lay_out(opened.entries(), LIMITS), known=())
    assert caught.value.code == "empty_class"


def test_a_class_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, listed = good(tmp_path), Path.iterdir

    def refusing(folder: Path) -> Iterator[Path]:  # for rights, which nobody can take from one who may read all
        if folder.name == "bees":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return iter(listed(folder))

    monkeypatch.setattr(Path, "iterdir", refusing)
    with pytest.raises(Refused, match=r"cannot be packed for the upload: .*Permission denied: .*bees"):
        packed(photos)


def test_a_photo_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    photos = good(tmp_path)
    (photos / "ants" / "2.jpg").symlink_to("/proc/self/mem")  # which nobody can read from its beginning
    with pytest.raises(Refused, match=r"cannot be packed for the upload: .*error"):
        packed(photos)


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_has_a_name_that_is_no_text_is_refused(tmp_path: Path, is_folder: bool) -> None:
    photos = good(tmp_path)
    path = Path(os.fsdecode(os.fsencode(photos / "ants") + b"/gr\xfcn"))
    if is_folder:
        path.mkdir()
    else:
        path.write_bytes(b"ant")
    with pytest.raises(Refused, match="has a name that is not UTF-8 text"):
        packed(photos)


def test_where_there_is_no_room_for_a_copy_it_is_said_where_it_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(Refused, match=r"No space left on device; a copy has to fit into .* TMPDIR names"):
        packed(good(tmp_path))
