"""Archives made to do harm, and odd ones that are none: refused by name, in little memory, or read as they are."""

import gzip
import io
import lzma
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app import errors
from app.datasets import archive
from app.datasets.entries import Limits, Misplaced
from tests import factories

MIB = 1024 * 1024
LIMITS = Limits(max_total_bytes=1 << 40, max_file_bytes=64 * MIB, max_entries=1000)
RECORDS = {"pax": b"x", "global": b"g", "long name": b"L", "long link": b"K"}
# Reads the archive in a process of its own, whose memory is nobody else's.
READER = """
import pathlib, sys
from app import errors
from app.datasets import archive
from app.datasets.entries import Limits

def most_memory():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

limits, before, code = Limits(1 << 40, 64 << 20, 250_000), most_memory(), "fine"
try:
    opened = archive.open_archive(pathlib.Path(sys.argv[1]), limits)
    layout = archive.lay_out(opened.entries(), limits)
    for _, content in opened.files(layout.placed):
        code = getattr(content, "code", code)
except errors.BadArchive as error:
    code = error.code
print(code, most_memory() - before)
"""


def header(name: str, kind: bytes = b"0", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def record(kind: bytes, content: bytes) -> bytes:
    return header("record", kind, len(content)) + content + bytes(-len(content) % 512)


def contents(path: Path, limits: Limits = LIMITS) -> dict[str, bytes | Misplaced]:
    opened = archive.open_archive(path, limits)
    layout = archive.lay_out(opened.entries(), limits)
    return {entry.path: content for entry, content in opened.files(layout.placed)}


def refusal(path: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(errors.BadArchive) as caught:
        contents(path, limits)
    return caught.value.code


def relisted(path: Path, old_size: int, new_size: int) -> None:
    """Make the list of a zip say that its files of one size have another."""
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", old_size), struct.pack("<L", new_size)))


def huge_record(path: Path) -> str:
    path.write_bytes(gzip.compress(header("a/1.jpg", b"x", 1 << 30)) + 1024 * gzip.compress(bytes(MIB)))
    return "broken_archive"


def zip_that_unpacks_to_more_than_listed(path: Path) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name in ("a/1.jpg", "b/1.jpg"):
            with packed.open(name, "w") as file:
                for _ in range(320):
                    file.write(bytes(MIB))
    relisted(path, 320 * MIB, 1000)
    return "broken_in_archive"


def zip_with_bzip2(path: Path) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("a/1.jpg", bytes(16 * MIB))
    relisted(path, 16 * MIB, 1000)
    return "unsupported_compression"


def xz_with_a_huge_dictionary(path: Path) -> str:
    content = bytearray(lzma.compress(header("a/1.jpg", size=MIB) + bytes(MIB)))
    block, size = 12, 4 * (content[12] + 1)
    assert content[block + 2] == 0x21
    content[block + 4] = 39  # of 3 GiB
    content[block + size - 4 : block + size] = struct.pack("<L", zlib.crc32(content[block : block + size - 4]))
    path.write_bytes(content)
    return "broken_archive"


def zip_with_nothing_but_names(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(17_000):
            packed.writestr(zipfile.ZipInfo(f"{number}/\U0001f600" + "x" * 1000), b"")
    return "too_many_entries"


BOMBS: list[Callable[[Path], str]] = [
    huge_record,
    zip_that_unpacks_to_more_than_listed,
    zip_with_bzip2,
    xz_with_a_huge_dictionary,
    zip_with_nothing_but_names,
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="how much memory was used is read from /proc")
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_an_archive_made_to_fill_the_memory_is_refused_in_little_of_it(
    tmp_path: Path, bomb: Callable[[Path], str]
) -> None:
    path = tmp_path / "bomb"
    expected = bomb(path)
    read = subprocess.run([sys.executable, "-c", READER, path], capture_output=True, text=True, check=True)
    code, used = read.stdout.split()

    assert code == expected
    assert int(used) < 300 * MIB


@pytest.mark.parametrize("kind", RECORDS.values(), ids=RECORDS)
def test_a_tar_whose_records_are_longer_than_any_name_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "long.tar"
    path.write_bytes(header("a/1.jpg", kind, 64 * 1024 + 1) + bytes(MIB))

    assert refusal(path) == "broken_archive"


def test_a_tar_with_records_upon_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.tar"
    path.write_bytes(record(b"g", b"18 comment=abcdef\n") * 8 + header("a/1.jpg") + header("b/1.jpg"))
    assert contents(path) == {"a/1.jpg": b"", "b/1.jpg": b""}

    path.write_bytes(record(b"g", b"18 comment=abcdef\n") * 9 + header("a/1.jpg") + header("b/1.jpg"))
    assert refusal(path) == "broken_archive"


def test_what_a_compressed_tar_unpacks_to_counts_whatever_its_entries_say(tmp_path: Path) -> None:
    path = tmp_path / "records.tar.gz"
    path.write_bytes(gzip.compress((record(b"g", bytes(0)) + header("a/1.jpg") + header("b/1.jpg")) * 300))

    assert refusal(path, replace(LIMITS, max_total_bytes=100_000)) == "archive_unpacks_too_large"


@pytest.mark.parametrize("pack", [factories.zip_of, factories.tar_of])
def test_an_archive_of_more_entries_than_allowed_is_refused(tmp_path: Path, pack: factories.Pack) -> None:
    path = pack(tmp_path, {f"{number % 2}/{number}.jpg": b"" for number in range(11)})

    assert len(contents(path, replace(LIMITS, max_entries=11))) == 11
    assert refusal(path, replace(LIMITS, max_entries=10)) == "too_many_entries"


def test_the_entries_of_a_zip_are_counted_and_not_believed(tmp_path: Path) -> None:
    path = factories.zip_of(tmp_path, {f"{number % 2}/{number}.jpg": b"" for number in range(11)})
    content = bytearray(path.read_bytes())
    content[-14:-10] = struct.pack("<HH", 1, 1)
    path.write_bytes(content)

    assert refusal(path, replace(LIMITS, max_entries=10)) == "too_many_entries"


@pytest.mark.parametrize("start", [1 << 20, (1 << 63) - 4096, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_file_whose_place_is_outside_the_zip_is_refused_alone(tmp_path: Path, start: int) -> None:
    files = {f"{label}/{number}.jpg": label.encode() * 700 for label in "ab" for number in range(2)}
    path = factories.zip_of(tmp_path, files)
    with zipfile.ZipFile(path) as packed:
        list_start, first = packed.start_dir, packed.infolist()[0].filename
    content = bytearray(path.read_bytes())
    # The first line of the list says that its place is in the larger form, which comes after the name.
    extra = struct.pack("<HHQ", 1, 8, start)
    struct.pack_into("<H", content, list_start + 30, len(extra))
    struct.pack_into("<L", content, list_start + 42, 0xFFFFFFFF)
    content[list_start + 46 + len(first) : list_start + 46 + len(first)] = extra
    list_size = len(content) - 22 - list_start
    struct.pack_into("<L", content, len(content) - 10, list_size)
    path.write_bytes(content)

    found = contents(path)
    refused = found.pop(first)
    assert isinstance(refused, Misplaced)
    assert refused.code == "broken_in_archive"
    assert found == {name: packed for name, packed in files.items() if name != first}


@pytest.mark.parametrize("name", ["a/" * 33 + "1.jpg", "a/" + "x" * 1030])
@pytest.mark.parametrize("pack", [factories.zip_of, factories.tar_of])
def test_paths_without_end_are_refused(tmp_path: Path, pack: factories.Pack, name: str) -> None:
    assert refusal(pack(tmp_path, {"b/1.jpg": b"", name: b""})) == "path_too_long"


@pytest.mark.parametrize("attributes", [{"GNU.sparse.map": "a,b"}, {"GNU.sparse.major": "x", "GNU.sparse.name": "a/s"}])
def test_sparse_files_are_refused_alone_whatever_their_map_says(tmp_path: Path, attributes: dict[str, str]) -> None:
    path = tmp_path / "sparse.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as packed:
        for name in ("a/1.jpg", "b/1.jpg"):
            packed.addfile(tarfile.TarInfo(name))
        sparse = tarfile.TarInfo("a/sparse.jpg")
        sparse.pax_headers = attributes
        packed.addfile(sparse)
    opened = archive.open_archive(path, LIMITS)

    assert [item.code for item in archive.lay_out(opened.entries(), LIMITS).misplaced] == ["not_a_file"]


@pytest.mark.parametrize(
    "attributes", [b"0 path=a\n", b"8 path=a\n", b"x path=a\n", b"12 size=1e3\n", b"12 path=abcd", b"99999999999 a=b\n"]
)
def test_attributes_that_cannot_be_read_break_the_tar(tmp_path: Path, attributes: bytes) -> None:
    path = tmp_path / "odd.tar"
    path.write_bytes(record(b"x", b"11 path=ab\n" + attributes) + header("a/1.jpg"))

    assert refusal(path) == "broken_archive"


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_tar_is_read_as_it_was_written(tmp_path: Path, format_: int, mode: str) -> None:
    names = ["käfer/1.jpg", "käfer/" + "n" * 90, "d" * 90 + "/" + "e" * 60 + "/1.jpg", "PK/1.jpg"]
    if format_ != tarfile.USTAR_FORMAT:
        names.append("f" * 300 + "/" + "蟻" * 60)
    files = {name: random.Random(name).randbytes(size) for size, name in enumerate(names, start=511)}
    path = tmp_path / "whole.tar"
    with tarfile.open(path, mode, format=format_) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))

    assert contents(path) == files


def test_gzip_files_one_after_another_are_one_tar(tmp_path: Path) -> None:
    plain = header("a/1.jpg", size=3) + b"abc".ljust(512, b"\0") + header("b/1.jpg") + bytes(1024)
    path = tmp_path / "pieces.tar.gz"
    path.write_bytes(b"".join(gzip.compress(plain[at : at + 100]) for at in range(0, len(plain), 100)))

    assert contents(path) == {"a/1.jpg": b"abc", "b/1.jpg": b""}


def test_a_tar_that_begins_as_a_zip_or_ends_as_one_is_a_tar(tmp_path: Path) -> None:
    inner = factories.zip_of(tmp_path, {"c/1.jpg": b"1", "d/1.jpg": b"2"}).read_bytes()
    path = tmp_path / "both.tar"
    path.write_bytes(header("PK/1.jpg") + header("b/2.zip", size=len(inner)) + inner)
    path.write_bytes(path.read_bytes() + bytes(-len(inner) % 512))

    assert contents(path) == {"PK/1.jpg": b"", "b/2.zip": inner}


def zips() -> Iterator[tuple[str, bytes, dict[str, bytes]]]:
    files = {"a/1.jpg": b"1" * 5000, "b/käfer.jpg": b"2" * 300, "b/empty.jpg": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for zip64 in (False, True):
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", method) as packed:
                packed.comment = b"PK\x05 a comment"
                for name, content in files.items():
                    with packed.open(name, "w", force_zip64=zip64) as file:
                        file.write(content)
            yield f"{method}-{zip64}", buffer.getvalue(), files
            yield f"{method}-{zip64}-after a program", b"MZ" + bytes(999) + buffer.getvalue(), files


@pytest.mark.parametrize(("content", "files"), [(c, f) for _, c, f in zips()], ids=[name for name, _, _ in zips()])
def test_every_kind_of_zip_is_read_as_it_was_written(tmp_path: Path, content: bytes, files: dict[str, bytes]) -> None:
    path = tmp_path / "whole.zip"
    path.write_bytes(content)

    assert contents(path) == files


def test_a_zip_whose_count_of_files_is_in_the_larger_form_has_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # for 65,535 files, which take long to write
    files = {f"{number % 2}/{number}": bytes(number) for number in range(9)}
    path = factories.zip_of(tmp_path, files)

    assert b"PK\x06\x06" in path.read_bytes()
    assert contents(path) == files
    assert refusal(path, replace(LIMITS, max_entries=8)) == "too_many_entries"


@pytest.mark.parametrize("pack", [factories.zip_of, factories.tar_of])
def test_damage_anywhere_raises_nothing_unforeseen(tmp_path: Path, pack: factories.Pack) -> None:
    whole = pack(tmp_path, {f"{label}/{i}.jpg": bytes([i]) * 700 for label in "ab" for i in range(3)}).read_bytes()
    if pack is factories.tar_of:
        whole = gzip.decompress(whole)
    path, chance = tmp_path / "damaged", random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(3):
            at = chance.choice([chance.randrange(len(content)), chance.randrange(600), -1 - chance.randrange(300)])
            content[at] = chance.choice([0, 1, 0x80, 0xFF, ord("x"), ord("L"), chance.randrange(256)])
        path.write_bytes(content)
        try:
            contents(path)
        except errors.BadArchive:
            continue
