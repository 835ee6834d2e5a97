"""The command line: `graft up`, `graft demo`, and the main job step by step against any service."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from client import aliases, bases, demo, imports, jobs, local, optimising, predicting, removing, show, steps, waiting
from client.api import Client
from client.connection import DEFAULT_URL
from client.errors import Problem, Refused
from client.options import Options, named, with_options
from client.recipe import Recipe
from client.terminal import Url, console, told_plainly
from client.values import Job, Planned

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_NO_DATASET = ""
"""What no data set is called: of a training on it the service says first whether all else is right."""

Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Port to listen at; if left out, 8000 or another that is free.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder for all that the service keeps; GRAFT_DATA_DIR or graft-data if left out."),
]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        console.print(f"graft {metadata.version('graft')}", highlight=False)
        raise typer.Exit


@app.callback()
def _graft(
    *,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version of Graft.")
    ] = False,
) -> None:
    """Labelled photos in, a served image classifier out."""


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = local.HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = local.PORT,
    data_dir: DataDir = None,
) -> None:
    """Run the service on this machine until Ctrl-C: the API, and one worker, over files in one folder."""
    with told_plainly():
        local.check_port(host, port)
        command = local.command(host=host, port=port)
    # The service takes the place of this process, so that signals reach it itself.
    os.execve(sys.executable, command, local.environment(data_dir))  # noqa: S606


@app.command("demo")
def run_demo(
    port: Port = None,
    data_dir: DataDir = None,
    leave: Annotated[bool, typer.Option("--exit", help="Stop the service at the end.")] = False,
) -> None:
    """Start a service, draw sample photos, fine-tune on them and predict; leaves the service up."""
    signal.signal(signal.SIGTERM, _interrupt)
    with told_plainly():
        chosen = local.port_or_free(port)
        try:
            _demonstrate(local.data_dir(data_dir), chosen, leave=leave)
        except KeyboardInterrupt:
            console.print("\nStopped.")


def _demonstrate(data_dir: Path, port: int, *, leave: bool) -> None:
    with ExitStack() as stack:
        with steps.step(console, "start the service") as step:
            running = stack.enter_context(local.service(data_dir, port=port))
            step.outcome = running.url
        client = stack.enter_context(Client(running.url))
        demo.run(client, console, folder=data_dir / "new-photos")
        if not leave:
            console.print("\nThe service stays up; Ctrl-C stops it.")
            running.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@app.command()
def migrate() -> None:
    """Bring the database to the newest revision: what GRAFT_DATABASE_URL names, or the file in GRAFT_DATA_DIR."""
    with told_plainly():
        local.command(host=local.HOST, port=local.PORT)
    raise typer.Exit(subprocess.run([sys.executable, "-m", "migrations", "upgrade"], check=False).returncode)


@app.command()
@with_options
def train(
    photos: Annotated[Path, typer.Argument(help="Folder with a folder of images per class, or a zip or tar of it.")],
    model: Annotated[str, typer.Option(help="Name of the model; one that exists gets a new version.")],
    dataset: Annotated[str | None, typer.Option(help="Name of the data set; the model's if left out.")] = None,
    *,
    options: Options,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload photos, fine-tune a backbone on them, and wait for the model."""
    recipe = options.recipe()
    with told_plainly(named), Client(url) as client:
        base = bases.of(client, recipe)
        if options.backbone is None:
            recipe = bases.with_its_backbone(recipe, base)
        _check(client, model, recipe)
        bases.check(client, recipe, base, photos, dataset or model)
        _train(client, imports.photos(client, photos, dataset or model), model, recipe)


def _check(client: Client, model: str, recipe: Recipe) -> None:
    """Raises `Problem` for a training that no photos would make right, before they are packed and sent."""
    try:
        client.train(_NO_DATASET, model, recipe)
    except Problem as problem:
        if problem.code != "dataset_not_found":
            raise


def _train(client: Client, dataset_id: str, model: str, recipe: Recipe) -> None:
    with steps.step(console, f"train {model}") as step:
        job = client.train(dataset_id, model, recipe)
        done = show.succeeded(waiting.ended(client, job.id, step))
        step.notes = list(dict.fromkeys([*(done.plan.reasons if done.plan else []), *step.notes]))
        result = done.result or {}
        step.outcome = f"{model}@{result['model_version']}, accuracy {100 * result['accuracy']:.1f} %"
        if recipe.base is not None:
            made = client.model_version(model, result["model_version"])
            step.notes += [show.old_labels(found) for found in made.old_labels]
    page = f"{client.url}/v1/models/{model}/versions/{result['model_version']}/evaluation"
    console.print(f"In a browser: {page}", highlight=False, soft_wrap=True)


@app.command()
@with_options
def plan(
    dataset: Annotated[str, typer.Argument(help="Name or id of a data set.")],
    version: Annotated[int | None, typer.Option(min=1, help="Version of the data set; the newest if left out.")] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure how well the network suits the data, and wait for that, also where the strategy is named; "
            "auto always does. Not with a base.",
        ),
    ] = False,
    *,
    options: Options,
    url: Url = DEFAULT_URL,
) -> None:
    """Say what a training would do and why, without training."""
    recipe = options.recipe()
    with told_plainly(named), Client(url) as client:
        if options.backbone is None:
            recipe = bases.with_its_backbone(recipe, bases.of(client, recipe))
        for part in show.planned(_planned(client, dataset, recipe, version, measure=measure), recipe):
            console.print(part)


def _planned(client: Client, dataset: str, recipe: Recipe, version: int | None, *, measure: bool) -> Planned:
    """The plan, after the jobs that it takes. Raises `Refused` where one of them would have to be done again."""
    found, done = client.plan(dataset, recipe, version=version, measure=measure), set[str]()
    while isinstance(found, Job):
        what = f"{'rank backbones on' if found.kind == 'rank' else 'measure'} {dataset}"
        if found.kind in done:
            raise Refused(f"the service has to {what} once more ({found.id}): ask again once that has ended")
        done.add(found.kind)
        with steps.step(console, what) as step:
            show.succeeded(waiting.ended(client, found.id, step))
        found = client.plan(dataset, recipe, version=version, measure=measure)
    return found


@app.command()
def rank(
    dataset: Annotated[str, typer.Argument(help="Name or id of a data set.")],
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="Network to compare, as often as there are; without one and without --model all at hand."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model of your own to compare: name, name@version, or name:alias.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Version of the data set; the newest if left out.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Say which network suits the data best and what each costs, without training any."""
    with told_plainly(named), Client(url) as client:
        with steps.step(console, f"rank backbones on {dataset}") as step:
            job = client.rank(dataset, backbones=backbone, models=model or (), version=version)
            done = show.succeeded(waiting.ended(client, job.id, step))
        found = client.ranking((done.result or {})["ranking"])
        for part in show.ranking(found):
            console.print(part)
        console.print(f"{client.url}/v1/rankings/{found.id} shows it as a page with a chart.", style="dim")


@app.command()
def control(
    dataset: Annotated[str, typer.Argument(help="Name or id of a data set.")],
    model: Annotated[str, typer.Option(help="What the models are called, with -probe, -fine-tune, -scratch.")],
    backbone: Annotated[str, typer.Option(help="Network; `graft backbones` lists them.")] = "mobilenet_v2",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data of fine-tuning.")] = None,
    scratch_epochs: Annotated[int | None, typer.Option(min=1, help="... and of training from scratch.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Find out whether pre-training raises the final score on your photos, or only gets there faster."""
    with told_plainly(named), Client(url) as client:
        fine_tune = Recipe(backbone=backbone, strategy="full", epochs=epochs)
        scratch = Recipe(backbone=backbone, strategy="scratch", epochs=scratch_epochs)
        begun = client.create_experiment(dataset, model, backbone, fine_tune=fine_tune, scratch=scratch)
        left = [arm.job_id for arm in begun.arms.values()]
        for name, arm in begun.arms.items():
            left.remove(arm.job_id)
            with steps.step(console, f"{name}: {arm.model}") as step:
                step.outcome = waiting.ended(client, arm.job_id, step, begun_with=left).state
        ended = client.experiment(begun.id)
        for part in show.experiment(ended):
            console.print(part)
        console.print(f"In a browser: {client.url}/v1/experiments/{begun.id}", highlight=False, soft_wrap=True)
        lacking = [name for name, arm in ended.arms.items() if arm.state != "succeeded"]
        if lacking:
            raise Refused(f"these runs have not succeeded: {', '.join(lacking)}")


@app.command()
def datasets(url: Url = DEFAULT_URL) -> None:
    """List data sets, newest first."""
    with told_plainly(), Client(url) as client:
        console.print(show.datasets(client.datasets()))


@app.command()
def models(url: Url = DEFAULT_URL) -> None:
    """List models, newest first."""
    with told_plainly(), Client(url) as client:
        console.print(show.models(client.models()))


for _command in (
    predicting.predict,
    jobs.jobs,
    jobs.cancel,
    jobs.finish,
    jobs.pause,
    jobs.resume,
    jobs.retry,
    aliases.alias,
    aliases.aliases,
    aliases.rollback,
    removing.delete,
    removing.delete_dataset,
    optimising.optimise,
    optimising.runtimes,
    optimising.download,
):
    app.command()(_command)


@app.command()
def backbones(url: Url = DEFAULT_URL) -> None:
    """List the networks that can be fine-tuned, smallest first."""
    with told_plainly(), Client(url) as client:
        console.print(show.backbones(client.backbones()))
