"""The client: one method for each thing that the service does."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx

from client import answers, batches, downloads, events, references
from client.connection import CHANGED_SINCE, Connection, Page, read
from client.downloads import FileListing, StoredFile
from client.errors import GraftError, Problem, Refused
from client.forms import Pins, Runtimes
from client.recipe import Recipe
from client.references import alias_path
from client.values import (
    Alias,
    AliasMove,
    Backbone,
    Dataset,
    DatasetVersion,
    Event,
    Experiment,
    Import,
    Job,
    Model,
    ModelVersion,
    Planned,
    Prediction,
    Predictions,
    Progress,
    Ranking,
    Ready,
    RefusedFile,
)

_PATIENCE = 0.9
"""Of the time in which an answer must begin, how much the service may take for it."""
_LONGER_FOLLOWED = 2
"""How many times as often as anything else a job is asked for again: whoever follows it waits anyway."""
_MEDIA_TYPES = {".zip": "application/zip", ".tar": "application/x-tar", ".gz": "application/gzip"}


class Client(Connection):
    """All that can be asked of the service at `url`; see `Connection` for what every method raises."""

    def ready(self) -> Ready:
        return self._get("/readyz", Ready)

    def datasets(self) -> Iterator[Dataset]:
        """All data sets, newest first."""
        return self._pages("/v1/datasets", Dataset, lambda last: last.id)

    def dataset(self, dataset_id: str) -> Dataset:
        """A data set, given by its id or its name."""
        return self._get(f"/v1/datasets/{quote(dataset_id)}", Dataset)

    def dataset_named(self, name: str) -> Dataset | None:
        return next((dataset for dataset in self.datasets() if dataset.name == name), None)

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a data set, given by its id or its name, with its images; models that were made from it stay."""
        self._remove(lambda: self._http.delete(f"/v1/datasets/{quote(dataset_id)}", headers=answers.if_at(None)))

    def create_dataset(self, name: str, *, validation_fraction: float = 0.2, seed: int = 0) -> Dataset:
        wanted = {"name": name, "validation_fraction": validation_fraction, "seed": seed}
        return self._create("/v1/datasets", wanted, Dataset)

    def dataset_version(self, dataset_id: str, number: int) -> DatasetVersion:
        return self._get(f"/v1/datasets/{dataset_id}/versions/{number}", DatasetVersion)

    def upload(self, dataset_id: str, archive: Path) -> Import:
        """Send a zip or tar with a folder of images per class; it is streamed from disk. Raises `Refused` where it
        cannot be read."""
        headers = {
            "Content-Type": _MEDIA_TYPES.get(archive.suffix.lower(), "application/octet-stream"),
            "Idempotency-Key": uuid.uuid4().hex,
        }
        with batches.reading(archive), archive.open("rb") as file:
            request = self._upload_request(f"/v1/datasets/{dataset_id}/imports", file, headers)
            return read(self._again(lambda: self._http.send(request())), Import)

    def refused(self, import_id: str, dataset_id: str) -> Iterator[RefusedFile]:
        """The files of an import that were of no use, each with the reason."""
        path = f"/v1/datasets/{dataset_id}/imports/{import_id}/refused"
        return self._pages(path, RefusedFile, lambda last: last.position)

    def train(self, dataset_id: str, model: str, recipe: Recipe, *, version: int | None = None) -> Job:
        """Start a training of `model`, on the newest version of the data set if none is given."""
        wanted: dict[str, object] = {
            "dataset": dataset_id,
            "version": version,
            "model": model,
            "recipe": _asked(recipe),
        }
        return self._create("/v1/jobs", wanted, Job)

    def plan(
        self, dataset_id: str, recipe: Recipe, *, version: int | None = None, measure: bool = False
    ) -> Planned | Job:
        """What a training would do, without training; or, where the version has to be measured first, the job that does
        it: ask again after its end. Strategy `auto` needs that, for the others `measure` asks for it; backbone `auto`
        needs a ranking before."""
        wanted: dict[str, object] = {
            "dataset": dataset_id,
            "version": version,
            "recipe": _asked(recipe),
            "measure": measure,
        }
        response = self._send("/v1/plans", wanted)
        return read(response, Job) if response.status_code == httpx.codes.ACCEPTED else read(response, Planned)

    def create_experiment(
        self,
        dataset_id: str,
        model: str,
        backbone: str,
        *,
        fine_tune: Recipe | None = None,
        scratch: Recipe | None = None,
    ) -> Experiment:
        """Start control runs: a linear classifier, fine-tuning and scratch, each a job of its own."""
        wanted: dict[str, object] = {"dataset": dataset_id, "model": model, "backbone": backbone}
        recipes = {"fine_tune": fine_tune, "scratch": scratch}
        wanted |= {arm: _asked(recipe) for arm, recipe in recipes.items() if recipe is not None}
        return self._create("/v1/experiments", wanted, Experiment)

    def experiment(self, experiment_id: str) -> Experiment:
        return self._get(f"/v1/experiments/{experiment_id}", Experiment)

    def rank(
        self,
        dataset_id: str,
        *,
        backbones: Sequence[str] | None = None,
        models: Sequence[str] = (),
        version: int | None = None,
    ) -> Job:
        """Start a comparison of backbones and models (`name`, `name@version`, `name:alias`) on a version of a data
        set; of all backbones whose weights are at hand where neither are given. The job's result names the ranking."""
        candidates: list[dict[str, object]] = [{"backbone": name} for name in backbones or ()]
        candidates += [{"model": reference} for reference in models]
        wanted: dict[str, object] = {
            "kind": "rank",
            "dataset": dataset_id,
            "version": version,
            "candidates": candidates or None,
        }
        return self._create("/v1/jobs", wanted, Job)

    def ranking(self, ranking_id: str) -> Ranking:
        return self._get(f"/v1/rankings/{ranking_id}", Ranking)

    def jobs(self, *, state: str | None = None) -> Iterator[Job]:
        """All jobs, or those in a state, newest first."""
        return self._pages("/v1/jobs", Job, lambda last: last.id, {} if state is None else {"state": state})

    def job(self, job_id: str) -> Job:
        return self._get(f"/v1/jobs/{job_id}", Job)

    def finish(self, job_id: str) -> Job:
        """End a search early, with the best that it has found."""
        return self._step(job_id, "finish", lambda before, now: not before.has_ended and now.state == "succeeded")

    def pause(self, job_id: str) -> Job:
        return read(self._again(lambda: self._http.post(f"/v1/jobs/{job_id}/pause")), Job)

    def resume(self, job_id: str) -> Job:
        ended = ("succeeded", "failed")  # to neither of which a paused job comes
        return self._step(job_id, "resume", lambda before, now: before.state == "paused" and now.state in ended)

    def retry(self, job_id: str) -> Job:
        """Queue a job that has failed or was cancelled once more; it begins anew."""
        return self._create(f"/v1/jobs/{job_id}/retry", {}, Job)

    def cancel(self, job_id: str) -> Job:
        return read(self._again(lambda: self._http.post(f"/v1/jobs/{job_id}/cancel")), Job)

    def follow(self, job_id: str) -> Iterator[Event | Progress]:
        """The history of a job, as it happens, until the job has ended; goes on after a lost connection, and while the
        service is away for about a minute, as where it is started anew."""
        last, failures, most = 0, 0, _LONGER_FOLLOWED * self._attempts
        has_ended = False
        while True:
            asked_seconds = 0.0
            try:
                with events.stream(self._http, job_id, after=last) as happened:
                    failures = 0
                    for told in happened:
                        if isinstance(told, Event):
                            last = told.seq
                        yield told
                if has_ended:
                    return
                # A proxy or a service that is stopped ends it, too, and without an error.
                has_ended = read(self._http.get(f"/v1/jobs/{job_id}"), Job).has_ended
                if has_ended:
                    continue  # with what happened before the end and was not told yet
                failures += 1
            except httpx.TransportError as error:
                failures += 1
                if failures == most:
                    raise self._unreachable(error) from error
            except Problem as problem:
                failures += 1
                if problem.come_again_seconds is None or failures == most:
                    raise
                asked_seconds = problem.come_again_seconds
            time.sleep(answers.wait_seconds(failures, asked_seconds))

    def wait(self, job_id: str, on_event: Callable[[Event | Progress], None] | None = None) -> Job:
        """Return the job once it has ended, however it did; `on_event` is told all that happens until then."""
        for told in self.follow(job_id):
            if on_event is not None:
                on_event(told)
        return self.job(job_id)

    def backbones(self) -> list[Backbone]:
        """The catalogue, the smallest network first."""
        return self._get("/v1/backbones", Page[Backbone]).data

    def models(self) -> Iterator[Model]:
        """All models, newest first."""
        return self._pages("/v1/models", Model, lambda last: last.id)

    def model(self, name: str) -> Model:
        return self._get(f"/v1/models/{name}", Model)

    def model_version(self, name: str, number: int) -> ModelVersion:
        return self._get(f"/v1/models/{name}/versions/{number}", ModelVersion)

    def aliases(self, model: str) -> Iterator[Alias]:
        """The aliases of a model, by name."""
        return self._pages(f"/v1/models/{model}/aliases", Alias, lambda last: last.name)

    def alias(self, model: str, alias: str) -> Alias:
        return self._get(alias_path(model, alias), Alias)

    def alias_history(self, model: str, alias: str) -> Iterator[AliasMove]:
        """Where it pointed, newest first."""
        return self._pages(f"{alias_path(model, alias)}/history", AliasMove, lambda last: last.revision)

    def put_alias(
        self, model: str, alias: str, version: int, *, keep_loaded: bool | None = None, revision: int | None = None
    ) -> Alias:
        """Let an alias point to a version, whether it is there or not; with `revision`, only if it is at that one.
        Where `keep_loaded` is None, that stays as it is."""
        path, wanted = alias_path(model, alias), {"version": version, "keep_loaded": keep_loaded}

        def put(condition: Mapping[str, str]) -> httpx.Response:
            return self._http.put(path, json=wanted, headers=condition)

        def made() -> Alias | None:
            now = self.alias(model, alias)
            kept = now.keep_loaded if keep_loaded is None else keep_loaded
            is_ours = (now.revision - 1, now.version, now.keep_loaded) == (revision, version, kept)
            return now if is_ours else None

        if revision is not None:
            return self._change(lambda: put(answers.if_at(revision)), Alias, made)
        # The last one finds what was made since the first, by somebody else or by an answer that was lost.
        for condition in (answers.if_at(None), {"If-None-Match": "*"}):
            response = self._again(partial(put, condition))
            if response.status_code != CHANGED_SINCE:
                return read(response, Alias)
        return read(self._again(lambda: put(answers.if_at(None))), Alias)

    def roll_back(self, model: str, alias: str, *, revision: int | None = None) -> Alias:
        """Let an alias point to where it did before; from the state that it has now, or from that of `revision`."""
        path = alias_path(model, alias)
        based_on = self.alias(model, alias).revision if revision is None else revision

        def made() -> Alias | None:
            last = next(self.alias_history(model, alias))
            is_ours = (last.revision, last.action) == (based_on + 1, "rolled_back")
            return self.alias(model, alias) if is_ours else None

        return self._change(lambda: self._http.post(f"{path}/rollback", headers=answers.if_at(based_on)), Alias, made)

    def remove_alias(self, model: str, alias: str, *, revision: int | None = None) -> None:
        """Remove an alias, whatever its state, or only at `revision`; the version stays."""
        self._remove(lambda: self._http.delete(alias_path(model, alias), headers=answers.if_at(revision)))

    def delete_model(self, name: str, *, revision: int | None = None) -> None:
        """Delete a model with all its versions, or only if it has had none since `revision`."""
        self._remove(lambda: self._http.delete(f"/v1/models/{name}", headers=answers.if_at(revision)))

    def delete_model_version(self, name: str, number: int) -> None:
        """Delete a version of a model, and the model with its last one."""
        self._remove(lambda: self._http.delete(f"/v1/models/{name}/versions/{number}"))

    def files(self, name: str, number: int) -> list[StoredFile]:
        """What a version of a model consists of."""
        return self._get(f"/v1/models/{name}/versions/{number}/files", FileListing).data

    def download(self, name: str, number: int, file: StoredFile, folder: Path) -> Path:
        """Put one of its files into `folder`, whole and as it was written, or not at all. Raises `Refused` where it is
        another one by now or cannot be written."""
        path = f"/v1/models/{name}/versions/{number}/files/{file.name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return downloads.save(lambda: self._http.stream("GET", path), folder / file.name, file.sha256)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except OSError as error:
            raise Refused(f"{folder / file.name} cannot be written: {error.strerror or error}") from error

    def resolve(self, reference: str) -> tuple[str, int]:
        """The model and the number of the version that `name`, `name@version` or `name:alias` addresses. Raises
        `Refused` for what is none of these."""
        wanted = references.parse(reference)
        if wanted.alias is not None:
            return wanted.name, self.alias(wanted.name, wanted.alias).version
        return wanted.name, wanted.number or self.model(wanted.name).latest_version

    def optimise(self, model: str, number: int, wanted: Mapping[str, object]) -> Job:
        """Start, or join, the comparison of a version's forms; `wanted` has `tolerance`, `forms`, `device`, or none."""
        return self._create(f"/v1/models/{model}/versions/{number}/optimise", wanted, Job)

    def runtimes(self, model: str, number: int) -> Runtimes:
        """How each form of a version did, and which is served."""
        return self._get(f"/v1/models/{model}/versions/{number}/runtimes", Runtimes)

    def pin(self, model: str, number: int, pins: Mapping[str, str], *, revision: int) -> Runtimes:
        """Decide by which `runtime` and in which `precision` a version is run, if its pins are still at `revision`."""
        path = f"/v1/models/{model}/versions/{number}/runtimes"
        wanted = Pins(pins.get("runtime", "auto"), pins.get("precision", "auto"))

        def made() -> Runtimes | None:
            now = self.runtimes(model, number)
            return now if (now.revision, now.pins) == (revision + 1, wanted) else None

        return self._change(lambda: self._http.put(path, json=pins, headers=answers.if_at(revision)), Runtimes, made)

    def predict(
        self, model: str, images: Iterable[Path], *, top_k: int = 5, threshold: float = 0.0
    ) -> Iterator[Prediction]:
        """Labels for image files, in their order, as the requests with several of them each are answered; at most
        `top_k` of each, with a probability of `threshold` or more. `model` is `name`, `name@version` or `name:alias`.
        Raises `Refused` where one cannot be read."""
        for outcome in self.predict_each(model, images, top_k=top_k, threshold=threshold):
            if isinstance(outcome, GraftError):
                raise outcome
            yield outcome

    def predict_each(
        self, model: str, images: Iterable[Path], *, top_k: int = 5, threshold: float = 0.0
    ) -> Iterator[Prediction | Problem | Refused]:
        """As `predict`, with what is wrong with an image in its place: the others are labelled all the same."""
        params = {"top_k": top_k, "threshold": threshold}
        return batches.outcomes(images, lambda batch: self._predict(model, batch.form(), params).predictions)

    def _step(self, job_id: str, verb: str, is_done: Callable[[Job, Job], bool]) -> Job:
        """The job after a step that the service takes once. `is_done` tells by the job as it was and as it is whether a
        step whose answer was lost has been taken."""
        before = self.job(job_id)

        def made() -> Job | None:
            now = self.job(job_id)
            return now if is_done(before, now) else None

        path = f"/v1/jobs/{job_id}/{verb}"
        return self._change(lambda: self._http.post(path), Job, made, refusal=httpx.codes.CONFLICT)

    def _predict(
        self, model: str, files: list[tuple[str, tuple[str, bytes]]], params: Mapping[str, float]
    ) -> Predictions:
        path = f"/v1/models/{model}/predict"
        # Whoever waits here would rather wait on: a model that is loaded for the first time takes seconds.
        headers = {"X-Request-Timeout": f"{_PATIENCE * self._timeout_seconds:g}"}
        return read(
            self._again(lambda: self._http.post(path, params=params, files=files, headers=headers)), Predictions
        )

    def _upload_request(self, path: str, file: BinaryIO, headers: dict[str, str]) -> Callable[[], httpx.Request]:
        def build() -> httpx.Request:
            file.seek(0)
            return self._http.build_request("POST", path, content=file, headers=headers)

        return build


def _asked(recipe: Recipe) -> dict[str, object]:
    """What `recipe` leaves to the service is not sent."""
    return asdict(recipe, dict_factory=lambda pairs: {name: value for name, value in pairs if value is not None})
