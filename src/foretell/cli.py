"""The command line: ``foretell run``, ``predict``, ``compare``, ``report``, ``list``, ``data``."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from foretell import __version__
from foretell.errors import ForetellError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turns a history of events into decisions people can trust.",
)
data_app = typer.Typer(no_args_is_help=True, help="Public data sets: what is known, what is here.")
app.add_typer(data_app, name="data")

_out = Console(soft_wrap=True, highlight=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")]


@contextmanager
def _reporting(again: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Turns errors into one clear line and an exit code: 2 for input, 3 for a failure.

    Args:
        again: how to go on after an interruption; asked then.
    """
    try:
        yield
    except ForetellError as error:
        _err.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        resume = again()
        _err.print("interrupted" + (f"; go on with: {resume}" if resume else ""), markup=False)
        raise typer.Exit(130) from None
    except MemoryError:
        _err.print("error: out of memory", style="red")
        raise typer.Exit(3) from None
    except OSError as error:
        _err.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(3) from None
    except typer.Exit:
        raise
    except Exception:
        traceback.print_exc()
        _err.print("error: this should not have happened; please report it", style="red")
        raise typer.Exit(3) from None


def _stop(number: int, frame: FrameType | None) -> None:
    """Acts like Ctrl-C, which a shell makes its background jobs ignore."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(f"foretell {__version__}")
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
    """Makes a run: backtests, scores, orders, a saved model and a report.

    foretell run demand

    foretell run demand --data sales.csv --set data.horizon=8 --set 'data.known=["price"]'

    foretell run --resume --out runs/demand-20260101-120000
    """
    signal.signal(signal.SIGTERM, _stop)
    place = out
    if place is None and recipe is not None:
        place = Path("runs") / f"{Path(recipe).stem}-{datetime.now():%Y%m%d-%H%M%S}"

    def again() -> str | None:
        found = place is not None and (place / "run.json").is_file()
        return f"foretell run --resume --out {shlex.quote(str(place))}" if found else None

    with _reporting(again):
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
                out, recipe=loaded, engine=engine, progress=_err.is_terminal, tell=_tell
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
                progress=_err.is_terminal,
                tell=_tell,
            )
        _show(folder.read())
        _out.print(f"\nreport: {folder.path / 'report.html'}", markup=False)


@app.command()
def predict(
    run: RunArgument,
    data: Annotated[str, typer.Option(help="file with the columns that the run's data had")],
    out: Annotated[Path, typer.Option(help="folder for predictions.parquet and orders.parquet")],
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
    """Forecasts new data with a run's saved model, and orders where the run had an order rule."""
    with _reporting():
        from foretell.runs.predict import predict_run

        levels = None if quantiles is None else [_number(q) for q in quantiles.split(",")]
        tables = {"future": future, "static": static, "items": items}
        for file in predict_run(run, data, out, quantiles=levels, **tables):
            _out.print(str(file), markup=False)


@app.command()
def compare(
    first: RunArgument,
    second: RunArgument,
    metric: Annotated[str, typer.Option(help="the score to compare")] = "wql",
) -> None:
    """Compares two runs' models score by score."""
    with _reporting():
        from foretell.runs.compare import compare_runs

        table = compare_runs(first, second, metric)
        shown = Table(*table.columns, title=f"{metric}: {first} and {second}")
        for row in table.iter_rows():
            shown.add_row(*[_cell(value) for value in row])
        _out.print(shown)


@app.command()
def report(run: RunArgument) -> None:
    """Draws a run's report anew."""
    with _reporting():
        from foretell.runs.predict import redraw_report

        _out.print(str(redraw_report(run)), markup=False)


@app.command("list")
def list_command(
    folder: Annotated[Path, typer.Argument(help="folder that holds runs")] = Path("runs"),
) -> None:
    """Lists the runs in a folder, the newest first, and the shipped recipes."""
    from foretell.runs.folder import list_runs
    from foretell.runs.recipe import shipped

    table = Table("run", "status", "started", "data", "best", "WQL", title=f"runs in {folder}")
    for path, record in list_runs(folder):
        best = record.get("best")
        scores = record.get("metrics", {}).get(best, {}) if best else {}
        wql = ", ".join(_cell(s.get("wql")) for s in scores.values())
        source = record.get("data", {}).get("source", "")
        table.add_row(path.name, record["status"], record["started"], source, best or "", wql)
    _out.print(table)
    _out.print(f"recipes: {', '.join(shipped())}", markup=False)


@data_app.command("list")
def data_list() -> None:
    """Lists the public data sets that foretell knows."""
    from foretell.data import registry

    table = Table("name", "what", "licence", "here", title=f"data sets in {registry.root()}")
    with _reporting():
        for row in registry.list_datasets().iter_rows(named=True):
            here = "yes" if row["present"] else "no"
            table.add_row(row["name"], row["title"], row["licence"], here)
        _out.print(table)


@data_app.command("path")
def data_path(name: Annotated[str, typer.Argument(help="a data set's name")]) -> None:
    """Prints the folder of a data set."""
    from foretell.data import registry

    with _reporting():
        _out.print(str(registry.path(name)), markup=False)


@data_app.command("check")
def data_check(name: Annotated[str, typer.Argument(help="a data set's name")]) -> None:
    """Checks that a data set's files are complete and readable."""
    from foretell.data import registry

    with _reporting():
        found = registry.check(name)
        for file in found:
            _out.print(f"{file.state:9} {file.path}: {file.detail}", markup=False)
        if any(file.state != "ok" for file in found):
            raise typer.Exit(2)


def _tell(line: str) -> None:
    _err.print(line, style="dim", markup=False)


def _show(record: dict) -> None:
    """Leaderboards of a finished run."""
    columns = {"wql": "WQL", "mase": "MASE", "wape": "WAPE", "calibration_error": "calibration"}
    for protocol, board in record["leaderboard"].items():
        table = Table("", "model", *columns.values(), title=f"{record['title']}: {protocol}")
        for row in board:
            scores = record["metrics"][row["model"]][protocol]
            cells = [_cell(scores.get(name)) for name in columns]
            table.add_row(str(row["rank"]), row["model"], *cells)
        _out.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _number(text: str) -> float:
    from foretell.errors import ParameterError

    try:
        return float(text)
    except ValueError:
        raise ParameterError(f"{text!r} is not a quantile level, e.g. 0.9") from None
