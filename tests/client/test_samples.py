"""Sample photos: the same for the same seed, and of use to an import."""

import random
import zipfile
from pathlib import Path

from app.backbones import preprocess
from client import samples


def test_the_same_seed_draws_the_same_photos(tmp_path: Path) -> None:
    for name, seed in (("a.zip", 1), ("b.zip", 1), ("c.zip", 2)):
        samples.write_archive(tmp_path / name, each=2, seed=seed)

    def photos(name: str) -> dict[str, bytes]:
        with zipfile.ZipFile(tmp_path / name) as packed:
            return {path: packed.read(path) for path in packed.namelist()}

    assert photos("a.zip") == photos("b.zip")
    assert photos("a.zip").keys() == photos("c.zip").keys()
    assert photos("a.zip") != photos("c.zip")
    assert {path.split("/")[0] for path in photos("a.zip")} == set(samples.PATTERNS)


def test_every_pattern_is_an_image_that_an_import_takes() -> None:
    rng = random.Random(0)
    for label in samples.PATTERNS:
        facts = preprocess.inspect(samples.photo(label, rng), max_pixels=samples.SIZE**2)
        assert (facts.format, facts.width, facts.height) == ("JPEG", samples.SIZE, samples.SIZE)
