"""What the two databases have in common although they differ."""

from datetime import timedelta

from app.datasets import service
from app.datasets.schemas import DatasetCreate
from app.db import Database, utc_now
from app.jobs import events
from app.jobs.events import Line
from app.jobs.service import Archive, submit_import


def test_the_character_nul_is_replaced_in_texts_and_in_json(database: Database) -> None:
    with database.write() as session:
        dataset = service.create(session, DatasetCreate.model_construct(name="a\0b\udfff"), now=utc_now())
        _, job = submit_import(session, dataset.id, Archive("imp_1", "c\0", 1, "0"), max_attempts=1, now=utc_now())
        events.write(session, job.id, [Line("noted", {"text": "d\0e\\u0000\ud800"})], last=2, attempt=0, now=utc_now())
    with database.read() as session:
        assert service.find(session, dataset.id).name == "a\ufffdb?"
        assert events.after(session, job.id, 1, limit=1)[0].data["text"] == "d\ufffde\\u0000?"


def test_an_archive_may_be_larger_than_four_gibibytes(database: Database) -> None:
    size = 5 * 2**30
    with database.write() as session:
        dataset = service.create(session, DatasetCreate(name="large"), now=utc_now())
        submit_import(session, dataset.id, Archive("imp_1", None, size, "0"), max_attempts=1, now=utc_now())
    with database.read() as session:
        assert service.find_import(session, dataset.id, "imp_1").size_bytes == size


def test_the_time_of_the_database_is_an_aware_one_and_about_now(database: Database) -> None:
    with database.read() as session:
        assert abs(database.now(session) - utc_now()) < timedelta(seconds=5)
