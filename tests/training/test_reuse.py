"""Features of images that an earlier version had, too."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.training import samples
from tests.training.samples import Recorder, Stopped
from tests.training.test_features import LABELS, CountedImages, cache_file, equal, extract, extractor
from worker.training import precision, reuse, runtime, tablefile
from worker.training.data import Splits
from worker.training.events import FeaturesReady, Progress
from worker.training.features import Extractor, Features
from worker.training.reuse import Known
from worker.training.tablefile import Draft

__all__ = ["extractor"]  # a fixture

FILES = [file for file, _ in samples.colours(10)]
NAMES = np.arange(24, dtype=np.uint8).reshape(6, 4)
VALUES = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there are more images than here."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(runtime, "LEAST_IMAGES", 1)
    monkeypatch.setattr(reuse, "_WORTHWHILE", 1)


def version(train: range, validation: range) -> Splits:
    """Of some of the files."""
    parts = [CountedImages(tuple(FILES[place] for place in part), np.array(part) % 2) for part in (train, validation)]
    return Splits(LABELS, *parts)


def read(splits: Splits, extractor: Extractor, folder: Path) -> tuple[Features, FeaturesReady, list[list[int]]]:
    """The features, what is told of them, and which images of each split were read for them."""
    told = Recorder()
    found = extract(splits, extractor, folder, told)
    (ready,) = told.of(FeaturesReady)
    done = [event.done for event in told.of(Progress)]
    assert done == sorted(done)
    assert not done or done[-1] == ready.images
    reads = [images.reads for images in (splits.train, splits.validation) if isinstance(images, CountedImages)]
    return found, ready, reads


def test_of_a_version_that_has_grown_only_the_new_images_are_read(extractor: Extractor, tmp_path: Path) -> None:
    _, first, _ = read(version(range(10), range(10, 14)), extractor, tmp_path / "cache")
    found, ready, reads = read(version(range(10), range(10, 18)), extractor, tmp_path / "cache")
    assert reads == [[], [4, 5, 6, 7]]
    assert (ready.images, ready.reused, ready.cached) == (18, 14, False)
    assert first.pass_seconds < ready.pass_seconds
    fresh, _, _ = read(version(range(10), range(10, 18)), extractor, tmp_path / "fresh")
    assert equal(found, fresh)


def test_of_a_version_with_fewer_images_none_is_read(extractor: Extractor, tmp_path: Path) -> None:
    whole, _, _ = read(version(range(10), range(10, 14)), extractor, tmp_path)
    found, ready, reads = read(version(range(2, 7), range(11, 14)), extractor, tmp_path)
    assert reads == [[], []]
    assert (ready.images, ready.reused, ready.cached) == (8, 8, True)
    assert np.array_equal(found.train[:], whole.train[2:7])
    assert np.array_equal(found.validation[:], whole.validation[1:])


def test_rounded_features_are_not_taken_for_exact_ones(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the other way round: what a training is fitted to does not depend on what there was before."""
    monkeypatch.setattr(precision, "is_half_quicker", lambda _device: True)
    read(version(range(10), range(10, 14)), extractor, tmp_path)
    _, ready, reads = read(version(range(1, 11), range(11, 15)), extractor, tmp_path)
    assert reads == [[9], [3]]
    _, ready, reads = read(version(range(10), range(9, 14)), extractor, tmp_path)
    assert (ready.reused, reads) == (13, [[], [0]])


def test_few_images_that_go_through_together_are_all_read(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "LEAST_IMAGES", 100)
    read(version(range(10), range(10, 14)), extractor, tmp_path)
    _, ready, reads = read(version(range(10), range(10, 18)), extractor, tmp_path)
    assert (ready.reused, reads) == (0, [[*range(10)], [*range(8)]])


def test_a_damaged_file_is_not_used(extractor: Extractor, tmp_path: Path) -> None:
    read(version(range(10), range(10, 14)), extractor, tmp_path)
    content = bytearray(cache_file(tmp_path).read_bytes())
    content[-1000] ^= 1
    cache_file(tmp_path).write_bytes(content)
    _, ready, reads = read(version(range(10), range(10, 18)), extractor, tmp_path)
    assert (ready.reused, reads) == (0, [[*range(10)], [*range(8)]])


def test_several_versions_may_have_the_images_of_one(extractor: Extractor, tmp_path: Path) -> None:
    read(version(range(4), range(10, 12)), extractor, tmp_path)
    read(version(range(4, 8), range(12, 14)), extractor, tmp_path)
    _, ready, reads = read(version(range(9), range(10, 14)), extractor, tmp_path)
    assert (ready.reused, reads) == (12, [[8], []])


def stop(splits: Splits, extractor: Extractor, folder: Path, *, done: int) -> None:
    """Begin to compute the features of `splits`, and stop when so many are there."""
    with pytest.raises(Stopped):
        extract(splits, extractor, folder, Recorder(stop_at=Progress("features", done, len(FILES))))


def test_a_pass_that_is_stopped_again_and_again_goes_on_where_it_was(extractor: Extractor, tmp_path: Path) -> None:
    stop(version(range(14), range(14, 20)), extractor, tmp_path / "parts", done=6)
    stop(version(range(14), range(14, 20)), extractor, tmp_path / "parts", done=14)
    splits = version(range(14), range(14, 20))
    found, ready, reads = read(splits, extractor, tmp_path / "parts")
    assert reads == [[8, 9, 10, 11, 12, 13], []]
    assert (ready.images, ready.reused, ready.cached) == (20, 14, False)
    assert ready.seconds < ready.pass_seconds
    assert cache_file(tmp_path / "parts").suffixes == [".safetensors"]
    whole, _, _ = read(splits, extractor, tmp_path / "whole")
    assert equal(found, whole)


def test_a_pass_that_is_stopped_keeps_what_it_has_of_others(extractor: Extractor, tmp_path: Path) -> None:
    read(version(range(4), range(14, 20)), extractor, tmp_path)
    stop(version(range(14), range(14, 20)), extractor, tmp_path, done=18)
    (older,) = (path for path in tmp_path.iterdir() if "unfinished" not in path.name)
    older.unlink()
    _, ready, reads = read(version(range(14), range(14, 20)), extractor, tmp_path)
    assert (ready.reused, reads) == (18, [[12, 13], []])


def test_what_a_pass_that_was_stopped_has_left_is_not_used_where_it_is_damaged(
    extractor: Extractor, tmp_path: Path
) -> None:
    stop(version(range(14), range(14, 20)), extractor, tmp_path, done=14)
    content = bytearray(cache_file(tmp_path).read_bytes())
    content[-1000] ^= 1
    cache_file(tmp_path).write_bytes(content)
    _, ready, _ = read(version(range(14), range(14, 20)), extractor, tmp_path)
    assert ready.reused == 0


def test_a_pass_that_is_stopped_with_few_features_or_on_a_full_disk_leaves_nothing(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = version(range(14), range(14, 20))
    for limit, least in (("_WORTHWHILE", 7), ("_LEAST_SHARE", 7 / 20)):
        with monkeypatch.context() as patched:
            patched.setattr(reuse, limit, least)
            stop(splits, extractor, tmp_path, done=6)
        assert list(tmp_path.iterdir()) == []

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    stop(splits, extractor, tmp_path, done=14)
    assert list(tmp_path.iterdir()) == []


def written(path: Path, rows: slice) -> Path:
    with Draft(path, tell=pytest.fail) as draft:
        draft.create(NAMES[rows], {"values": 2})["values"][:] = VALUES[rows]
        draft.publish(seconds=len(NAMES[rows]))
    return path


def known(path: Path, files: list[Path]) -> Known:
    with Draft(path, tell=pytest.fail) as draft:
        found = Known(draft, NAMES)
        found.take_from(files)
    return found


def test_rows_are_taken_from_whoever_has_them_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_ROWS", 2)
    files = [written(tmp_path / name, rows) for name, rows in (("one", slice(3)), ("two", slice(2, 5)))]
    found = known(tmp_path / "new", files)
    assert found.is_there.tolist() == [True] * 5 + [False]
    assert found.seconds == 3 + 2
    assert np.array_equal(found.tables({"values": 2})["values"][:5], VALUES[:5])
    assert known(tmp_path / "new", files[1:]).is_there.tolist() == [False, False, True, True, True, False]


def test_a_file_is_not_read_for_a_few_rows_unless_they_are_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "_WORTHWHILE", 3)
    most, few = written(tmp_path / "most", slice(4)), written(tmp_path / "few", slice(4, 6))
    assert known(tmp_path / "new", [few, most]).count == 4
    assert known(tmp_path / "new", [most, few]).count == 6


def test_no_more_than_some_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[Path] = []
    monkeypatch.setattr(tablefile, "names_in", looked_at.append)
    known(tmp_path / "new", [tmp_path / str(number) for number in range(20)])
    assert len(looked_at) == 8


def test_a_file_of_other_tables_is_no_help(tmp_path: Path) -> None:
    with Draft(tmp_path / "narrower", tell=pytest.fail) as draft:
        draft.create(NAMES[:, :3], {"values": 2})["values"][:] = VALUES
        draft.publish(seconds=1.0)
    (tmp_path / "none").write_text("nothing of the kind")
    assert known(tmp_path / "new", [tmp_path / "narrower", tmp_path / "none", tmp_path / "gone"]).count == 0
