"""Photos on disk as an archive that can be uploaded."""

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.errors import Refused


@contextmanager
def archive(photos: Path) -> Iterator[Path]:
    """`photos` itself where it is a file, or a folder of class folders packed into a zip that lasts as the block does.

    Raises `Refused` where there is nothing to pack.
    """
    if photos.is_file():
        yield photos
        return
    if not photos.is_dir():
        raise Refused(
            f"{photos} does not exist; give a folder with a folder of images per class, or a zip or tar of it"
        )
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    if not files:
        raise Refused(f"{photos} holds no files; put the images of each class into a folder named as the class")
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        packed = Path(folder) / f"{photos.name or 'photos'}.zip"
        # Photos are compressed already. A file dated before 1980 is none of zip's business, so it is not refused.
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
            for path in files:
                target.write(path, path.relative_to(photos).as_posix())
        yield packed
