"""Data sets over HTTP."""

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


def test_unknown_and_wrong_fields_are_named(http: TestClient) -> None:
    answer = problem(http.post("/v1/datasets", json={"name": "", "colour": 1, "validation_fraction": 1}), 422)

    assert answer["code"] == "invalid_request"
    assert {tuple(place["location"]) for place in answer["errors"]} == {
        ("body", "name"),
        ("body", "colour"),
        ("body", "validation_fraction"),
    }
    assert "body.colour: no such field" in answer["detail"]


def test_every_error_is_a_problem_document(http: TestClient) -> None:
    assert problem(http.get("/nowhere"), 404)["code"] == "no_such_route"
    assert problem(http.put("/v1/datasets"), 405)["code"] == "method_not_allowed"
    broken = http.post("/v1/datasets", content=b"{", headers={"Content-Type": "application/json"})
    assert problem(broken, 422)["code"] == "invalid_request"
    large = http.post("/v1/datasets", content=b"[" + b"1," * 600_000, headers={"Content-Type": "application/json"})
    assert problem(large, 413)["status"] == 413


def test_a_dataset_without_photos_has_no_versions(http: TestClient, dataset_id: str) -> None:
    assert http.get(f"/v1/datasets/{dataset_id}/versions").json() == {"data": [], "has_more": False}
    assert problem(http.get(f"/v1/datasets/{dataset_id}/versions/1"), 404)["code"] == "version_not_found"
