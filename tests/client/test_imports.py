"""What `graft train` says of the photos that it uploads, with a service that has imported them."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from client import imports
from client.api import Client
from client.connection import Page
from client.values import ClassCounts, Dataset, DatasetVersion, Import, Job, JobError, RefusedFile
from tests.client import answering
from tests.client.test_show import JOB

BROKEN = RefusedFile(1, "ants/1.jpg", "broken_image", "damaged")


class Service(answering.Server):
    """Has imported photos into its data set, whose versions have these labels; unless it has `failed`."""

    failed: JobError | None = None

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.before: list[str] = []
        self.after: list[str] = []
        self.refused: list[RefusedFile] = []

    @property
    def job(self) -> Job:
        result = {"dataset_version": 2, "accepted": 3}
        ended = msgspec.structs.replace(JOB, kind="ingest", state="succeeded", result=result)
        if self.failed is None:
            return ended
        return msgspec.structs.replace(ended, state="failed", result=None, error=self.failed)


class _Handler(answering.Handler):
    server: Service

    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        here, path = self.server, self.path.partition("?")[0]
        if path.endswith("/events"):
            self.answer(200, b"", Content_Type="text/event-stream")
        elif path == "/v1/datasets":
            newest = 1 if here.before else None
            self._answer(Page([Dataset("ds_1", "insects", newest, JOB.created_at)], has_more=False))
        elif path.endswith("/refused"):
            self._answer(Page(here.refused, has_more=False))
        elif "/versions/" in path:
            labels = here.before if path.endswith("/1") else here.after
            self._answer(DatasetVersion(1, labels, {label: ClassCounts(1, 1) for label in labels}, 3))
        else:
            self._answer(here.job)

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(Import("imp_1", "ds_1", self.server.job))

    def _answer(self, value: object) -> None:
        self.answer(200, msgspec.json.encode(value))


@pytest.fixture
def service() -> Iterator[Service]:
    with answering.serving(Service()) as here:
        yield here


def uploaded(service: Service, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that tell of an upload, after the one that names its job."""
    archive = folder / "photos.zip"
    archive.write_bytes(b"photos")
    with Client(service.url) as client:
        imports.photos(client, archive, "insects")
    job, *told = capsys.readouterr().out.splitlines()
    assert job == f"upload {archive}: {JOB.id}"
    return told


def test_labels_that_a_data_set_did_not_have_are_told_those_first_that_may_be_mistyped(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.before = ["ants", "bees"]
    service.after = ["antz", *service.before, "a bug"]

    done, *told = uploaded(service, tmp_path, capsys)

    assert done.endswith("3 images became version 2 of 'insects'")
    assert [line.strip() for line in told] == ["new label 'antz'; did you mean 'ants'?", "new label 'a bug'"]


def test_of_many_new_labels_some_are_told(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.before, service.after = ["ants", "bees"], ["ants", "bees", *(f"{number}" for number in range(11))]

    _, *told = uploaded(service, tmp_path, capsys)

    assert [line.strip() for line in told] == [
        *(f"new label '{number}'" for number in range(10)),
        "and 1 more new label",
    ]


@pytest.mark.parametrize("before", [[], ["ants", "bees"]])
def test_no_label_of_a_new_data_set_or_of_one_that_has_it_is_told_as_new(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], before: list[str]
) -> None:
    service.before, service.after = before, ["ants", "bees"]

    (done,) = uploaded(service, tmp_path, capsys)

    assert done.startswith("✓")


def test_photos_that_are_all_there_are_told_without_a_check_mark(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.before = ["ants", "bees"]
    service.failed = JobError("nothing_new", "nothing new", {})

    (told,) = uploaded(service, tmp_path, capsys)

    assert told.startswith("-")
    assert told.endswith("data set 'insects' has them all")


def test_notes_of_a_step_that_a_program_reads_end_with_their_last_word(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.after, service.refused = ["ants", "bees"], [BROKEN, msgspec.structs.replace(BROKEN, message="damaged, too")]

    told = uploaded(service, tmp_path, capsys)

    assert [line.rstrip() for line in told] == told
    assert [line.strip() for line in told[1:]] == ["refused ants/1.jpg: damaged", "refused ants/1.jpg: damaged, too"]
