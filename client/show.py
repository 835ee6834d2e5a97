"""What there is, and what came of jobs, as tables and lines for the terminal. For consoles without markup, as names may
look like it."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from client import steps
from client.errors import Refused
from client.forms import Form, Runtimes
from client.profiles import Costs, CurvePoint, Figures, Probe
from client.recipe import Recipe
from client.values import (
    Alias,
    Backbone,
    Candidate,
    Dataset,
    Experiment,
    Job,
    Model,
    OldLabels,
    Place,
    Plan,
    Planned,
    Prediction,
    Ranking,
    Treatment,
)


def succeeded(job: Job) -> Job:
    """`job`, which has ended well. Raises `Refused` with the reason where it has not."""
    if job.state == "succeeded":
        return job
    if job.error is None:
        raise Refused(f"job {job.id} is {job.state}")
    raise Refused(f"job {job.id} failed ({job.error.code}): {job.error.message}")


def best(prediction: Prediction) -> str:
    """The labels of an image in one line, the most probable first."""
    labels = ", ".join(f"{item.label} {100 * item.probability:.1f} %" for item in prediction.labels)
    labels = labels or "no label is that probable"
    return f"{labels}; but less like the photos it knows than 19 of 20 of them are" if prediction.unknown else labels


def jobs(rows: Iterable[Job]) -> Iterator[RenderableType]:
    """The jobs, and a line for each that is at work or has failed."""
    table = _table("Job", "Kind", "State", "Model", "Attempt", "Created (UTC)", whole=("Job", "Kind", "State"))
    lines = []
    for job in rows:
        attempt = f"{job.attempt}/{job.max_attempts}"
        table.add_row(job.id, job.kind, job.state, job.model_name or "", attempt, _date(job.created_at))
        if job.error is not None:
            lines.append(Text(f"{job.id}: {job.error.code}: {job.error.message}", style="red"))
        elif job.progress is not None and not job.has_ended:
            lines.append(Text(f"{job.id}: {steps.phase(job.progress)}", style="dim"))
    yield table
    yield from lines


def datasets(rows: Iterable[Dataset]) -> Table:
    table = _table("Data set", "Newest version", "Created (UTC)")
    for dataset in rows:
        newest = "" if dataset.latest_version is None else str(dataset.latest_version)
        table.add_row(dataset.name, newest, _date(dataset.created_at))
    return table


def models(rows: Iterable[Model]) -> Table:
    table = _table("Model", "Newest version", "Aliases", "Created (UTC)")
    for model in rows:
        aliases = ", ".join(f"{alias.name} @{alias.version}" for alias in model.aliases)
        table.add_row(model.name, str(model.latest_version), aliases, _date(model.created_at))
    return table


def aliases(model: str, rows: Iterable[Alias]) -> Table:
    table = _table("Alias", "Version", "Kept loaded", "Since (UTC)")
    for alias in rows:
        kept = "yes" if alias.keep_loaded else ""
        table.add_row(f"{model}:{alias.name}", str(alias.version), kept, _date(alias.updated_at))
    return table


def backbones(rows: Iterable[Backbone]) -> Table:
    table = _table("Backbone", "Year", "Parameters", "GMAC", "Pixels", "Top-1", "Weights")
    for entry in rows:
        top1 = entry.weights[0].top1 if entry.weights else None
        table.add_row(
            entry.name,
            str(entry.year),
            f"{entry.parameters / 1e6:.1f} M",
            f"{entry.gmac:.3f}",
            str(entry.input_size),
            "" if top1 is None else f"{top1:.1f} %",
            _weights(entry),
        )
    return table


def ranking(found: Ranking) -> Iterator[RenderableType]:
    """The networks in order, and what to know of it."""
    figures = found.figures
    table = _table("", "Network", "Probe", "LogME", "H-score", "kNN", "Parameters", "GMAC", "Size", "One image")
    for place, entry in zip(figures.places, figures.measured, strict=True):
        table.add_row(*_ranked(place, entry))
    setting = figures.setting
    drawn = f"Scores are of {setting.measured_labels} of {setting.classes} labels. " if setting.measured_labels else ""
    table.caption = (
        f"{drawn}In brackets the place that a score alone would give. Parameters and size are those with a classifier "
        "for your labels; GMAC: thousand millions of multiply-adds of one image."
    )
    table.caption_justify = "left"
    yield from (table, Text())
    yield from (Text(remark) for remark in figures.remarks)


def runtimes(found: Runtimes) -> Iterator[RenderableType]:
    """How each form did, and which is served."""
    for optimisation in found.optimisations:
        report = optimisation.report
        table = _table(
            "Form", "Accuracy", "Agreement", "Unknown", "One image", "On one thread", "Images/s", "Memory", ""
        )
        table.title = f"{report.machine.name}, {counted(report.machine.threads, 'thread')}, " + counted(
            report.images, "held-out image"
        )
        for form in report.forms:
            table.add_row(*_form(form))
        yield from (table, Text())
    for served in found.served:
        where = "" if served.device is None else f" on {served.device}"
        yield Text(f"Served{where}: {served.forms[0]}. {served.why}")


def _form(form: Form) -> Iterator[str]:
    yield form.name
    if form.figures is None or form.speed is None:
        yield from ("",) * 7
    else:
        speed, refused = form.speed, form.figures.refused
        yield from (f"{100 * form.figures.accuracy:.1f} %", f"{100 * form.figures.agreement:.1f} %")
        yield "" if refused is None else f"{100 * refused:.1f} %"
        together = f" ({speed.batch})" if speed.batch and speed.batch > 1 else ""
        yield from (f"{speed.latency_ms:.1f} ms", f"{speed.single_thread_ms:.1f} ms")
        yield f"{speed.images_per_second:.0f}{together}"
        yield "" if speed.memory_bytes is None else _size(speed.memory_bytes)
    yield form.reason or ""


def _ranked(place: Place, entry: Candidate) -> Iterator[str]:
    cost, by_score = entry.cost, place.by_score
    yield str(place.combined)
    yield entry.name + (" (has seen the images)" if entry.has_seen else "")
    yield f"{_accuracy(entry.probe)} ({by_score['probe']:g})"
    yield f"{entry.log_me:.3f} ({by_score['log_me']:g})"
    yield f"{entry.h_score:.3f} ({by_score['h_score']:g})"
    yield f"{100 * entry.neighbours:.1f} % ({by_score['neighbours']:g})"
    yield f"{cost.parameters / 1e6:.3g} M"
    yield "" if cost.macs is None else f"{cost.macs / 1e9:.3f}"
    yield from (_size(cost.size_bytes), f"{1000 * cost.latency.seconds:.1f} ms")


def planned(found: Planned, asked: Recipe) -> Iterator[RenderableType]:
    """What a training with the recipe that was `asked` for would do: what was measured, and then the plan with its
    reasons."""
    if found.profile is None:
        yield Text(f"{_why_unmeasured(asked)}\n", style="dim")
    else:
        figures = found.profile.figures
        yield from (_depths(figures), Text(), _curve("With fewer images, at the head", figures.curve), Text())
        if figures.random_curve:
            yield from (_curve("The same untrained", figures.random_curve), Text())
        yield from (Text(_costs(figures.costs), style="dim"), Text())
    yield Text(f"{found.plan.strategy} on {found.plan.backbone}", style="bold")
    yield from (Text(reason) for reason in found.plan.reasons)
    yield Text()
    yield _treatments(found.plan)
    yield Text(_forecast(found.plan))


def _why_unmeasured(asked: Recipe) -> str:
    if asked.base is not None:
        return "With a base nothing is measured, as the figures would be those of another network."
    if asked.strategy == "auto":
        return "Nothing is measured for this, as the plan says."
    return "Not measured with this backbone yet; --measure does that where there are weights and enough images."


def experiment(found: Experiment) -> Iterator[RenderableType]:
    """The runs of an experiment, a line for each that has failed, and its verdict."""
    table = _table("Run", "Accuracy", "95 %", "Seconds")
    for name, arm in found.arms.items():
        if arm.accuracy is None or arm.interval is None:
            table.add_row(name, arm.state)
            continue
        low, high = (100 * arm.interval[end] for end in ("low", "high"))
        table.add_row(name, f"{100 * arm.accuracy:.1f} %", f"{low:.1f} to {high:.1f} %", f"{arm.seconds:.0f}")
    yield table
    for name, arm in found.arms.items():
        if arm.error is not None:
            yield Text(f"{name}: {arm.error.code}: {arm.error.message}", style="red")
    if found.verdict is not None:
        yield from (Text(reason) for reason in found.verdict.reasons)


def old_labels(found: OldLabels) -> str:
    """What the labels of a base have lost, in one line, and another one where that is much."""
    line = (
        f"labels of the base, on {counted(found.images, 'validation image')} of the {_SPLITS[found.images_of]}: "
        f"{100 * found.base_accuracy:.1f} % before, {100 * found.accuracy_among_old:.1f} % among them now "
        f"({found.forgotten:+.1f} points forgotten), {100 * found.accuracy:.1f} % among all ({found.lost:+.1f} lost)"
    )
    return line if found.warning is None else f"{line}\n{found.warning}"


_SPLITS = {"base": "base", "version": "new version"}


def _treatments(plan: Plan) -> Table:
    table = _table("Stage", "Starts as", "Learning rate")
    for each in plan.treatments:
        table.add_row(each.stage, each.values, _rate(each))
    return table


def _rate(each: Treatment) -> str:
    if each.learning_rate is not None:
        return f"{each.learning_rate:.2g}"
    if each.stage != "head":
        return "stays as it is"
    return "" if each.values == "fitted" else "fitted"


def _forecast(plan: Plan) -> str:
    said = []
    if plan.expected is not None:
        said.append(f"Expected accuracy: {100 * plan.expected.low:.0f} to {100 * plan.expected.high:.0f} %.")
    if plan.estimate is not None:
        seconds, memory = plan.estimate.seconds, plan.estimate.memory_bytes
        room = "" if memory is None else f", {_size(memory)} of memory"
        said.append(f"Estimated: {_time(seconds)}{room}.")
    return " ".join(said)


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _time(seconds: float) -> str:
    """As the pages of the service tell times that are estimated."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.3g} h"


def _size(size_bytes: int) -> str:
    if size_bytes < 1e5:
        return "< 0.1 MB"
    if size_bytes < 1e9:
        return f"{size_bytes / 1e6:.{1 if size_bytes < 1e7 else 0}f} MB"
    return f"{size_bytes / 1e9:.1f} GB"


def _depths(figures: Figures) -> Table:
    scores = ("Log-loss", "LogME", "H-score", "Neighbours")
    table = _table("Depth", "Features", "Accuracy", *scores, "Untrained", whole=("Features", *scores))
    drawn = f" of {figures.measured_labels} of {figures.classes} labels" if figures.measured_labels else ""
    images = f"{figures.measured} of {figures.images} training images{drawn}"
    table.title = f"{figures.backbone}, {figures.weights}: {images}"
    untrained = {depth.name: _accuracy(depth.probe) for depth in figures.random}
    for depth in figures.depths:
        table.add_row(
            depth.name,
            str(depth.features),
            _accuracy(depth.probe),
            f"{depth.probe.log_loss:.3f}",
            f"{depth.log_me:.3f}",
            f"{depth.h_score:.3f}",
            f"{100 * depth.neighbours:.1f} %",
            untrained.get(depth.name, ""),
        )
    every, log_loss = str(sum(depth.features for depth in figures.depths)), f"{figures.together.log_loss:.3f}"
    of_random = "" if figures.random_together is None else _accuracy(figures.random_together)
    table.add_row("all together", every, _accuracy(figures.together), log_loss, "", "", "", of_random)
    return table


def _curve(title: str, points: Sequence[CurvePoint]) -> Table:
    table = _table("Images", "Accuracy", "Log-loss")
    table.title = title
    for point in points:
        table.add_row(str(point.images), _accuracy(point.probe), f"{point.probe.log_loss:.3f}")
    return table


def _accuracy(probe: Probe) -> str:
    return f"{100 * probe.accuracy:.1f} ± {100 * probe.error:.1f} %"


def _costs(costs: Costs) -> str:
    decode, forward, step = (f"{1000 * seconds:.1f} ms" for seconds in (costs.decode, costs.forward, costs.step))
    where = f"{costs.device}, {counted(costs.threads, 'thread')}"
    return f"An image takes {decode} to decode, {forward} through the network, {step} in a full training ({where})."


def _weights(entry: Backbone) -> str:
    if not entry.weights:
        return "none, trains from scratch"
    return "at hand" if entry.weights[0].at_hand else "to be downloaded"


def _date(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _table(*headings: str, whole: Collection[str] = ()) -> Table:
    """Columns are folded where there is no room, those of `whole` last."""
    table = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in whole)
    return table
