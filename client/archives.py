"""Photos on disk as an archive that can be uploaded."""

import errno
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from client.errors import Refused

_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


@contextmanager
def archive(photos: Path) -> Iterator[Path]:
    """`photos` itself where it is a file, or a folder of class folders packed into a zip that lasts as the block does.
    Links are followed; files and folders whose names begin with a dot are left out.

    Raises `Refused` where there is nothing to pack, and where anything of it cannot be read.
    """
    with ExitStack() as stack:
        with _refused_in_words(photos):
            if photos.is_file():
                found = photos
            else:
                listed = _listed(photos)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-"))
                found = _packed(listed, photos, Path(folder))
        yield found


def images(folder: Path) -> list[Path]:
    """The files of images in `folder` and the folders below it, in order, found as by `archive`. Raises `Refused`."""
    try:
        found = [path for path in _below(folder, ()) if path.suffix.lower() in _IMAGES and path.is_file()]
    except OSError as error:
        raise Refused(f"{folder} cannot be read: {error}") from error
    if not found:
        raise Refused(f"{folder} holds no image, whose name would end with {', '.join(_IMAGES)}")
    return found


def folders(photos: Path) -> list[str]:
    """The names of all folders below `photos` that hold something that `archive` would pack, each once. Raises
    `Refused`."""
    with _refused_in_words(photos):
        above = [path.relative_to(photos).parts[:-1] for path in _listed(photos)]
    return [*dict.fromkeys(name for names in above for name in names)]


@contextmanager
def _refused_in_words(photos: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_full = error.errno == errno.ENOSPC
        hint = "; a copy has to fit into the folder for temporary files, which TMPDIR names" if is_full else ""
        raise Refused(f"{photos} cannot be packed for the upload: {error}{hint}") from error


def _listed(photos: Path) -> list[Path]:
    """The files below `photos`, and the folders that have none below them. Raises `Refused` and `OSError`."""
    if not photos.is_dir():
        raise Refused(
            f"{photos} does not exist; give a folder with a folder of images per class, or a zip or tar of it"
        )
    found = list(_below(photos, ()))
    if all(path.is_dir() for path in found):
        raise Refused(f"{photos} holds no files; put the images of each class into a folder named as the class")
    return found


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """`above` are the folders in which it lies, as they are without links."""
    real = folder.resolve()
    if real in above:
        raise Refused(f"{folder} is a link to a folder that it lies in; remove it")
    is_empty = True
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        is_empty = False
        if path.is_dir():
            yield from _below(path, (*above, real))
        elif path.is_file():
            yield path
        else:
            raise Refused(f"{path} is no file that can be read, but a device or a link to nothing; remove it")
    if is_empty and above:
        yield folder


def _packed(listed: list[Path], photos: Path, folder: Path) -> Path:
    """A zip, in `folder`, of what is `listed` of `photos`. An empty folder is in it, too: it may be a class whose
    photos got lost, which is for the service to say. Raises `Refused` and `OSError`."""
    packed = folder / f"{photos.name or 'photos'}.zip"
    # Photos are compressed already. A file dated before 1980 is none of zip's business, so it is not refused.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
        for path in listed:
            name = path.relative_to(photos).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise Refused(f"{path} has a name that is not UTF-8 text; rename it") from error
            target.write(path, name)
    return packed
