"""Data sets over HTTP."""

from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tests.problems import problem


def test_a_dataset_is_created_and_found_again(http: TestClient) -> None:
    created = http.post("/v1/datasets", json={"name": "ants & bees", "validation_fraction": 0.3})

    assert created.status_code == 201
    assert created.headers["location"] == f"/v1/datasets/{created.json()['id']}"
    read = http.get(created.headers["location"])
    assert read.json() == created.json()
    assert read.json()["latest_version"] is None
    assert read.json()["created_at"].endswith("Z")


def test_a_name_is_used_once_and_is_free_again_after_deletion(http: TestClient, dataset_id: str) -> None:
    again = http.post("/v1/datasets", json={"name": "photos"})
    assert problem(again, 409)["code"] == "dataset_name_taken"

    assert http.delete(f"/v1/datasets/{dataset_id}", headers={"If-Match": "*"}).status_code == 204
    assert problem(http.get(f"/v1/datasets/{dataset_id}"), 404)["code"] == "dataset_not_found"
    assert http.post("/v1/datasets", json={"name": "photos"}).status_code == 201


def test_a_name_stands_for_the_id(http: TestClient, dataset_id: str) -> None:
    assert http.get("/v1/datasets/photos").json()["id"] == dataset_id
    assert http.get("/v1/datasets/photos/versions").json()["data"] == []
    http.patch("/v1/datasets/photos", json={"name": "two words"}, headers={"If-Match": "*"})
    assert http.get("/v1/datasets/two%20words").json()["id"] == dataset_id
    assert problem(http.get("/v1/datasets/photos"), 404)["code"] == "dataset_not_found"


def test_a_change_must_name_the_state_it_is_based_on(http: TestClient, dataset_id: str) -> None:
    url = f"/v1/datasets/{dataset_id}"
    etag = http.get(url).headers["etag"]

    assert problem(http.patch(url, json={"name": "x"}), 428)["code"] == "precondition_required"
    changed = http.patch(url, json={"name": "insects"}, headers={"If-Match": etag})
    assert changed.json()["name"] == "insects"
    assert changed.headers["etag"] != etag
    stale = http.patch(url, json={"name": "other"}, headers={"If-Match": etag})
    assert problem(stale, 412)["code"] == "precondition_failed"
    bare = http.patch(url, json={"name": "other"}, headers={"If-Match": "1"})
    assert 'numbers in quotes, such as "1"' in problem(bare, 412)["detail"]
    assert http.get(url).json()["name"] == "insects"


def test_a_request_repeated_with_its_key_creates_once(http: TestClient) -> None:
    def create(name: str) -> tuple[int, str]:
        answer = http.post("/v1/datasets", json={"name": name}, headers={"Idempotency-Key": "k1"})
        return answer.status_code, answer.json().get("id", answer.json().get("code"))

    first = create("once")
    assert create("once") == first
    assert create("other") == (422, "idempotency_key_reused")
    assert len(http.get("/v1/datasets").json()["data"]) == 1


def test_lists_are_paged_newest_first(http: TestClient) -> None:
    for number in range(5):
        http.post("/v1/datasets", json={"name": f"set {number}"})
    seen, after = [], None
    while True:
        page = http.get("/v1/datasets", params={"limit": 2, **({"after": after} if after else {})}).json()
        seen += [row["name"] for row in page["data"]]
        if not page["has_more"]:
            break
        after = page["data"][-1]["id"]

    assert seen == [f"set {number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("list_path", ["datasets", "datasets/photos/imports", "jobs", "models", "experiments"])
def test_a_cursor_that_is_none_of_the_list_is_refused(http: TestClient, dataset_id: str, list_path: str) -> None:
    for after in ("nope", "aa", "", f"item_{dataset_id[3:]}", dataset_id.upper()):
        found = problem(http.get(f"/v1/{list_path}", params={"after": after}), 422)
        assert [place["location"] for place in found["errors"]] == [["query", "after"]]


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".", "..", " a", "a ", "a\nb", "a\x7fb"])
def test_a_name_that_could_not_stand_in_an_address_is_refused(http: TestClient, name: str) -> None:
    found = problem(http.post("/v1/datasets", json={"name": name}), 422)
    assert found["errors"][0]["location"] == ["body", "name"]
    assert found["errors"][0]["message"].startswith("a name ")


@pytest.mark.parametrize("name", ["ants & bees?", "50 %", "...", "Käfer #2"])
def test_every_name_that_is_taken_stands_for_the_id(http: TestClient, name: str) -> None:
    made = http.post("/v1/datasets", json={"name": name}).json()
    assert http.get(f"/v1/datasets/{quote(name, safe='')}").json()["id"] == made["id"]


@pytest.mark.parametrize("body", [{}, {"name": None}, {"name": None, "description": None}])
def test_a_change_of_nothing_is_refused(http: TestClient, dataset_id: str, body: dict[str, None]) -> None:
    url = f"/v1/datasets/{dataset_id}"
    etag = http.get(url).headers["etag"]
    found = problem(http.patch(url, json=body, headers={"If-Match": etag}), 422)
    assert found["errors"][0]["message"] == "give a name, a description, or both"
    assert http.get(url).headers["etag"] == etag


def test_json_that_is_sent_as_something_else_is_told_so(http: TestClient) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = http.post("/v1/datasets", content=b'{"name": "a"}', headers={"Content-Type": media_type})
        found = problem(answer, 422)
        assert found["detail"] == f"body: sent as {media_type}; JSON is sent as Content-Type: application/json"
    no_object = problem(http.post("/v1/datasets", json=[1]), 422)
    assert "Content-Type" not in no_object["detail"]


def test_unknown_and_wrong_fields_are_named(http: TestClient) -> None:
    answer = problem(http.post("/v1/datasets", json={"name": "", "colour": 1, "validation_fraction": 1}), 422)

    assert answer["code"] == "invalid_request"
    assert {tuple(place["location"]) for place in answer["errors"]} == {
        ("body", "name"),
        ("body", "colour"),
        ("body", "validation_fraction"),
    }
    assert "body.colour: no such field" in answer["detail"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"{", "enclosed in double quotes at character 1"), (b'"\xff"', "'utf-8' codec"), (b"1" * 5_000, "4300 digits")],
)
def test_what_is_no_json_is_told_so(http: TestClient, content: bytes, reason: str) -> None:
    told = problem(http.post("/v1/datasets", content=content, headers={"Content-Type": "application/json"}), 422)

    assert told["code"] == "broken_json"
    assert reason in told["detail"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/datasets", {"nam": "x"}, "body.nam: no such field; did you mean name?"),
        (
            "/v1/jobs",
            {"kind": "rank", "candidates": [{"backbon": "x"}]},
            "0.backbon: no such field; did you mean backbone",
        ),
        ("/v1/jobs", {"dataset": "d", "model": "m", "recipie": {}}, "body.recipie: no such field; did you mean recipe"),
    ],
)
def test_a_mistyped_field_is_told_with_those_that_may_be_meant(
    http: TestClient, path: str, body: dict[str, object], said: str
) -> None:
    assert said in problem(http.post(path, json=body), 422)["detail"]


def test_a_data_set_that_is_not_there_is_told_with_those_that_may_be_meant(http: TestClient) -> None:
    for name in ("insects", "flowers", "infects"):
        assert http.post("/v1/datasets", json={"name": name}).status_code == 201
    http.delete("/v1/datasets/infects", headers={"If-Match": "*"})

    document = problem(http.get("/v1/datasets/insect"), 404)

    assert document["detail"] == "no dataset insect; did you mean insects?"
    assert document["nearest"] == ["insects"]
    assert problem(http.get("/v1/datasets/zzz"), 404)["detail"] == "no dataset zzz"


def test_every_error_is_a_problem_document(http: TestClient) -> None:
    assert problem(http.get("/nowhere"), 404)["code"] == "no_such_route"
    refused = http.put("/v1/datasets")
    told = problem(refused, 405)
    assert (told["code"], told["allowed"], refused.headers["allow"]) == (
        "method_not_allowed",
        ["GET", "POST"],
        "GET, POST",
    )
    assert told["detail"] == "PUT is not possible at /v1/datasets, only GET and POST are"
    assert problem(http.get("/v1/plans"), 405)["detail"] == "GET is not possible at /v1/plans, only POST is"
    assert problem(http.post("/static-offline-docs/swagger-ui.css"), 405)["allowed"] == ["GET", "HEAD"]
    large = http.post("/v1/datasets", content=b"[" + b"1," * 600_000, headers={"Content-Type": "application/json"})
    assert problem(large, 413)["status"] == 413


def test_a_dataset_without_photos_has_no_versions(http: TestClient, dataset_id: str) -> None:
    assert http.get(f"/v1/datasets/{dataset_id}/versions").json() == {"data": [], "has_more": False}
    assert problem(http.get(f"/v1/datasets/{dataset_id}/versions/1"), 404)["code"] == "version_not_found"
