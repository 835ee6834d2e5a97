"""Many images are labelled a few at a time, and what is wrong with one is told with its file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client import batches, cli
from client.api import Client
from client.batches import Batch
from client.errors import Problem, Refused
from client.values import Prediction
from tests.client import answering


class Service(answering.Server):
    """Labels each image with what is in it, but for the word of a `refusal`, and keeps how many came together."""

    refusal: str | None = None

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.sizes: list[int] = []
        self.paths: list[str] = []


class _Handler(answering.Handler):
    server: Service

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        images = re.findall(r'name="file".*?\r\n\r\n(\w+) *\r\n', body, re.DOTALL)
        self.server.sizes.append(len(images))
        self.server.paths.append(self.path)
        if self.server.refusal in images:
            self._refuse(images.index(self.server.refusal), len(images))
        else:
            labels = [{"labels": [{"label": image, "probability": 1.0}]} for image in images]
            self.answer(200, json.dumps({"model": "insects", "version": 1, "predictions": labels}).encode())

    def _refuse(self, place: int, count: int) -> None:
        said = {"large": "image {} is over the limit", "broken": "image {}: damaged" if count > 1 else "damaged"}
        detail = said.get(str(self.server.refusal), "too much at once").format(place)
        document = {"status": 422, "detail": detail, "code": "bad_image"}
        if self.server.refusal in said:
            document["image"] = place
        self.answer(422, json.dumps(document).encode(), Content_Type="application/problem+json")


@pytest.fixture
def service() -> Iterator[Service]:
    with answering.serving(Service()) as here:
        yield here


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Twenty files, each with its number in it."""
    paths = [tmp_path / f"{number:02}.jpg" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_text(f"n{number}")
    return paths


def label(prediction: Prediction) -> str:
    return prediction.labels[0].label


def test_images_are_labelled_in_their_order(service: Service, photos: list[Path]) -> None:
    with Client(service.url) as client:
        assert [label(found) for found in client.predict("insects", photos)] == [f"n{number}" for number in range(20)]
    assert service.sizes == [16, 4]


@pytest.mark.parametrize("count", [17, 20])
@pytest.mark.parametrize(("refusal", "told"), [("broken", ": damaged"), ("large", " is over the limit")])
def test_what_is_wrong_with_one_of_many_is_told_with_its_file_after_the_labels_of_those_before(
    service: Service, photos: list[Path], count: int, refusal: str, told: str
) -> None:
    photos[16].write_text(refusal)
    service.refusal = refusal
    labels: list[str] = []
    with Client(service.url) as client, pytest.raises(Problem) as problem:
        labels.extend(map(label, client.predict("insects", photos[:count])))
    assert labels == [f"n{number}" for number in range(16)]
    assert str(problem.value) == f"{photos[16]}{told}"
    assert (problem.value.status, problem.value.code, problem.value.document["image"]) == (422, "bad_image", 16)


def test_what_is_wrong_with_none_of_them_names_none(service: Service, photos: list[Path]) -> None:
    service.refusal = "n3"
    with Client(service.url) as client, pytest.raises(Problem, match=r"^too much at once$"):
        list(client.predict("insects", photos))


@pytest.mark.parametrize("places", [[0], [3], [15], [3, 4, 17], [0, 1, 2]])
def test_images_beside_broken_ones_are_labelled_in_their_order(
    service: Service, photos: list[Path], places: list[int]
) -> None:
    for place in places:
        photos[place].write_text("broken")
    service.refusal = "broken"
    with Client(service.url) as client:
        found = [*client.predict_each("insects", photos)]

    told = [str(one) if isinstance(one, Problem) else label(one) for one in found if not isinstance(one, Refused)]
    expected = [f"n{number}" for number in range(20)]
    for place in places:
        expected[place] = f"{photos[place]}: damaged"
    assert told == expected
    assert [one.document["image"] for one in found if isinstance(one, Problem)] == places


@pytest.mark.parametrize("place", [0, 7, 19])
def test_images_beside_one_that_cannot_be_read_are_labelled(service: Service, photos: list[Path], place: int) -> None:
    photos[place].unlink()
    with Client(service.url) as client:
        found = [*client.predict_each("insects", photos)]

    assert str(found[place]).startswith(f"{photos[place]} cannot be read: ")
    assert [label(one) for one in found if isinstance(one, Prediction)] == [f"n{n}" for n in range(20) if n != place]


def graft(service: Service, *asked: str) -> Result:
    return CliRunner().invoke(cli.app, ["predict", "insects", *asked, "--url", service.url])


def test_a_broken_photo_takes_no_others_with_it_and_is_told_apart(service: Service, photos: list[Path]) -> None:
    photos[1].write_text("broken")
    service.refusal = "broken"

    ended = graft(service, *map(str, photos[:3]))

    assert ended.stdout == f"{photos[0]}: n0 100.0 %\n{photos[2]}: n2 100.0 %\n"
    assert ended.stderr == f"Error: {photos[1]}: damaged\n"
    assert ended.exit_code == 1


def test_of_a_folder_the_images_are_labelled(service: Service, photos: list[Path], tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.PNG").write_text("png")
    (more / "a.txt").write_text("text")
    (tmp_path / ".hidden.jpg").write_text("hidden")

    ended = graft(service, str(tmp_path), str(photos[0]))
    nothing = graft(service, str(tmp_path / "none"))
    (more / "a.PNG").unlink()
    empty = graft(service, str(more))

    assert ended.exit_code == 0
    names = [line.partition(":")[0] for line in ended.stdout.splitlines()]
    assert names == [*map(str, photos), str(more / "a.PNG"), str(photos[0])]
    assert nothing.exit_code == 2
    assert (empty.exit_code, empty.stdout) == (1, "")
    assert empty.stderr == f"Error: {more} holds no image, whose name would end with .jpg, .jpeg, .png, .webp\n"


def test_labels_are_told_to_programs_as_json(service: Service, photos: list[Path]) -> None:
    ended = graft(service, *map(str, photos[:2]), "--json", "--threshold", "0.5")

    assert [json.loads(line) for line in ended.stdout.splitlines()] == [
        {
            "file": str(photo),
            "labels": [{"label": f"n{number}", "probability": 1.0}],
            "unknown": None,
            "similarity": None,
        }
        for number, photo in enumerate(photos[:2])
    ]
    assert service.paths == ["/v1/models/insects/predict?top_k=3&threshold=0.5"]


def test_large_images_come_in_requests_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MOST_BYTES", 10)
    sizes = [3, 4, 4, 20, 5, 5]
    paths = [tmp_path / f"{number}.jpg" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"x" * size)
    found = [
        (batch.start, [len(content) for content in batch.contents])
        for batch in batches.batches(paths)
        if isinstance(batch, Batch)
    ]
    assert found == [(0, [3, 4]), (2, [4]), (3, [20]), (4, [5, 5])]
