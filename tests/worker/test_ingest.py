"""The work of an import, in this process: what it does where its archive does not hold still."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app import errors
from tests import factories
from worker.ingest import ingest
from worker.training.events import Event, Progress
from worker.works import IngestWork


@pytest.fixture
def work(tmp_path: Path) -> IngestWork:
    return IngestWork(
        archive=factories.zip_of(tmp_path, factories.photos(each=4)),
        table=tmp_path / "table.lance",
        versions=(),
        attempt="a1",
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
