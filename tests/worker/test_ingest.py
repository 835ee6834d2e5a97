"""The work of an import, in this process: what it does where its archive does not hold still."""

import io
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from app import errors
from app.datasets import store
from tests import factories
from worker.ingest import VersionWritten, ingest
from worker.training.events import Event, Progress
from worker.works import IngestWork


@pytest.fixture
def work(tmp_path: Path) -> IngestWork:
    return IngestWork(
        archive=factories.zip_of(tmp_path, factories.photos(each=4)),
        table=tmp_path / "table.lance",
        versions=(),
        attempt="a1",
        folder=tmp_path / "job",
        validation_fraction=0.25,
        seed=0,
        max_archive_bytes=20_000_000,
        max_archive_entries=1000,
        max_image_bytes=2_000_000,
        max_image_pixels=2_000_000,
    )


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def exchanged(path: Path) -> None:
    factories.zip_of(path.parent, factories.photos(each=4, first_seed=50))


def shortened(path: Path) -> None:
    factories.zip_of(path.parent, factories.photos(each=3))


@pytest.mark.parametrize("change", [damaged, exchanged, shortened])
def test_an_archive_that_changes_between_its_two_readings_is_what_the_job_fails_with(
    work: IngestWork, change: Callable[[Path], None]
) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "check" and event.done == event.total:
            change(work.archive)

    with pytest.raises(errors.BadArchive) as caught:
        ingest(work, emit)
    assert caught.value.code == "archive_changed"


def test_what_is_raised_to_stop_the_job_while_it_writes_comes_out_as_it_is(work: IngestWork) -> None:
    class Stop(Exception):
        pass

    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "write":
            raise Stop

    with pytest.raises(Stop):
        ingest(work, emit)


def test_an_import_that_is_stopped_when_its_version_is_written_leaves_none(work: IngestWork) -> None:
    class Stop(BaseException):
        pass

    def emit(event: Event) -> None:
        if isinstance(event, VersionWritten):
            raise Stop

    with pytest.raises(Stop):
        ingest(work, emit)
    assert list((work.table / "data").iterdir()) == []
    assert list((work.table / "_refs" / "tags").iterdir()) == []
    assert ingest(replace(work, attempt="a2"), lambda _: None).accepted == 8


def test_a_tar_gives_signs_of_life_while_it_is_listed(work: IngestWork, tmp_path: Path) -> None:
    told: list[Event] = []
    packed = factories.tar_of(tmp_path, factories.photos(each=4))
    assert ingest(replace(work, archive=packed), told.append).accepted == 8
    listing = [event for event in told if isinstance(event, Progress) and event.phase == "list"]
    assert listing
    assert told[: len(listing)] == listing


def picture(seed: int) -> Image.Image:
    """Soft blots, as photos have."""
    coarse = random.Random(seed).randbytes(6 * 5 * 3)
    return Image.frombytes("RGB", (6, 5), coarse).resize((200, 150), Image.Resampling.BICUBIC)


def saved(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def splits_by_picture(work: IngestWork, tag: str) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in store.read(work.table, tag).items:
        label, _, name = item.path.partition("/")
        found.setdefault(f"{label} {name[:2]}", set()).add(item.split)
    return found


def test_copies_of_a_picture_come_into_one_split_in_later_imports_too(work: IngestWork) -> None:
    originals = {f"{label}/{number:02}": picture(100 * ord(label) + number) for label in "ab" for number in range(10)}
    copies = {f"{name}-again.jpg": saved(one, 60) for name, one in originals.items()}
    files = {f"{name}.jpg": saved(one, 95) for name, one in originals.items()} | copies
    factories.zip_of(work.archive.parent, files)
    first = ingest(work, lambda _event: None)
    assert first.version is not None

    splits = splits_by_picture(work, first.version.table_tag)
    assert all(len(where) == 1 for where in splits.values())
    assert first.version.counts == {label: {"train": 16, "validation": 4} for label in "ab"}  # of 5 by the fraction

    smaller = {f"{name}-small.jpg": saved(one.resize((100, 75)), 90) for name, one in originals.items()}
    fresh = {f"a/{number}.jpg": saved(picture(number), 90) for number in range(20, 30)}
    factories.zip_of(work.archive.parent, smaller | fresh)
    second = ingest(replace(work, versions=(first.version.table_tag,), attempt="a2"), lambda _event: None)
    assert second.version is not None
    after = splits_by_picture(work, second.version.table_tag)
    assert {name: after[name] for name in splits} == splits
    assert Counter(second.version.counts["a"]) == {"train": 30, "validation": 10}
