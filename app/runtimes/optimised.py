"""An optimisation on disk: a folder beside the artifact it belongs to, with the network in other forms, the report on
all of them, and a few images with what each form makes of them.

`optimisation.json` lists the files with their sha256; a folder that does not agree with its list is not loaded.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.numpy
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from app import errors
from app import files as kept
from app.optimisation import MANIFEST, Report
from app.runtimes import in_onnx
from app.runtimes.opening import Check

FORMAT = 1
_REPORT = "report.json"
_CHECK = "check.safetensors"
_IMAGES = "images"
_OURS = (*in_onnx.NAMES.values(), _REPORT, _CHECK)
"""What is written once; runtimes keep beside it what they make of it, and change that later."""
_REPORTS = TypeAdapter(Report)


@dataclass(frozen=True)
class Optimised:
    """What is known of the forms of a classifier, and what to check one by when it is loaded."""

    report: Report
    check: Check


def write(folder: Path, found: Optimised) -> None:
    """Complete `folder`, in which the networks lie already; durable when this returns."""
    kept.write_json(folder / _REPORT, asdict(found.report), allow_nan=False)
    safetensors.numpy.save_file({_IMAGES: found.check.images, **found.check.logits}, folder / _CHECK)
    files = [path for name in sorted(_OURS) if (path := folder / name).is_file()]
    digests = {path.name: kept.sha256(path) for path in files}
    kept.write_json(folder / MANIFEST, {"format": FORMAT, "files": digests})
    for path in (*files, folder / MANIFEST, folder):
        kept.make_durable(path)


def report(folder: Path) -> Report:
    """What was measured, without a look at the other files. Raises as `read`."""
    with _told(folder):
        return _REPORTS.validate_python(kept.read_json(folder / _REPORT))


def read(folder: Path) -> Optimised:
    """The optimisation in `folder`. Raises `Unavailable` where it is missing or not as it was written."""
    with _told(folder):
        files: Mapping[str, str] = kept.read_json(folder / MANIFEST)["files"]
        changed = [name for name, digest in files.items() if kept.sha256(folder / name) != digest]
        if changed:
            raise errors.Unavailable(f"the optimisation has changed since it was written: {', '.join(changed)}")
        arrays = safetensors.numpy.load_file(folder / _CHECK)
        found = report(folder)
        return Optimised(found, Check(arrays.pop(_IMAGES), arrays, found.machine))


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What is wrong with the files in words for a caller, to whom their place is no business."""
    try:
        yield
    except FileNotFoundError as error:
        missing = folder.name if error.filename is None else Path(error.filename).name
        raise errors.Unavailable(f"the optimisation is incomplete: {missing} is missing") from error
    except OSError as error:
        raise errors.Unavailable(f"the optimisation cannot be read: {error.strerror or 'its disk fails'}") from error
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, wrong["loc"]))
        raise errors.Unavailable(f"the optimisation's report cannot be read: {at}: {wrong['msg']}") from error
    except (ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise errors.Unavailable(f"the optimisation cannot be read: {error}") from error
