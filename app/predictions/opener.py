"""How a model version gets from its folders into memory."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock

from app import errors, libraries
from app.backbones.taps import Outlet
from app.metrics import Metrics
from app.models import artifact as artifacts
from app.models.artifact import Calibration, Description
from app.models.service import Served
from app.optimisation import Report
from app.predictions import needs
from app.predictions.loaded import Loaded, Pace
from app.predictions.needs import Need
from app.runtimes import form, opening, optimised
from app.runtimes.form import PLAIN, Files, Form, Machine, Network
from app.runtimes.optimised import Optimised
from app.storage import Storage

logger = logging.getLogger(__name__)


_Kind = tuple[Form, str, Outlet, int, int | None]
"""What decides how fast a network is: its form, backbone and outlet, and the side of its images; with the batch that an
optimisation found best."""


_MOST_TIMINGS = 3
"""Of a kind: a machine may be busy for days, and who is timed takes its time."""


@dataclass(frozen=True)
class FromStorage:
    """Opens what lies in `storage`, for `machine`; `batch` images at once, or as measurement says for None."""

    storage: Storage
    machine: Machine
    batch: int | None
    metrics: Metrics
    _paces: dict[_Kind, Pace] = field(default_factory=dict)
    """Of the kinds of networks that were loaded here: to time each again would take longer than to load it, and is
    worth it only where the machine was busy before."""
    _timings: Counter[_Kind] = field(default_factory=Counter)
    """How often each was timed."""
    _timing: Lock = field(default_factory=Lock)
    """One at a time, or they would time each other."""

    def need(self, version: Served) -> Need:
        """The memory that the version takes, about. Raises `Unavailable`."""
        if version.serving.is_of_torch:
            libraries.import_deferred()  # or what they take would be taken for the version's
        with self._failures_counted():
            return needs.of(version, self.storage)

    def open(self, version: Served) -> Loaded:
        """The version, warmed up. Raises `Unavailable`."""
        with self._failures_counted():
            described = artifacts.describe(self.storage.model_version(version.version_id))
            loaded = self._opened(version, described)
        self.metrics.loads.labels(loaded.form.name).inc()
        return loaded

    @contextmanager
    def _failures_counted(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.metrics.loads.labels("failed").inc()
            raise

    def _opened(self, version: Served, described: Description) -> Loaded:
        folder = self.storage.model_version(version.version_id)
        place, measured = self._optimised(version)
        report = None if measured is None else measured.report
        wanted = tuple(form.named(name) for name in version.serving.forms)
        if measured is None and version.serving.optimisation_id is not None:
            wanted = (PLAIN,)  # of the others nothing says any more what they are to answer
        return opening.open_first(
            Files(folder, place),
            wanted,
            self.machine,
            make=partial(self._made, described, report),
            pass_over=partial(self._pass_over, version),
            check=None if measured is None else measured.check,
        )

    def _made(self, described: Description, report: Report | None, network: Network, form: Form) -> Loaded:
        loaded = Loaded(
            network,
            form,
            labels=described.labels,
            preprocessing=described.preprocessing,
            calibration=_calibrated(described.calibration, report, form),
            machine=self.machine,
        )
        known = None if report is None else report.batch(form.name)
        kind = (form, described.backbone, described.outlet, described.preprocessing.crop, known)
        self._make_ready(loaded, kind, known=known)
        return loaded

    def _pass_over(self, version: Served, form: Form, reason: str) -> None:
        self.metrics.fallbacks.labels(form.name).inc()
        name = f"{version.model_name}@{version.number}"
        logger.warning("%s: %s does not run (%s); the next form is tried", name, form.name, reason)

    def _make_ready(self, loaded: Loaded, kind: _Kind, *, known: int | None) -> None:
        if self._is_to_be_timed(kind):
            with self._timing:
                if self._is_to_be_timed(kind):
                    self._time(loaded, kind, known=known)
                    return
        loaded.warm_up(self._paces[kind])

    def _is_to_be_timed(self, kind: _Kind) -> bool:
        pace = self._paces.get(kind)
        return pace is None or (pace.is_doubtful and self._timings[kind] < _MOST_TIMINGS)

    def _time(self, loaded: Loaded, kind: _Kind, *, known: int | None) -> None:
        before = self._paces.get(kind)
        self._timings[kind] += 1
        found = self._paces[kind] = loaded.measure(batch=self.batch, known=known)
        if before is not None:
            found.took(before.seconds)

    def _optimised(self, version: Served) -> tuple[Path | None, Optimised | None]:
        """Where its other forms lie, and what is known of them; neither where they are not as they were written."""
        if version.serving.optimisation_id is None:
            return None, None
        place = self.storage.optimisation(version.serving.optimisation_id)
        try:
            return place, optimised.read(place)
        except errors.Unavailable as error:
            self.metrics.unreadable.inc()
            logger.warning("%s@%d is run as it was trained: %s", version.model_name, version.number, error)
            return None, None


def _calibrated(calibration: Calibration | None, report: Report | None, form: Form) -> Calibration | None:
    """The version's `calibration` for `form`, whose similarities are not quite those by which it was chosen."""
    least = None if report is None else report.unknown_below(form.name)
    return calibration if calibration is None or least is None else replace(calibration, unknown_below=least)
