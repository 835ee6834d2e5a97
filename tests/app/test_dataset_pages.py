"""Pages of data sets, and what is shown of imports."""

import re

import pytest
from fastapi.testclient import TestClient

from app.datasets import service as datasets
from app.datasets.service import Refusal
from app.datasets.tables import Import
from app.db import Database
from app.jobs import leases, service
from tests.app.test_pages import BROWSER, done, links, now, page


def test_an_import_is_shown_with_what_it_refused_but_last_with_what_was_there_already(
    http: TestClient, database: Database, versioned: str
) -> None:
    (job,) = http.get("/v1/jobs").json()["data"]
    url = f"/v1/jobs/{job['id']}"
    assert "refused" not in page(http, url)

    again = [Refusal(f"ants/{number}.jpg", "duplicate", "the same file as 0.jpg") for number in range(30)]
    refuse(database, [*again, Refusal("ants/<b>.jpg", "damaged", "damaged or cut off")])
    found = page(http, url)
    assert "31 files of the archive were refused." in found
    paths = re.findall(r'<td class="text long">(ants/[^<]+)</td>', found)
    assert paths == ["ants/&lt;b&gt;.jpg", *(f"ants/{number}.jpg" for number in range(19))]
    every = f"/v1/datasets/{versioned}/imports/imp_1/refused"
    assert every in links(http, url)
    assert len(http.get(f"{every}?limit=100").json()["data"]) == 31
    assert http.delete(f"/v1/datasets/{versioned}", headers={"If-Match": "*"}).status_code == 204
    assert every not in links(http, url)

    refuse(database, again[:1])
    found = page(http, url)
    assert "1 file of the archive was refused." in found
    assert "as JSON" not in found


def test_what_came_of_an_import_tells_of_refused_files(http: TestClient, database: Database, versioned: str) -> None:
    with database.write() as session:
        archive = service.Archive("imp_2", None, 10, "0" * 64)
        job = service.submit_import(session, versioned, archive, max_attempts=1, now=now())[1].id
    done(database, job, {"dataset_version": 2, "accepted": 3, "refused": 1})
    assert "3 images became version 2, 1 file refused</a>" in page(http, "/")


def refuse(database: Database, refusals: list[Refusal]) -> None:
    with database.write() as session:
        datasets.record_refusals(session, "imp_1", refusals)


def imported(database: Database, dataset_id: str, import_id: str, *, code: str | None = None) -> str:
    """The job of an import, which has failed with this `code`."""
    with database.write() as session:
        archive = service.Archive(import_id, f"{import_id}.zip", 10, "0" * 64)
        job: str = service.submit_import(session, dataset_id, archive, max_attempts=1, now=now())[1].id
        if code is not None:
            claim = leases.claim(session, job, now=now(), lease_seconds=60)
            assert claim is not None
            leases.fail(session, claim, leases.Failure(code, f"because of {code}", {}), now=now())
    return job


def test_imports_that_found_nothing_new_do_not_crowd_out_the_other_jobs(
    http: TestClient, database: Database, versioned: str
) -> None:
    assert "Imports of photos" not in page(http, "/")
    again = [imported(database, versioned, f"again_{number}", code="nothing_new") for number in range(25)]
    broken = imported(database, versioned, "broken", code="damaged_archive")
    found = page(http, "/")
    assert "Imports of photos that were all there already are left out" in found
    shown = re.findall(r'"v1/jobs/(\w+)"', found)
    assert shown[0] == broken
    assert len(shown) == 2
    assert not set(again) & set(shown)
    going_on = imported(database, versioned, "going_on")
    assert re.findall(r'"v1/jobs/(\w+)"', page(http, "/"))[0] == going_on


def test_a_data_set_is_a_page_with_its_labels_and_what_became_of_its_imports(
    http: TestClient, database: Database, versioned: str
) -> None:
    refuse(database, [Refusal("ants/0.jpg", "damaged", "cut off")])
    with database.write() as session:
        found = session.get_one(Import, "imp_1")
        found.refused = 1
    failed = imported(database, versioned, "imp_2", code="nothing_new")
    path = f"/v1/datasets/{versioned}"
    shown = page(http, path)
    assert "Data set photos" in shown
    assert "<pre>graft plan photos\n" in shown
    assert '<tr><td class="text long">ants</td><td>14</td><td>6</td></tr>' in shown
    assert "30 images became version 1" in shown
    assert "because of nothing_new" in shown
    assert "refresh" not in shown
    assert {f"/v1/jobs/{failed}", f"{path}/versions/1", f"{path}/imports/imp_1/refused"} <= links(http, path)

    answer = http.get(path)
    assert (answer.json()["id"], answer.headers["etag"]) == (versioned, http.get(path, headers=BROWSER).headers["etag"])
    imported(database, versioned, "imp_3")
    assert 'http-equiv="refresh"' in page(http, path)


def test_a_data_set_whose_first_import_failed_says_why_it_is_empty(
    http: TestClient, database: Database, dataset_id: str
) -> None:
    path = f"/v1/datasets/{dataset_id}"
    assert "There are no photos in it yet.</strong></p>" in page(http, path)
    assert "graft delete-dataset photos<" in page(http, path)
    assert ">no photos yet<" in page(http, "/")
    imported(database, dataset_id, "imp_1", code="too_few_images")
    assert "What became of its last import: because of too_few_images" in page(http, path)
    assert ">no photos yet: because of too_few_images<" in page(http, "/")


@pytest.mark.parametrize(("name", "called"), [("my photos", "&#39;my photos&#39;"), ("-v", None)])
def test_commands_on_the_page_of_a_data_set_can_be_pasted_whatever_its_name(
    http: TestClient, dataset_id: str, name: str, called: str | None
) -> None:
    http.patch(f"/v1/datasets/{dataset_id}", json={"name": name}, headers={"If-Match": "*"})
    assert f"graft delete-dataset {called or dataset_id}<" in page(http, f"/v1/datasets/{dataset_id}")
