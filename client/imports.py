"""Photos into a data set, with a word on what was left out of them and on labels that it did not have."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from client import archives, show, steps, waiting
from client.api import Client
from client.errors import GraftError, Problem, Refused
from client.terminal import console, printable
from client.values import Dataset, Import, RefusedFile

_LISTED = 10
"""Files that were refused, each with the reason, and new labels; the others are counted."""

_ALIKE = 0.75
"""From which likeness on, 0-1, a label may be another one that was mistyped."""


def photos(client: Client, folder: Path, name: str) -> str:
    """Id of the data set called `name`, which holds what it can take of the photos in `folder` now."""
    with steps.step(console, f"upload {printable(folder)}") as step, archives.archive(folder) as archive:
        received, before = _upload(client, name, archive)
        dataset_id = received.dataset_id
        job = waiting.ended(client, received.job.id, step)
        refused, known = _refusals(client.refused(received.id, dataset_id))
        step.notes = [*refused, *known]
        if job.error is not None and job.error.code == "nothing_new":
            step.has_changed_nothing = True
            step.outcome = f"nothing new for data set {name!r}" if refused else f"data set {name!r} has them all"
            return dataset_id
        if job.state != "succeeded":
            for note in step.notes:
                console.print(note, style="dim", highlight=False, soft_wrap=True)
        result = show.succeeded(job).result or {}
        images = show.counted(result["accepted"], "image")
        step.outcome = f"{images} became version {result['dataset_version']} of {name!r}"
        if before:
            after = client.dataset_version(dataset_id, result["dataset_version"]).labels
            step.warnings = [*_new_labels(after, before)]
    return dataset_id


def _upload(client: Client, name: str, archive: Path) -> tuple[Import, list[str]]:
    """The import into the data set called `name`, with the labels that it has before. One that is created for this is
    deleted where the archive is refused."""
    dataset = client.dataset_named(name)
    if dataset is not None:
        before = _labels(client, dataset)
        return client.upload(dataset.id, archive), before
    created = client.create_dataset(name)
    try:
        return client.upload(created.id, archive), []
    except (Problem, Refused):
        with suppress(GraftError):  # what is wrong with the archive is what matters
            client.delete_dataset(created.id)
        raise


def _labels(client: Client, dataset: Dataset) -> list[str]:
    newest = dataset.latest_version
    return [] if newest is None else client.dataset_version(dataset.id, newest).labels


def _new_labels(after: Iterable[str], before: Collection[str]) -> Iterator[str]:
    """What to say of the labels that the data set has now and did not have before, those first that may be mistyped."""
    new = [label for label in after if label not in before]
    meant = {label: difflib.get_close_matches(label, before, n=1, cutoff=_ALIKE) for label in new}
    for label in sorted(new, key=lambda label: not meant[label])[:_LISTED]:
        yield f"new label {label!r}" + "".join(f"; did you mean {near!r}?" for near in meant[label])
    if len(new) > _LISTED:
        yield f"and {show.counted(len(new) - _LISTED, 'more new label')}"


def _refusals(found: Iterable[RefusedFile]) -> tuple[list[str], list[str]]:
    """What an import left out: its first files that are of no use, and apart from them how many are there already."""
    listed, more, known = list[str](), 0, 0
    for item in found:
        if item.code == "duplicate":
            known += 1
        elif len(listed) < _LISTED:
            listed.append(f"refused {item.path}: {item.message}")
        else:
            more += 1
    refused = [*listed, f"and {more} more refused"] if more else listed
    return refused, [f"left out {show.counted(known, 'image')} that it has already"] if known else []
