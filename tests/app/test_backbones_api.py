import pytest
from fastapi.testclient import TestClient


def names(http: TestClient, query: str = "") -> list[str]:
    answer = http.get(f"/v1/backbones{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["has_more"] is False
    return [entry["name"] for entry in answer.json()["data"]]


def test_the_catalogue_is_listed_smallest_first(http: TestClient) -> None:
    listed = http.get("/v1/backbones").json()["data"]
    assert len(listed) > 80
    assert [entry["parameters"] for entry in listed] == sorted(entry["parameters"] for entry in listed)
    resnet50 = next(entry for entry in listed if entry["name"] == "resnet50")
    assert [weights["name"] for weights in resnet50["weights"]] == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert resnet50["weights"][1]["preprocessing"]["resize"] == 232
    assert next(entry for entry in listed if entry["name"] == "zfnet")["weights"] == []


def test_networks_are_filtered_and_sorted(http: TestClient) -> None:
    assert names(http, "?family=densenet&sort=-parameters") == [
        "densenet161",
        "densenet201",
        "densenet169",
        "densenet121",
    ]
    assert names(http, "?has_weights=false&max_params=7000000&sort=name") == ["inception_v1", "tinynet"]
    assert names(http, "?max_gmac=0.1&has_weights=true&sort=-top1") == ["mobilenet_v3_small", "shufflenet_v2_x0_5"]


@pytest.mark.parametrize(
    ("query", "code"),
    [("?family=ResNets", "unknown_family"), ("?sort=colour", "invalid_request"), ("?max_params=-1", "invalid_request")],
)
def test_a_filter_that_means_nothing_is_refused(http: TestClient, query: str, code: str) -> None:
    answer = http.get(f"/v1/backbones{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_one_network_is_read_with_its_stages(http: TestClient) -> None:
    read = http.get("/v1/backbones/googlenet").json()
    assert (read["layers"], read["head"], read["source"]) == (22, "fc", "torchvision")
    assert [stage["name"] for stage in read["stages"]][:3] == ["stem", "inception3a", "inception3b"]
    assert read["stages"][2] == {
        "name": "inception3b",
        "channels": 480,
        "size": [14, 14],
        "parameters": 340_224,
        "macs": read["stages"][2]["macs"],
        "receptive_field": read["stages"][2]["receptive_field"],
    }
    assert [head["module"] for head in read["auxiliary"]] == ["aux1", "aux2"]


def test_any_network_of_timm_is_read(http: TestClient) -> None:
    read = http.get("/v1/backbones/timm:resnet26").json()
    assert (read["family"], read["feature_dim"], read["year"]) == ("timm", 2048, None)
    assert read["weights"][0]["hub"] == "timm/resnet26.bt_in1k"


@pytest.mark.parametrize(("name", "nearest"), [("resnet5", "resnet50"), ("timm:resnet2", "timm:resnet26")])
def test_an_unknown_network_is_answered_with_the_nearest_ones(http: TestClient, name: str, nearest: str) -> None:
    answer = http.get(f"/v1/backbones/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_backbone")
    assert nearest in answer.json()["nearest"]


def test_labels_of_weights_are_told_and_matched_by_name(http: TestClient) -> None:
    path = "/v1/backbones/resnet18/weights/IMAGENET1K_V1/labels"
    plain = http.get(path).json()
    assert (len(plain["labels"]), plain["matches"], plain["missing"]) == (1000, None, None)
    found = http.get(path, params={"label": ["Golden_Retriever", "tench", "my cat"]}).json()
    assert found["matches"] == [
        {
            "label": "Golden_Retriever",
            "kind": "moved",
            "index": 0,
            "known_as": "golden retriever",
            "known_indices": [207],
        },
        {"label": "tench", "kind": "moved", "index": 1, "known_as": "tench", "known_indices": [0]},
        {"label": "my cat", "kind": "new", "index": 2, "known_as": None, "known_indices": []},
    ]
    assert found["missing"] == 998


def test_the_labels_of_a_data_set_are_matched(http: TestClient, versioned: str) -> None:
    path = "/v1/backbones/mobilenetv1_100/weights/pretrained/labels"
    found = http.get(path, params={"match": versioned, "label": "bee"}).json()
    assert found["weights"] == "ra4_e3600_r224_in1k"
    kinds = [(match["label"], match["kind"]) for match in found["matches"]]
    assert kinds == [("bee", "moved"), ("ants", "new"), ("bees", "new")]
    assert http.get(path, params={"match": "none"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("resnet18/weights/IMAGENET1K_V2", "unknown_weights"),
        ("zfnet/weights/pretrained", "backbone_has_no_weights"),
        ("resnet/weights/IMAGENET1K_V1", "unknown_backbone"),
        ("formnet/weights/pretrained", "no_labels"),
    ],
)
def test_labels_of_what_is_not_there_are_not_found(http: TestClient, path: str, code: str) -> None:
    answer = http.get(f"/v1/backbones/{path}/labels")
    assert (answer.status_code, answer.json()["code"]) == (404, code)
