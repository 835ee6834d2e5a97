"""The kinds of jobs: for each, what its process is given, and what becomes of the outcome."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from app import budgets, errors, planning
from app.backbones import catalogue
from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.experiments import service as experiments
from app.jobs import events, leases
from app.jobs import service as jobs
from app.jobs.leases import Claim, Failure
from app.jobs.schemas import Candidate, OptimisationCreate
from app.limits import Budget
from app.models import service as models
from app.models import serving
from app.models.service import NewModelVersion
from app.models.serving import NewOptimisation
from app.models.tables import ModelVersion
from app.plan import Plan
from app.profile import Profile
from app.profiles import service as profiles
from app.ranking import Ranking
from app.rankings import service as rankings
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage, move
from app.warmstart import WarmStart
from worker import places
from worker.messages import failure
from worker.works import (
    AnalyseWork,
    BaseWork,
    IngestOutcome,
    IngestWork,
    Missing,
    OptimiseOutcome,
    OptimiseWork,
    Own,
    Published,
    RankWork,
    TrainOutcome,
    TrainWork,
)

OUT_OF_MEMORY = "out_of_memory"
"""In the detail of a failure: whether a process was killed as there was no memory, for certain."""
_PLAN = TypeAdapter(Plan)
_RECIPE = TypeAdapter(Recipe)
_CANDIDATES = TypeAdapter(tuple[Candidate, ...] | None)
_ON_FIXED_FEATURES = ("head", "stage_probe")
"""Strategies that leave every layer of the network as it was."""
_FORM_BEGUN, _FORM_ENDED = "form_begun", ("form_measured", "form_refused", "attempt_started")
"""Events of an optimisation."""
_ENDED_BY_FORCE = ("process_killed", "process_hung")


class Outdated(Exception):
    """What was changed meanwhile would be undone by the outcome of an attempt, so another one is to come."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class Kind:
    """One kind of job, as what its worker does before and after its process."""

    prepare: Callable[[Session, Claim, Settings, Storage], Any]
    """The value that the job's process works on."""
    publish: Callable[[Session, Claim, Any, Storage, datetime], None]
    """Ends the job in the transaction given, with all that others are to see of the outcome. May be done again after a
    transaction that failed; files that it put in place and that no row came to name are removed by the sweep. Raises
    `Outdated`."""


def _prepare_ingest(session: Session, claim: Claim, settings: Settings, storage: Storage) -> IngestWork:
    archive = storage.archive(claim.spec["import_id"])
    if not archive.is_file():  # as where a backup's database is from before the job's end, and its files from after it
        raise errors.NotFound("the archive of this import is not kept any more; upload it again", code="archive_gone")
    return IngestWork(
        archive=archive,
        table=storage.dataset(claim.dataset_id),
        versions=tuple(datasets.table_tags(session, claim.dataset_id)),
        attempt=claim.token[:12],
        folder=storage.job(claim.job_id),
        validation_fraction=claim.spec["validation_fraction"],
        seed=claim.spec["seed"],
        max_archive_bytes=settings.max_archive_bytes,
        max_archive_entries=settings.max_archive_entries,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
    )


def _publish_ingest(session: Session, claim: Claim, outcome: IngestOutcome, _storage: Storage, now: datetime) -> None:
    import_id = claim.spec["import_id"]
    datasets.record_refusals(session, import_id, outcome.refusals)
    if outcome.version is None:
        leases.fail(session, claim, failure(outcome.error or errors.BadArchive("no version was made")), now=now)
        return
    datasets.add_version(
        session,
        import_id,
        claim.dataset_id,
        outcome.version,
        accepted=outcome.accepted,
        ignored=outcome.ignored,
        now=now,
    )
    leases.succeed(
        session,
        claim,
        {
            "import": import_id,
            "dataset_version": outcome.version.number,
            "accepted": outcome.accepted,
            "refused": len(outcome.refusals),
        },
        now=now,
    )


def _prepare_train(session: Session, claim: Claim, settings: Settings, storage: Storage) -> TrainWork:
    version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
    recipe = _RECIPE.validate_python(claim.spec)
    plan = None if claim.plan is None else _PLAN.validate_python(claim.plan)
    known = _known_ranking(session, version, recipe, now=claim.since) if plan is None else None
    return TrainWork(
        plan=plan,
        recipe=recipe,
        facts=jobs.version_facts(version, max_activation_bytes=settings.max_activation_bytes),
        # A search goes by the costs also where the plan is there.
        profile=_known_profile(session, version, recipe, known) if plan is None or recipe.search else None,
        ranking=known,
        table=storage.dataset(claim.dataset_id),
        dataset_id=claim.dataset_id,
        version=version.number,
        tag=version.table_tag,
        content_hash=version.content_hash,
        version_id=models.new_version_id(),
        folder=storage.job(claim.job_id),
        places=places.of(settings, storage),
        max_activation_bytes=settings.max_activation_bytes,
        base=None if plan is None or plan.base is None else _base(session, plan.base, storage),
        # A control run is there to be compared, not to be served.
        is_optimised=settings.optimise_after_training
        and not experiments.is_arm(session, claim.dataset_id, claim.job_id),
        is_last_retry=_is_last_retry(claim),
        memory_kills=_memory_kills(session, claim.job_id),
    )


def _is_last_retry(claim: Claim) -> bool:
    return claim.attempt > 1 and claim.attempt >= claim.max_attempts


def _memory_kills(session: Session, job_id: str) -> int:
    ends = events.of_types(session, job_id, [leases.ATTEMPT_ENDED])
    killed = [event.data["detail"] for event in ends if event.data["detail"].get("signal") == "SIGKILL"]
    certain = len([detail for detail in killed if detail.get(OUT_OF_MEMORY)])
    # One other may be somebody's will, after which a training is to end as if it had never stopped.
    return certain + max(0, len(killed) - certain - 1)


def _base(session: Session, start: WarmStart, storage: Storage) -> BaseWork:
    """Where the base of a training lies. Raises `NotFound` where it was deleted since."""
    base = models.by_id(session, start.version_id, start.base)
    try:
        version = datasets.find_version(session, base.dataset_id, base.dataset_version)
    except errors.NotFound:
        return BaseWork(storage.model_version(base.id), table=None, tag="")
    return BaseWork(storage.model_version(base.id), storage.dataset(base.dataset_id), version.table_tag)


def _known_ranking(session: Session, version: DatasetVersion, recipe: Recipe, *, now: datetime) -> Ranking | None:
    row = rankings.newest_of_all(session, version) if recipe.picks_backbone else None
    if row is None:
        return None
    found = rankings.figures(row)
    return None if found.is_outdated(now - row.created_at) else found


def _known_profile(session: Session, version: DatasetVersion, recipe: Recipe, known: Ranking | None) -> Profile | None:
    backbone = recipe.backbone
    if recipe.picks_backbone:
        fitting = (
            None
            if known is None
            else budgets.within(known, recipe.budget or Budget(), partial(planning.lacking, recipe))
        )
        if not fitting:
            return None
        backbone = fitting[0].name
    found = profiles.of_recipe(session, version, recipe, catalogue.find(backbone))
    return None if found is None else profiles.figures(found)


def _publish_train(session: Session, claim: Claim, outcome: TrainOutcome, storage: Storage, now: datetime) -> None:
    name = str(claim.model_name)
    wanted = NewModelVersion(
        version_id=outcome.version_id,
        model_name=name,
        job_id=claim.job_id,
        dataset_id=claim.dataset_id,
        dataset_version=int(claim.dataset_version or 0),
        backbone=outcome.plan.backbone,
        strategy=outcome.plan.strategy,
        labels=outcome.labels,
        evaluation=outcome.evaluation,
        provenance=outcome.provenance,
    )
    version = datasets.version_of(session, claim.dataset_id, int(claim.dataset_version or 0))
    if outcome.ranked is not None:
        rankings.record(session, version, outcome.ranked, is_of_all=True, job_id=claim.job_id, now=now)
    if outcome.measured is not None:
        choice = profiles.choice_of(_RECIPE.validate_python(claim.spec))
        profiles.record(session, version, outcome.measured, choice=choice, job_id=claim.job_id, now=now)
    number = models.register(session, wanted, now=now)
    result = {"model": name, "model_version": number, "accuracy": outcome.evaluation["accuracy"]}
    leases.succeed(session, claim, result, plan=asdict(outcome.plan), now=now)
    if outcome.is_optimised:
        made = models.find_version(session, name, number)
        jobs.submit_optimisation(session, name, made, OptimisationCreate(), max_attempts=claim.max_attempts, now=now)
    _put(outcome.artifact, storage.model_version(outcome.version_id))


def _put(folder: Path, place: Path) -> None:
    """Last, when nothing but the commit can go wrong any more: the files come before the row that names them."""
    if (
        not place.exists()
    ):  # they are there already where the first commit went wrong; that they are nowhere must not pass
        move(folder, place)


def _prepare_analyse(session: Session, claim: Claim, settings: Settings, storage: Storage) -> AnalyseWork:
    version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
    return AnalyseWork(
        backbone=claim.spec["backbone"],
        weights=claim.spec["weights"],
        table=storage.dataset(claim.dataset_id),
        tag=version.table_tag,
        places=places.of(settings, storage),
    )


def _publish_analyse(session: Session, claim: Claim, outcome: Profile, _storage: Storage, now: datetime) -> None:
    version = datasets.version_of(session, claim.dataset_id, int(claim.dataset_version or 0))
    choice = claim.spec["weights"]
    profile_id = profiles.record(session, version, outcome, choice=choice, job_id=claim.job_id, now=now)
    leases.succeed(session, claim, {"profile": profile_id}, now=now)


def _prepare_rank(session: Session, claim: Claim, settings: Settings, storage: Storage) -> RankWork:
    version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
    asked = _CANDIDATES.validate_python(claim.spec["candidates"])
    found = [_candidate(session, claim, storage, each) for each in asked or ()]
    return RankWork(
        # A model may be asked for by its version and as its newest.
        candidates=None if asked is None else tuple({each.name: each for each in found}.values()),
        table=storage.dataset(claim.dataset_id),
        tag=version.table_tag,
        seed=claim.spec["seed"],
        places=places.of(settings, storage),
    )


def _candidate(session: Session, claim: Claim, storage: Storage, wanted: Candidate) -> Published | Own | Missing:
    if wanted.model is None:
        return Published(wanted.name, str(wanted.backbone), wanted.choice)
    try:
        found = models.find_version(session, wanted.model, wanted.version)
    except errors.NotFound as error:
        return Missing(wanted.name, error.code, error.message)
    name = f"{wanted.model}@{found.number}"
    return Own(name, storage.model_version(found.id), has_seen=_has_seen(session, found, claim.dataset_id))


def _has_seen(session: Session, version: ModelVersion, dataset_id: str) -> bool:
    """Whether layers of its network may have been trained on images of the data set, then or as its base's; among those
    that they were trained on are its base's own where these were replayed."""
    trains_layers = version.strategy not in _ON_FIXED_FEATURES
    if trains_layers and version.dataset_id == dataset_id:
        return True
    start = version.provenance.get("base")
    if start is None:
        return False
    base = session.get(ModelVersion, start["version_id"])
    if base is None or (trains_layers and start["replay"] and base.dataset_id == dataset_id):
        return True
    return _has_seen(session, base, dataset_id)


def _publish_rank(session: Session, claim: Claim, outcome: Ranking, _storage: Storage, now: datetime) -> None:
    version = datasets.version_of(session, claim.dataset_id, int(claim.dataset_version or 0))
    is_of_all = claim.spec["candidates"] is None
    ranking_id = rankings.record(session, version, outcome, is_of_all=is_of_all, job_id=claim.job_id, now=now)
    leases.succeed(session, claim, {"ranking": ranking_id, "best": outcome.best.name}, now=now)


def _prepare_optimise(session: Session, claim: Claim, settings: Settings, storage: Storage) -> OptimiseWork:
    version = datasets.find_version(session, claim.dataset_id, claim.dataset_version)
    wanted = OptimisationCreate.model_validate(claim.spec["wanted"])
    version_id, process = claim.spec["version_id"], serving.process_pins(settings)
    models.by_id(session, version_id, f"{claim.model_name}@{claim.spec['model_version']}")
    return OptimiseWork(
        version_id=version_id,
        optimisation_id=serving.new_optimisation_id(),
        artifact=storage.model_version(version_id),
        table=storage.dataset(claim.dataset_id),
        tag=version.table_tag,
        folder=storage.job(claim.job_id),
        max_image_pixels=settings.max_image_pixels,
        tolerance=wanted.tolerance,
        forms=None if wanted.forms is None else tuple(wanted.forms),
        kept_forms=serving.forms_to_keep(session, version_id, process),
        process_pins=process,
        device=wanted.device,
        seconds=settings.optimise_seconds,
        # Whoever ended an earlier one may have had reasons of their own.
        given_up=_given_up(session, claim.job_id) if _is_last_retry(claim) else {},
    )


def _given_up(session: Session, job_id: str) -> dict[str, str]:
    """Names of the forms in which the process of an attempt was ended, and how."""
    found: dict[str, str] = {}
    begun: str | None = None
    for event in events.of_jobs(session, [job_id]):
        if event.type == _FORM_BEGUN:
            begun = event.data["name"]
        elif event.type == leases.ATTEMPT_ENDED and event.data["code"] in _ENDED_BY_FORCE and begun is not None:
            found[begun] = event.data["message"]
        elif event.type in _FORM_ENDED:
            begun = None
    return found


def _publish_optimise(
    session: Session, claim: Claim, outcome: OptimiseOutcome, storage: Storage, now: datetime
) -> None:
    version_id, report, process = outcome.version_id, outcome.report, outcome.process_pins
    serving.hold(session, version_id)
    lacking = serving.taken_away(session, version_id, report, process)
    if lacking is not None and lacking not in outcome.kept_forms:
        raise Outdated(_came_first(lacking))
    made = NewOptimisation(outcome.optimisation_id, version_id, claim.job_id, report)
    serving.record(session, made, now=now)
    served = serving.first_form(session, version_id, report, process)
    result = {"optimisation": outcome.optimisation_id, "served": served}
    leases.succeed(session, claim, result, now=now)
    _put(outcome.folder, storage.optimisation(outcome.optimisation_id))


def _came_first(form: str) -> Failure:
    said = f"{form} was pinned, or came to be served, meanwhile and was not measured; the forms are compared once more"
    return Failure("forms_changed", said, {"form": form})


KINDS: dict[str, Kind] = {
    "ingest": Kind(_prepare_ingest, _publish_ingest),
    "analyse": Kind(_prepare_analyse, _publish_analyse),
    "rank": Kind(_prepare_rank, _publish_rank),
    "train": Kind(_prepare_train, _publish_train),
    "optimise": Kind(_prepare_optimise, _publish_optimise),
}
