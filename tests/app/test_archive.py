"""Archives: where the class folders are found, and what is refused."""

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from app import errors
from app.datasets import archive
from app.datasets.archive import Layout
from app.datasets.entries import Limits, Misplaced
from tests import factories

LIMITS = Limits(max_total_bytes=1 << 40, max_file_bytes=1000, max_entries=1000)


def layout_of(path: Path, limits: Limits = LIMITS) -> Layout:
    return archive.lay_out(archive.open_archive(path, limits).entries(), limits)


def labels_of(path: Path) -> dict[str, tuple[str, str | None]]:
    opened = archive.open_archive(path, LIMITS)
    layout = archive.lay_out(opened.entries(), LIMITS)
    return {
        entry.path: (layout.placed[entry.position].label, layout.placed[entry.position].split)
        for entry in opened.entries()
        if entry.position in layout.placed
    }


def zip_of_unmarked(name: bytes, extra: bytes = b"") -> bytes:
    """A zip with one file of this name, which does not say how names are encoded."""
    placeholder = "x" * len(name)
    listed = zipfile.ZipInfo(placeholder)
    listed.extra = extra
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        packed.writestr(listed, b"1")
    return written.getvalue().replace(placeholder.encode(), name)


@pytest.mark.parametrize("pack", [factories.zip_of, factories.tar_of])
@pytest.mark.parametrize("root", ["", "photos/", "./deep/er/"])
def test_classes_are_the_folders_where_paths_first_differ(tmp_path: Path, pack: factories.Pack, root: str) -> None:
    path = pack(tmp_path, {f"{root}ants/a.jpg": b"1", f"{root}ants/more/b.jpg": b"2", f"{root}bees/c.jpg": b"3"})

    assert sorted(label for label, _ in labels_of(path).values()) == ["ants", "ants", "bees"]


@pytest.mark.parametrize("labels", [("ants",), ("ants", "bees")])
def test_folders_that_are_listed_around_those_of_the_files_are_no_classes(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    listed = ["deep/", "deep/er/", *(f"deep/er/{label}/{name}" for label in labels for name in ("", "a.jpg"))]
    layout = layout_of(factories.zip_of(tmp_path, dict.fromkeys(listed, b"")))
    assert (layout.labels, layout.empty, layout.misplaced) == (labels, (), ())

    layout = layout_of(factories.zip_of(tmp_path, dict.fromkeys([*listed, "deep/er/wasps/"], b"")))
    assert (layout.labels, layout.empty) == (labels, ("wasps",))


def test_a_class_has_folders_of_its_own_where_that_around_it_is_listed(tmp_path: Path) -> None:
    listed = ["photos/", "photos/ants/", "photos/ants/1.jpg", "photos/ants/more/", "photos/ants/more/2.jpg"]
    layout = layout_of(factories.zip_of(tmp_path, dict.fromkeys(listed, b"")))
    assert (layout.labels, layout.misplaced) == (("ants",), ())


def test_train_and_val_folders_are_splits_and_the_classes_are_below(tmp_path: Path) -> None:
    files = {f"set/{split}/{label}/x.jpg": b"1" for split in ("train", "val") for label in ("ants", "bees")}

    assert set(labels_of(factories.zip_of(tmp_path, files)).values()) == {
        ("ants", "train"),
        ("bees", "train"),
        ("ants", "validation"),
        ("bees", "validation"),
    }


def test_a_class_that_happens_to_be_called_train_stays_a_class(tmp_path: Path) -> None:
    path = factories.zip_of(tmp_path, {"train/a.jpg": b"1", "plane/b.jpg": b"2"})

    assert sorted(labels_of(path).values()) == [("plane", None), ("train", None)]


def test_litter_of_operating_systems_is_ignored_and_counted(tmp_path: Path) -> None:
    files = {"a/1.jpg": b"1", "b/2.jpg": b"2", "a/.DS_Store": b"x", "__MACOSX/a/._1.jpg": b"x", "b/Thumbs.db": b"x"}
    layout = layout_of(factories.zip_of(tmp_path, files))

    assert layout.labels == ("a", "b")
    assert layout.ignored == 3


def test_a_file_outside_of_class_folders_is_refused_alone(tmp_path: Path) -> None:
    layout = layout_of(factories.zip_of(tmp_path, {"readme.txt": b"x", "a/1.jpg": b"1", "b/2.jpg": b"2"}))

    assert [(item.path, item.code) for item in layout.misplaced] == [("readme.txt", "no_class_folder")]
    assert layout.labels == ("a", "b")


@pytest.mark.parametrize("pack", [factories.zip_of, factories.tar_of])
@pytest.mark.parametrize("evil", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "C:/windows/x.jpg", "..\\up.jpg"])
def test_a_path_that_leads_out_refuses_the_archive(tmp_path: Path, pack: factories.Pack, evil: str) -> None:
    path = pack(tmp_path, {"a/1.jpg": b"1", evil: b"2"})

    with pytest.raises(errors.BadArchive) as caught:
        layout_of(path)
    assert caught.value.code == "unsafe_path"
    assert evil.replace("\\", "") in caught.value.message.replace("\\", "")


def test_an_empty_class_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = factories.zip_of(tmp_path, {"a/1.jpg": b"1", "b/2.jpg": b"2", "wasps/": b""})

    with pytest.raises(errors.BadArchive, match="'wasps'") as caught:
        archive.check_classes(layout_of(path), known=())
    assert caught.value.code == "empty_class"
    assert " of class 'wasps'" in caught.value.message
    assert " of classes 'ants', 'bees'" in archive.empty_class(["ants", "bees"], "no image", "look").message


def test_a_folder_with_nothing_but_what_systems_leave_is_empty(tmp_path: Path) -> None:
    photos = ("set/ants/a.jpg", "set/bees/b.jpg")
    left = (
        "set/.DS_Store",
        "set/ants/Thumbs.db",
        "set/bees/.thumbs/b.jpg",
        "set/wasps/desktop.ini",
        "set/flies/.thumbs/small/f.jpg",
        "set/hornets/old/.thumbs/h.jpg",
        "__MACOSX/set/._f",
        "__MACOSX/set/moths/._m",
        "tools/hooks/.git/config",
    )
    layout = layout_of(factories.zip_of(tmp_path, dict.fromkeys((*photos, *left), b"x")))
    empty = ("flies", "hornets", "wasps")
    assert (layout.labels, layout.empty, layout.misplaced) == (("ants", "bees"), empty, ())


@pytest.mark.parametrize("around", ["data/", "data/.DS_Store", None])
def test_a_file_beside_the_folders_of_the_classes_makes_no_class_of_theirs(tmp_path: Path, around: str | None) -> None:
    files = ["data/flowers/LICENSE.txt", "data/flowers/rose/1.jpg", "data/flowers/tulip/2.jpg"]
    layout = layout_of(factories.zip_of(tmp_path, dict.fromkeys([*([around] if around else []), *files], b"x")))
    assert (layout.labels, layout.empty) == (("rose", "tulip"), ())
    assert [found.path for found in layout.misplaced] == files[:1]


def test_one_class_is_an_error_unless_the_dataset_has_others(tmp_path: Path) -> None:
    layout = layout_of(factories.zip_of(tmp_path, {"photos/ants/1.jpg": b"1", "photos/ants/2.jpg": b"2"}))

    assert layout.labels == ("ants",)
    archive.check_classes(layout, known=["bees"])
    with pytest.raises(errors.BadArchive, match="one class only, 'ants'") as caught:
        archive.check_classes(layout, known=["ants"])
    assert caught.value.code == "single_class"


@pytest.mark.parametrize(
    ("labels", "known", "told"),
    [
        (["ants", "Ants", "bees"], [], r"the folders of the classes 'Ants' and 'ants' are named the same but for"),
        (["Ants"], ["ants", "bees"], r"class 'Ants' is named as 'ants', which the data set has.* folder to 'ants', or"),
        (["M\u00fcnze"], ["M\u00dcNZE", "bees"], r"class 'Münze' is named as 'MÜNZE'"),
        (["Mu\u0308nze"], ["M\u00dcNZE", "bees"], r"class 'Münze' is named as 'MÜNZE'"),
        (["stra\u00dfe", "STRASSE"], [], r"'STRASSE' and 'straße'"),
    ],
)
def test_labels_that_differ_in_case_alone_are_an_error_that_names_both(
    tmp_path: Path, labels: list[str], known: list[str], told: str
) -> None:
    layout = layout_of(factories.zip_of(tmp_path, {f"photos/{label}/1.jpg": b"1" for label in [*labels, "wasps"]}))

    with pytest.raises(errors.BadArchive, match=told) as caught:
        archive.check_classes(layout, known=known)
    assert caught.value.code == "labels_differ_in_case"
    assert len({*map(str.casefold, caught.value.detail["labels"])}) == 1  # type: ignore[arg-type]


def test_a_data_set_that_has_labels_which_differ_in_case_alone_takes_more_of_them(tmp_path: Path) -> None:
    layout = layout_of(factories.zip_of(tmp_path, {"ants/1.jpg": b"1", "Ants/2.jpg": b"2"}))
    archive.check_classes(layout, known=["Ants", "ants"])


def test_files_without_any_folder_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.BadArchive) as caught:
        archive.check_classes(layout_of(factories.zip_of(tmp_path, {"1.jpg": b"1"})), known=())
    assert caught.value.code == "no_class_folders"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "bad_archive"),
        (b"hello, world " * 100, "not_an_archive"),
        (b"PK\x03\x04" + b"\0" * 500, "broken_archive"),
        (b"\x1f\x8b\x08\x00" + b"\0" * 500, "broken_archive"),
        (gzip.compress(b"hello, world " * 100, mtime=0), "not_an_archive"),
    ],
)
def test_what_is_no_archive_is_told_apart(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)

    with pytest.raises(errors.BadArchive) as caught:
        layout_of(path)
    assert caught.value.code == code


@pytest.mark.parametrize("pack", [factories.zip_of, factories.tar_of])
def test_an_archive_cut_off_anywhere_raises_nothing_unforeseen(tmp_path: Path, pack: factories.Pack) -> None:
    whole = pack(tmp_path, {f"{label}/{i}.jpg": bytes([i]) * 700 for label in "ab" for i in range(3)}).read_bytes()
    path = tmp_path / "cut"
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        try:
            opened = archive.open_archive(path, LIMITS)
            layout = archive.lay_out(opened.entries(), LIMITS)
            list(opened.files(layout.placed))
        except errors.BadArchive:
            continue


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    path = factories.zip_of(tmp_path, {"a/1.jpg": b"1", "b/1.jpg": b"2"})
    content = bytearray(path.read_bytes())
    for place in (content.find(b"PK\x01\x02"), content.rfind(b"PK\x01\x02")):
        content[place + 8] |= 1
    path.write_bytes(content)

    with pytest.raises(errors.BadArchive) as caught:
        layout_of(path)
    assert caught.value.code == "encrypted_archive"


def test_an_archive_that_unpacks_too_large_is_refused_by_its_list(tmp_path: Path) -> None:
    path = factories.zip_of(tmp_path, {"a/1.jpg": b"\0" * 5000, "b/1.jpg": b"\0" * 5000})

    with pytest.raises(errors.BadArchive) as caught:
        layout_of(path, replace(LIMITS, max_total_bytes=9000))
    assert caught.value.code == "archive_unpacks_too_large"


@pytest.mark.parametrize("pack", [factories.zip_of, factories.tar_of])
def test_a_member_over_the_limit_is_refused_alone(tmp_path: Path, pack: factories.Pack) -> None:
    opened = archive.open_archive(pack(tmp_path, {"a/big.jpg": b"x" * 1900, "b/ok.jpg": b"y" * 100}), LIMITS)
    layout = archive.lay_out(opened.entries(), LIMITS)
    found = {entry.path: content for entry, content in opened.files(layout.placed)}

    assert found["b/ok.jpg"] == b"y" * 100
    refused = found["a/big.jpg"]
    assert isinstance(refused, Misplaced)
    assert refused.code == "file_too_large"


def test_a_member_with_a_wrong_checksum_is_refused_alone(tmp_path: Path) -> None:
    path = factories.zip_of(tmp_path, {"a/bad.jpg": b"abcdefgh", "b/ok.jpg": b"ijklmnop"})
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdXfgh"))
    opened = archive.open_archive(path, LIMITS)
    layout = archive.lay_out(opened.entries(), LIMITS)
    found = {entry.path: content for entry, content in opened.files(layout.placed)}

    assert found["b/ok.jpg"] == b"ijklmnop"
    assert isinstance(found["a/bad.jpg"], Misplaced)


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as packed:
        for name in ("a/1.jpg", "b/2.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            packed.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("a/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)

    assert [(item.path, item.code) for item in layout_of(path).misplaced] == [("a/link.jpg", "not_a_file")]


def test_a_zip_of_windows_with_backslashes_has_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("photos\\ants\\1.jpg", b"1")
        packed.writestr("photos\\bees\\2.jpg", b"2")

    assert layout_of(path).labels == ("ants", "bees")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as packed:
        for name in ("caf\xe9/1.jpg", "tea/1.jpg"):
            packed.addfile(tarfile.TarInfo(name))
    with pytest.raises(errors.BadArchive) as refusal:
        layout_of(path)
    assert refusal.value.code == "name_not_text"
    assert "caf\\udce9" in refusal.value.message


@pytest.mark.parametrize(
    ("stored", "read"),
    [("grün".encode(), "grün"), ("蚂蚁".encode(), "蚂蚁"), ("grün".encode("cp437"), "grün"), (b"green", "green")],
)
def test_names_whose_encoding_a_zip_does_not_say_are_read_as_utf_8_where_they_are(
    tmp_path: Path, stored: bytes, read: str
) -> None:
    path = tmp_path / "linux.zip"
    path.write_bytes(zip_of_unmarked(stored + b"/1.jpg"))

    assert labels_of(path) == {f"{read}/1.jpg": (read, None)}


def test_a_path_in_utf_8_beside_a_name_in_another_encoding_is_taken_if_it_is_of_that_name(tmp_path: Path) -> None:
    path, name = tmp_path / "info-zip.zip", "żółw/1.jpg"
    stored = name.encode("cp852")
    field = struct.pack("<BL", 1, zlib.crc32(stored)) + name.encode()
    other = struct.pack("<HH", 0x5455, 5) + b"\x03abcd"
    path.write_bytes(zip_of_unmarked(stored, other + struct.pack("<HH", 0x7075, len(field)) + field))
    assert labels_of(path) == {name: ("żółw", None)}

    of_another = struct.pack("<BL", 1, zlib.crc32(b"renamed")) + name.encode()
    path.write_bytes(zip_of_unmarked(stored, struct.pack("<HH", 0x7075, len(of_another)) + of_another))
    assert labels_of(path).keys() == {stored.decode("cp437")}

    path.write_bytes(zip_of_unmarked(stored, struct.pack("<HHB", 0x7075, 1, 1)))
    assert labels_of(path).keys() == {stored.decode("cp437")}


def test_a_zip_whose_names_are_not_what_it_says_is_broken(tmp_path: Path) -> None:
    path = factories.zip_of(tmp_path, {"\xe9/1.jpg": b"x", "b/1.jpg": b"x"})
    path.write_bytes(path.read_bytes().replace("\xe9".encode(), b"\xff\xfe"))
    with pytest.raises(errors.BadArchive) as refusal:
        list(archive.open_archive(path, LIMITS).entries())
    assert refusal.value.code == "broken_archive"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_how_far_a_tar_has_been_read_is_told_also_within_a_long_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "photos.tar"
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in {"ants/a.jpg": random.Random(1).randbytes(2_000_000), "bees/b.jpg": b"2"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    told: list[tuple[int, int]] = []
    found = archive.open_archive(path, LIMITS).entries(lambda done, total: told.append((done, total)))
    assert next(found).path == "ants/a.jpg"
    begun = len(told)
    assert next(found).path == "bees/b.jpg"

    assert len(told) - begun >= (1 if mode == "w" else 3)  # of a plain one it is passed over
    assert told == sorted(told)
    assert {total for _, total in told} == {path.stat().st_size}
