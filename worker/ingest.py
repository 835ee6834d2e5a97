"""The work of an import: check and decode every image of an archive, split, and write the next version."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app import errors
from app.backbones import preprocess
from app.backbones.preprocess import ImageFacts
from app.datasets import archive, split, store
from app.datasets.archive import Layout, Placed
from app.datasets.entries import Archive, Entry, Limits, Misplaced
from app.datasets.service import NewVersion, Refusal
from app.datasets.split import Candidate
from app.datasets.store import Item, Snapshot
from app.db import new_id
from worker.training.data import prefetched
from worker.training.events import Emit, Progress
from worker.works import IngestOutcome, IngestWork

_DECODE_THREADS = 2


@dataclass(frozen=True)
class VersionWritten:
    """Event: the images are in the dataset's table."""

    number: int
    accepted: int
    refused: int


@dataclass(frozen=True)
class _Accepted:
    placed: Placed
    path: str
    sha256: str
    size_bytes: int
    facts: ImageFacts


def ingest(work: IngestWork, emit: Emit) -> IngestOutcome:
    """Carry out `work`: unusable images are refused one by one. Raises `BadArchive` for the archive itself."""
    limits = Limits(2 * work.max_archive_bytes, work.max_image_bytes, work.max_archive_entries)
    opened = archive.open_archive(work.archive, limits)
    listed = opened.entries(lambda done, total: emit(Progress("list", done, total)))
    layout = archive.lay_out(listed, limits)
    before = store.read(work.table, work.versions[-1]) if work.versions else None
    number = len(work.versions) + 1
    held = split.count((item.label, item.split) for item in before.items) if before else {}
    archive.check_classes(layout, known=held)
    check = _Check(work, {item.sha256: (item.label, item.path) for item in before.items} if before else {})
    accepted = check.run(opened, layout, emit)
    refusals = tuple(Refusal(item.path, item.code, item.message) for item in (*layout.misplaced, *check.refused))
    try:
        _check_left(layout, accepted, held)
        items = _items(accepted, before, work)
    except errors.BadArchive as error:
        return IngestOutcome(None, error, 0, refusals, layout.ignored)
    snapshot = _stored(work, number, _Rows(_rows(opened, items, emit)))
    try:
        emit(VersionWritten(number=number, accepted=len(items), refused=len(refusals)))
    except BaseException:  # it was to stop while there was nobody to hear it, and nobody will know of the version
        store.withdraw(work.table, snapshot.tag, versions=work.versions)
        raise
    return IngestOutcome(_new_version(number, snapshot), None, len(items), refusals, layout.ignored)


class _Check:
    """Decides which files of an archive become items."""

    def __init__(self, work: IngestWork, known: Mapping[str, tuple[str, str]]) -> None:
        self._work = work
        self._known = dict(known)
        self.refused: list[Misplaced] = []

    def run(self, opened: Archive, layout: Layout, emit: Emit) -> dict[int, _Accepted]:
        """The files to accept, by entry position; every image is decoded once, here."""
        accepted: dict[int, _Accepted] = {}
        files = opened.files(layout.placed)
        total = len(layout.placed)
        looked_at = prefetched(files, self._look_at, threads=_DECODE_THREADS, window=4 * _DECODE_THREADS)
        for done, (position, path, found) in enumerate(looked_at, start=1):
            if isinstance(found, Misplaced):
                self.refused.append(found)
            else:
                digest, size_bytes, facts = found
                candidate = _Accepted(layout.placed[position], path, digest, size_bytes, facts)
                if self._is_new(candidate):
                    accepted[position] = candidate
            emit(Progress("check", done, total))
        return accepted

    def _look_at(
        self, file: tuple[Entry, bytes | Misplaced]
    ) -> tuple[int, str, Misplaced | tuple[str, int, ImageFacts]]:
        entry, content = file
        if isinstance(content, Misplaced):
            return entry.position, entry.path, content
        try:
            facts = preprocess.inspect(content, max_pixels=self._work.max_image_pixels)
        except errors.BadImage as error:
            return entry.position, entry.path, Misplaced(entry.path, error.code, error.message)
        return entry.position, entry.path, (hashlib.sha256(content).hexdigest(), len(content), facts)

    def _is_new(self, candidate: _Accepted) -> bool:
        label = candidate.placed.label
        if candidate.sha256 not in self._known:
            self._known[candidate.sha256] = (label, candidate.path)
            return True
        known_label, known_path = self._known[candidate.sha256]
        code, message = "duplicate", f"the same file as {known_path}"
        if known_label != label:
            code, message = "duplicate_with_other_label", f"{message}, which has the label {known_label!r}"
        self.refused.append(Misplaced(candidate.path, code, message))
        return False


def _check_left(layout: Layout, accepted: Mapping[int, _Accepted], held: Mapping[str, object]) -> None:
    left = {item.placed.label for item in accepted.values()}
    empty = [label for label in layout.labels if label not in left and label not in held]
    if empty:
        raise archive.empty_class(empty, "no usable image", "the list of refused files says why")
    if not accepted:
        raise errors.BadArchive("nothing new: the dataset holds every usable image of the archive", code="nothing_new")


def _items(accepted: Mapping[int, _Accepted], before: Snapshot | None, work: IngestWork) -> dict[int, Item]:
    splits = split.assign(
        [
            Candidate(item.sha256, item.placed.label, item.placed.split, item.facts.difference_hash)
            for item in accepted.values()
        ],
        held=[_as_held(item) for item in before.items] if before else [],
        validation_fraction=work.validation_fraction,
        seed=work.seed,
    )
    return {
        position: Item(
            item_id=new_id("item"),
            path=item.path,
            label=item.placed.label,
            split=chosen,
            sha256=item.sha256,
            difference_hash=item.facts.difference_hash,
            format=item.facts.format,
            width=item.facts.width,
            height=item.facts.height,
            size_bytes=item.size_bytes,
        )
        for (position, item), chosen in zip(accepted.items(), splits, strict=True)
    }


def _as_held(item: Item) -> Candidate:
    return Candidate(item.sha256, item.label, item.split, item.difference_hash)


class _Rows:
    """Rows on their way to the table. Lance makes errors of its own of what they raise, so it is kept here."""

    def __init__(self, rows: Iterator[tuple[Item, bytes]]) -> None:
        self._rows = rows
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[Item, bytes]]:
        try:
            yield from self._rows
        except Exception as error:
            self.error = error
            raise


def _stored(work: IngestWork, number: int, rows: _Rows) -> Snapshot:
    tag = store.tag_for(number, work.attempt)
    try:
        return store.append(work.table, rows, versions=work.versions, tag=tag, folder=work.folder)
    except Exception as error:
        if rows.error is not None:
            raise rows.error from error
        raise


def _rows(opened: Archive, items: Mapping[int, Item], emit: Emit) -> Iterator[tuple[Item, bytes]]:
    """The images to store, read for the second time. Raises `BadArchive` for any that is not what it was before."""
    done = 0
    for done, (entry, content) in enumerate(opened.files(items), start=1):
        item = items[entry.position]
        if isinstance(content, Misplaced) or hashlib.sha256(content).hexdigest() != item.sha256:
            raise _has_changed(f"{item.path} is not what it was a moment ago")
        yield item, content
        emit(Progress("write", done, len(items)))
    if done < len(items):
        raise _has_changed(f"{len(items) - done} images are gone that were there a moment ago")


def _has_changed(what: str) -> errors.BadArchive:
    return errors.BadArchive(f"the archive has changed while it was read: {what}", code="archive_changed")


def _new_version(number: int, snapshot: Snapshot) -> NewVersion:
    counts = split.count((item.label, item.split) for item in snapshot.items)
    return NewVersion(
        number=number,
        labels=tuple(counts),
        counts=counts,
        images=len(snapshot.items),
        content_hash=store.content_hash(snapshot.items),
        table_tag=snapshot.tag,
    )
