"""``foretell run``, ``predict``, ``compare``, ``audit``, ``report`` and ``list``."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from foretell import __version__
from foretell.cli import bundle as bundle_commands
from foretell.cli import data as data_commands
from foretell.cli import doctor as doctor_command
from foretell.cli import dp as dp_commands
from foretell.cli import evaluate as evaluate_command
from foretell.cli import feedback as feedback_commands
from foretell.cli import record as record_commands
from foretell.cli import replay as replay_command
from foretell.cli import serve as serve_command
from foretell.cli.arguments import Group
from foretell.cli.console import cell, number, reporting, stderr, stdout, stop, tell
from foretell.errors import ForetellError

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turns a history of events into decisions people can trust.",
)
app.add_typer(data_commands.app, name="data")
app.add_typer(feedback_commands.app, name="feedback")
app.add_typer(dp_commands.app, name="dp")
app.add_typer(bundle_commands.app, name="bundle")
app.command("serve")(serve_command.serve)
app.command("replay")(replay_command.replay)
app.command("doctor")(doctor_command.doctor)
app.command("evaluate")(evaluate_command.evaluate)
app.add_typer(record_commands.app, name="record")

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")]


def _version(wanted: bool) -> None:
    if wanted:
        stdout.print(f"foretell {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Turns a history of events into decisions people can trust."""


@app.command("run")
def run_command(
    recipe: Annotated[
        str | None,
        typer.Argument(help="a shipped recipe, or the path of a .toml file", show_default=False),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="a file, a public data set or a simulator instead")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a recipe's key")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="only these models of the recipe, with commas")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the run", show_default="runs/RECIPE-TIME")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="local, or ray for a cluster", show_default="local")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the interrupted run in --out")
    ] = False,
) -> None:
    """Makes a run: what a recipe describes, from data to a saved model and a report.

    foretell run offers

    foretell run demand

    foretell run demand --data sales.csv --set data.horizon=8 --set 'data.known=["price"]'

    foretell run --resume --out runs/demand-20260101-120000
    """
    signal.signal(signal.SIGTERM, stop)
    place = out
    if place is None and recipe is not None:
        place = Path("runs") / f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"

    def again() -> str | None:
        found = place is not None and (place / "run.json").is_file()
        return f"foretell run --resume --out {shlex.quote(str(place))}" if found else None

    with reporting(again):
        from foretell.errors import ParameterError
        from foretell.runs import recipe as recipes
        from foretell.runs import runner

        loaded = None
        if recipe is not None:
            loaded = recipes.load(recipe, data=data, settings=settings or ())
            if models is not None:
                loaded = loaded.only([m.strip() for m in models.split(",")])
        elif data is not None or settings or models is not None:
            raise ParameterError("--data, --set and --models change a recipe: name one")
        if resume:
            if out is None:
                raise ParameterError("--resume needs --out, the folder of the interrupted run")
            folder = runner.resume(
                out, recipe=loaded, engine=engine, progress=stderr.is_terminal, tell=tell
            )
        elif loaded is None or place is None:
            raise ParameterError(f"name a recipe: {', '.join(recipes.shipped())}, or a .toml file")
        else:
            command = shlex.join(["foretell", *sys.argv[1:]])
            folder = runner.run(
                loaded,
                place,
                engine=engine or "local",
                command=command,
                progress=stderr.is_terminal,
                tell=tell,
            )
        _show(folder.read())
        stdout.print(f"\nreport: {folder.path / 'report.html'}", markup=False)


@app.command()
def predict(
    run: RunArgument,
    data: Annotated[str, typer.Option(help="file with the columns that the run's data had")],
    out: Annotated[Path, typer.Option(help="folder for predictions.parquet and what is decided")],
    quantiles: Annotated[
        str | None, typer.Option(help="levels with commas; the recipe's by default")
    ] = None,
    future: Annotated[
        str | None, typer.Option(help="table of known covariates ahead; the recipe's by default")
    ] = None,
    static: Annotated[
        str | None, typer.Option(help="table of attributes; the recipe's by default")
    ] = None,
    items: Annotated[
        str | None, typer.Option(help="table of stock and costs; the recipe's by default")
    ] = None,
) -> None:
    """Applies a run's saved model to new data: forecasts and orders, or scores and decisions."""
    with reporting():
        from foretell.runs.runner import predict_run

        options: dict[str, Any] = {"future": future, "static": static, "items": items}
        if quantiles is not None:
            wanted = quantiles.split(",")
            options["quantiles"] = [number(q, "a quantile level, e.g. 0.9") for q in wanted]
        given = {name: value for name, value in options.items() if value is not None}
        for file in predict_run(run, data, out, **given):
            stdout.print(str(file), markup=False)


@app.command()
def compare(
    first: RunArgument,
    second: RunArgument,
    metric: Annotated[
        str | None, typer.Option(help="the score to compare", show_default="the main one")
    ] = None,
) -> None:
    """Compares two runs' models score by score."""
    with reporting():
        from foretell.runs.compare import compare_runs

        table = compare_runs(first, second, metric)
        shown = Table(*table.columns, title=f"{metric or 'main score'}: {first} and {second}")
        for row in table.iter_rows():
            shown.add_row(*[cell(value) for value in row])
        stdout.print(shown)


@app.command()
def audit(
    run: RunArgument,
    shadows: Annotated[
        int, typer.Option(help="shadow models an attack; 0 for the attack on losses alone")
    ] = 8,
    targets: Annotated[
        int | None, typer.Option(help="how many models are attacked", show_default="all")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="which of the run's models", show_default="the one it kept")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the halves and the trainings")] = 0,
    engine: Annotated[
        str | None, typer.Option(help="local, or ray for a cluster", show_default="the run's own")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="forget an earlier audit")] = False,
) -> None:
    """Measures what a run's training gives away about its data: audit.json and audit.html.

    Models are trained by the run's own recipe on random halves of its data; each is then attacked
    with the others as shadow models. An interrupted audit goes on when it is called again.
    """
    signal.signal(signal.SIGTERM, stop)

    def again() -> str:
        return shlex.join(["foretell", *sys.argv[1:]])

    with reporting(again):
        from foretell.runs.auditing import audit_run

        found, page = audit_run(
            run, shadows=shadows, targets=targets, model=model, seed=seed, engine=engine,
            anew=anew, tell=tell,
        )  # fmt: skip
        shown = Table(
            "attack", "AUC", "balanced accuracy", "TPR at 0.1%", "95% interval",
            title=f"attacker: {found.threat_model}",
        )  # fmt: skip
        for row in found.summaries:
            point = row.points[1]
            interval = "-" if point.tpr is None else f"{cell(point.low)} to {cell(point.high)}"
            shown.add_row(
                row.attack, cell(row.auc), cell(row.balanced_accuracy), cell(point.tpr), interval
            )
        stdout.print(shown)
        if found.invalid:
            stderr.print(f"invalid: {found.invalid}", style="red", markup=False)
        stdout.print(f"\nreport: {page}", markup=False)


@app.command()
def report(run: RunArgument) -> None:
    """Draws a run's report anew."""
    with reporting():
        from foretell.runs.runner import redraw_report

        stdout.print(str(redraw_report(run)), markup=False)


@app.command("list")
def list_command(
    folder: Annotated[Path, typer.Argument(help="folder that holds runs")] = Path("runs"),
) -> None:
    """Lists the runs in a folder, the newest first, and the shipped recipes."""
    from foretell.runs.folder import list_runs
    from foretell.runs.recipe import shipped

    names = ("status", "started", "data", "best", "score")
    # A name cut short could not be given to another command.
    table = Table(Column("run", overflow="fold"), *names, title=f"runs in {folder}")
    for path, record in list_runs(folder):
        source = record.get("data", {}).get("source", "")
        best = record.get("best") or ""
        table.add_row(
            path.name, record["status"], record["started"], source, best, _main_score(record, best)
        )
    stdout.print(table)
    stdout.print(f"recipes: {', '.join(shipped())}", markup=False)


def _main_score(record: Mapping[str, Any], model: str) -> str:
    """A model's main score, one value a protocol."""
    from foretell.runs.runner import task_of

    try:
        name, title = next(iter(task_of(record).scores.items()))
    except ForetellError:  # the run of a newer foretell
        return ""
    scores = record.get("metrics", {}).get(model, {}).values()
    values = ", ".join(cell(protocol.get(name)) for protocol in scores)
    return f"{title} {values}" if values else ""


def _show(record: Mapping[str, Any]) -> None:
    """Leaderboards of a finished run."""
    from foretell.runs.runner import task_of

    columns = task_of(record).scores
    for protocol, board in record["leaderboard"].items():
        table = Table("", "model", *columns.values(), title=f"{record['title']}: {protocol}")
        for row in board:
            scores = record["metrics"][row["model"]][protocol]
            cells = [cell(scores.get(name)) for name in columns]
            table.add_row(cell(row["rank"]), row["model"], *cells)
        stdout.print(table)
