"""What the process of a job is given to work on, and what it gives back. Known to its worker, which has no need of
what jobs compute with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app import errors
from app.datasets.service import NewVersion, Refusal
from app.facts import VersionFacts
from app.optimisation import Pins, Report, Tolerance
from app.plan import Plan
from app.profile import Profile
from app.ranking import Ranking
from app.recipe import Recipe
from worker.places import Places


@dataclass(frozen=True)
class IngestWork:
    """An archive to read and the version to make of it; limits in bytes and pixels."""

    archive: Path
    table: Path
    versions: tuple[str, ...]
    """Tags of all versions so far, in order; what is imported comes to the items of the last one."""
    attempt: str
    """A name that no other attempt has."""
    folder: Path
    """That of the job, for what is not whole yet."""
    validation_fraction: float
    seed: int
    max_archive_bytes: int
    max_archive_entries: int
    max_image_bytes: int
    max_image_pixels: int


@dataclass(frozen=True)
class IngestOutcome:
    """What an import found: the version it wrote, or the error for which it wrote none."""

    version: NewVersion | None
    error: errors.GraftError | None
    accepted: int
    refusals: tuple[Refusal, ...]
    ignored: int


@dataclass(frozen=True)
class AnalyseWork:
    """A version to measure, and what with."""

    backbone: str
    weights: str
    table: Path
    tag: str
    """Under which the table has the version."""
    places: Places


@dataclass(frozen=True)
class Published:
    """A backbone with published weights."""

    name: str
    """What the ranking calls it."""
    backbone: str
    choice: str
    """Of the weights."""
    file: str | None = None
    """What tells their file from others, where it is known to be at hand."""


@dataclass(frozen=True)
class Own:
    """The network of a model version, which lies in `folder`."""

    name: str
    folder: Path
    has_seen: bool
    """Whether it may have been trained on images of the version."""


@dataclass(frozen=True)
class Missing:
    """A model that is not there."""

    name: str
    code: str
    message: str


@dataclass(frozen=True)
class RankWork:
    """A version to compare networks on."""

    candidates: tuple[Published | Own | Missing, ...] | None
    """None for all backbones of the catalogue whose weights are at hand."""
    table: Path
    tag: str
    """Under which the table has the version."""
    seed: int
    places: Places


@dataclass(frozen=True)
class BaseWork:
    """Where a base lies."""

    artifact: Path
    table: Path | None
    """Of the data set that it was made from; None where that is deleted."""
    tag: str
    """Under which the table has the version."""


@dataclass(frozen=True)
class TrainWork:
    """A plan, the version it is for, and the folders to work in."""

    plan: Plan | None
    """None where it is decided by what is measured first."""
    recipe: Recipe
    facts: VersionFacts
    profile: Profile | None
    """What was measured of the version before, with the recipe's backbone and weights or with those that the known
    ranking chooses."""
    ranking: Ranking | None
    """The last one of all backbones at hand on the version, where the recipe leaves the backbone open."""
    table: Path
    dataset_id: str
    version: int
    tag: str
    """Under which the table has that version."""
    content_hash: str
    version_id: str
    """The id that the model version is to have."""
    folder: Path
    """The job's own folder, with one for each attempt: its checkpoints, and the artifact when done."""
    places: Places
    max_activation_bytes: int
    base: BaseWork | None = None
    """Where the model version lies that it starts from."""
    is_last_retry: bool = False
    """Whether an attempt was lost before this one, and none is left after it."""
    is_optimised: bool = False
    """Whether an optimisation is to follow."""
    memory_kills: int = 0
    """How many attempts of the job ended with its process killed as memory ran out, as far as that can be told."""


@dataclass(frozen=True)
class TrainOutcome:
    """A finished classifier whose artifact lies in `artifact`."""

    artifact: Path
    version_id: str
    plan: Plan
    labels: tuple[str, ...]
    evaluation: dict[str, Any]
    """Its main figures; the artifact has all of them."""
    provenance: dict[str, Any]
    measured: Profile | None
    """What it was decided by, where it was measured here."""
    ranked: Ranking | None
    """What the backbone was chosen by, where it was ranked here."""
    is_optimised: bool = False
    """Whether an optimisation is to follow."""


@dataclass(frozen=True)
class OptimiseWork:
    """A model version, the images it was trained on, and the folders to work in."""

    version_id: str
    optimisation_id: str
    """The id that the optimisation is to have."""
    artifact: Path
    table: Path
    tag: str
    """Under which the table has the version of the data set."""
    folder: Path
    """The job's own folder, with one for each attempt."""
    max_image_pixels: int
    tolerance: Tolerance
    forms: tuple[str, ...] | None
    """Names of those to compare; None for all that the machine may run."""
    kept_forms: tuple[str, ...]
    """Names of those to compare besides, as far as the machine may run them: what is pinned or served as it begins."""
    process_pins: Pins
    """What processes pin for all versions."""
    device: str
    """`cpu`, or `gpu` for one if there is one."""
    seconds: float
    """For how long a form is timed."""
    given_up: Mapping[str, str] = field(default_factory=dict)
    """Names of forms that are not to be tried any more, and why."""


@dataclass(frozen=True)
class OptimiseOutcome:
    """A finished optimisation, which lies in `folder`."""

    folder: Path
    optimisation_id: str
    version_id: str
    report: Report
    kept_forms: tuple[str, ...]
    """Those of its work."""
    process_pins: Pins
