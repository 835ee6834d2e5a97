"""How a model version gets from its folders into memory."""

import logging
from dataclasses import dataclass
from pathlib import Path

from app import errors
from app.metrics import Metrics
from app.models import artifact as artifacts
from app.models.service import Served
from app.optimisation import Runtime
from app.predictions.loaded import Loaded
from app.runtimes import form, opening, optimised
from app.runtimes.form import Files, Machine
from app.runtimes.opening import Check
from app.storage import Storage

logger = logging.getLogger(__name__)

_MEMORY: dict[Runtime, float] = {
    "torch": 1.3,
    "torch-compiled": 1.5,
    "onnxruntime": 2.2,
    "openvino": 2.2,
    "tensorrt": 2.0,
}
"""What a network takes, by the size of its weights in fp32; on all threads and by one."""


@dataclass(frozen=True)
class FromStorage:
    """Opens what lies in `storage`, for `machine`; `batch` images at once, or as measurement says for None."""

    storage: Storage
    machine: Machine
    batch: int | None
    metrics: Metrics

    def size_of(self, version: Served) -> int:
        """The bytes of memory that the version takes, about. Raises `Unavailable`."""
        weights = artifacts.describe(self.storage.model_version(version.version_id)).weights_bytes
        return round(weights * _MEMORY[form.named(version.serving.forms[0]).runtime])

    def open(self, version: Served) -> Loaded:
        """The version, warmed up. Raises `Unavailable`."""
        try:
            loaded = self._opened(version)
        except Exception:
            self.metrics.loads.labels("failed").inc()
            raise
        loaded.measure(batch=self.batch)
        self.metrics.loads.labels(loaded.form.name).inc()
        return loaded

    def _opened(self, version: Served) -> Loaded:
        folder = self.storage.model_version(version.version_id)
        described = artifacts.describe(folder)
        wanted = tuple(form.named(name) for name in version.serving.forms)
        place, check = self._optimised(version)
        opened = opening.open_first(Files(folder, place), wanted, self.machine, check=check)
        for failed, _ in opened.failed:
            self.metrics.fallbacks.labels(failed.name).inc()
        return Loaded(
            opened.network,
            opened.form,
            labels=described.labels,
            preprocessing=described.preprocessing,
            calibration=described.calibration,
            machine=self.machine,
        )

    def _optimised(self, version: Served) -> tuple[Path | None, Check | None]:
        """Where its other forms lie, and what to check them by; neither where they are not as they were written."""
        if version.serving.optimisation_id is None:
            return None, None
        place = self.storage.optimisation(version.serving.optimisation_id)
        try:
            return place, optimised.read(place).check
        except errors.Unavailable as error:
            logger.warning("%s@%d is run as it was trained: %s", version.model_name, version.number, error)
            return None, None
