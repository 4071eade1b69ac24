"""``foretell feedback``: training rows, models, comparisons and audits of late labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from foretell.cli.arguments import Group
from foretell.cli.console import cell, reporting, stdout, tell
from foretell.errors import DataError, ParameterError

if TYPE_CHECKING:
    import polars as pl

    from foretell.data.events import EventLog

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Labels that come late: rows to train on, models, comparisons, audits.",
)

LogOption = Annotated[
    str, typer.Option("--log", help="table of entities (id, t, features), or stored events")
]
OutcomesOption = Annotated[
    str | None, typer.Option(help="table of what happened to them (id, kind, t_outcome)")
]
WindowOption = Annotated[
    str | None, typer.Option(help="how long after exposure an outcome counts, e.g. 96h")
]
UnitOption = Annotated[
    str | None, typer.Option(help="unit of times that are numbers: s, min, h, d, w")
]
FeaturesOption = Annotated[
    str | None, typer.Option(help="columns to learn from, with commas; all by default")
]
ConversionOption = Annotated[str, typer.Option(help="the kind of outcome that is the label")]
EngagementOption = Annotated[
    str | None, typer.Option(help="kinds of outcomes before a conversion, with commas")
]
WaitingOption = Annotated[
    str | None, typer.Option("--wait", help="time from exposure to an entity's first row, e.g. 6h")
]


_TABLES = {
    "summary": "what is known",
    "delay_curve": "share of outcomes that have arrived, by age",
    "fake_negatives": "share of the rows without a conversion at an age that will convert",
    "weights": "what corrections leave of the rows",
}


@app.command()
def emit(
    log: LogOption,
    out: Annotated[Path, typer.Option(help="Parquet file for the rows")],
    outcomes: OutcomesOption = None,
    window: WindowOption = None,
    unit: UnitOption = None,
    features: FeaturesOption = None,
    conversion: ConversionOption = "conversion",
    protocol: Annotated[str, typer.Option(help="esdfm, funnel, defer, fnw, wait, ...")] = "esdfm",
    engagement: EngagementOption = None,
    wait: WaitingOption = None,
    since: Annotated[str | None, typer.Option(help="rows after this moment only")] = None,
    until: Annotated[str | None, typer.Option(help="rows up to this moment only")] = None,
) -> None:
    """Writes the training rows that a protocol emits, each with the label visible then.

    foretell feedback emit --log events.parquet --outcomes outcomes.parquet --window 96h --unit h
    --protocol funnel --engagement view --wait 6h --out rows.parquet
    """
    with reporting():
        from foretell.runs.folder import make_folder, write_table

        events = _read(log, outcomes, window, unit, features, conversion)
        if since is not None and until is not None:
            begin, stop = events.moment(_time(since)), events.moment(_time(until))
            if begin >= stop:
                raise ParameterError(f"--since {since} is not before --until {until}")
        rows = events.emit(
            protocol,
            0.0 if wait is None else _time(wait),
            since=-math.inf if since is None else _time(since),
            until=None if until is None else _time(until),
            engagement=_names(engagement),
        )
        make_folder(out.parent)
        tell(f"{len(rows):,} rows of {len(events):,} entities")
        stdout.print(str(write_table(rows.to_polars(), out)), markup=False)


@app.command()
def train(
    log: LogOption,
    out: Annotated[Path, typer.Option(help="folder for the model")],
    outcomes: OutcomesOption = None,
    window: WindowOption = None,
    unit: UnitOption = None,
    features: FeaturesOption = None,
    conversion: ConversionOption = "conversion",
    method: Annotated[str, typer.Option(help="funnel, esdfm, fnw, defer, ...")] = "auto",
    engagement: EngagementOption = None,
    wait: WaitingOption = None,
    until: Annotated[
        str | None, typer.Option(help="the moment to train at", show_default="the last outcome")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(help="pre-train on labels final at this moment", show_default="--until"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of everything that is random")] = 0,
) -> None:
    """Trains a network on what is visible now and saves it.

    It learns from the labels that are final, then from the rows that came after them.
    """
    with reporting():
        from foretell.estimators.feedback import DelayedFeedbackClassifier

        events = _visible(_read(log, outcomes, window, unit, features, conversion), until)
        model = DelayedFeedbackClassifier(
            method=method,
            engagement=_names(engagement),
            waiting_time="auto" if wait is None else _time(wait),
            random_state=seed,
        )
        begin = events.now if history is None else events.moment(_time(history))
        model.fit_history(events, until=begin)
        final = (events.times <= begin) & (events.deadlines <= begin)
        tell(f"learned from {int(final.sum()):,} final labels")
        if not final.all():
            rows = events.select(~final).emit(**model.emission())
            model.partial_fit(rows)
            tell(f"learned from {len(rows):,} rows of entities whose labels were not final")
        model.save(out)
        stdout.print(str(out), markup=False)


@app.command()
def evaluate(
    log: LogOption,
    start: Annotated[str, typer.Option(help="where the comparison begins")],
    end: Annotated[str, typer.Option(help="where it ends; labels must be final by then")],
    outcomes: OutcomesOption = None,
    window: WindowOption = None,
    unit: UnitOption = None,
    features: FeaturesOption = None,
    conversion: ConversionOption = "conversion",
    methods: Annotated[str, typer.Option(help="methods with commas")] = "esdfm",
    engagement: EngagementOption = None,
    wait: WaitingOption = None,
    bucket: Annotated[str, typer.Option(help="predict and learn in steps of this")] = "1h",
    out: Annotated[Path | None, typer.Option(help="Parquet file for the table")] = None,
    seed: Annotated[int, typer.Option(help="of everything that is random")] = 0,
) -> None:
    """Compares methods on the past: each step is predicted first, then learned from.

    Rows for training on labels as they stand, for waiting until they are final and for knowing
    them at once are always there.
    """
    with reporting():
        from foretell.estimators.feedback import DelayedFeedbackClassifier
        from foretell.evaluation.feedback import prequential
        from foretell.runs.folder import make_folder, write_table

        events = _read(log, outcomes, window, unit, features, conversion)
        kinds = _names(engagement)
        models = {
            name: DelayedFeedbackClassifier(
                method=name,
                engagement=kinds if name == "funnel" else (),
                waiting_time="auto" if wait is None else _time(wait),
            )
            for name in _names(methods)
        }
        result = prequential(models, events, _time(start), _time(end), _time(bucket), seeds=(seed,))
        columns = {"nll": "NLL", "auc": "AUC", "ratio": "said/happened", "ece": "ECE"}
        table = Table("method", "rows", *columns.values(), title=f"{start} to {end}")
        for row in result.summary().sort("nll").iter_rows(named=True):
            table.add_row(row["method"], f"{row['n']:,}", *[cell(row[name]) for name in columns])
        stdout.print(table)
        if out is not None:
            make_folder(out.parent)
            stdout.print(str(write_table(result.table, out)), markup=False)


@app.command()
def audit(
    log: LogOption,
    outcomes: OutcomesOption = None,
    window: WindowOption = None,
    unit: UnitOption = None,
    features: FeaturesOption = None,
    conversion: ConversionOption = "conversion",
    engagement: EngagementOption = None,
    now: Annotated[
        str | None, typer.Option(help="look from this moment", show_default="the last outcome")
    ] = None,
) -> None:
    """Says how late labels are, and how many of today's negatives are none."""
    with reporting():
        from foretell.evaluation.feedback.audit import feedback_audit

        events = _visible(_read(log, outcomes, window, unit, features, conversion), now)
        found = feedback_audit(events, engagement=_names(engagement))
        for name, title in _TABLES.items():
            table = found.to_polars()[name]
            if name == "delay_curve":
                table = table.filter(estimate="product_limit").drop("estimate")
            _print(title, table)
        for note in found.notes:
            tell(note)


def _read(
    source: str,
    outcomes: str | None,
    window: str | None,
    unit: str | None,
    features: str | None,
    conversion: str,
) -> EventLog:
    from foretell.runs.feedback.recipe import DataSection
    from foretell.runs.feedback.sources import load_log

    given: dict[str, Any] = {
        "outcomes": outcomes,
        "attribution_window": None if window is None else _time(window),
        "unit": unit,
        "features": None if features is None else list(_names(features)),
    }
    kept = {name: value for name, value in given.items() if value is not None}
    events, _ = load_log(DataSection(source=source, conversion=conversion, **kept))
    for note in events.notes:
        tell(note.message)  # which says how many
    if not events.label().any():
        _refuse_no_label(events, outcomes or source, conversion)
    return events


def _refuse_no_label(events: EventLog, source: str, conversion: str) -> None:
    """Says why no entity ever converts, which is a slip of an option or of a table."""
    named = repr(conversion)
    if any(note.kind == "after_window" and named in note.message for note in events.notes):
        raise DataError(
            f"all outcomes {conversion!r} come after the window of {events.window:g}",
            file=source,
            hint="Lengthen --window",
        )
    others = [kind for kind in events.kinds if kind != conversion]
    if others:
        raise DataError(
            f"no outcome of kind {conversion!r}, the label; the kinds here are {others}",
            file=source,
            hint="Name the kind that is the label by --conversion",
        )
    raise DataError("there are no outcomes", file=source, hint="Give their table by --outcomes")


def _visible(events: EventLog, now: str | None) -> EventLog:
    """The log as it is at a moment; at its last event where none is given."""
    if now is not None:
        return events.until(_time(now))

    last = float(events.times.max())
    for kind in events.kinds:
        times = events.outcome_times(kind)
        last = max(last, float(times[np.isfinite(times)].max(initial=last)))
    return events.until(min(last, events.now))


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _time(text: str) -> float | str:
    """A number, or text such as 96h or a date."""
    try:
        return float(text)
    except ValueError:
        return text


def _print(title: str, table: pl.DataFrame) -> None:
    # Blanks instead of underscores let headers break where the screen is narrow.
    shown = Table(*[name.replace("_", " ") for name in table.columns], title=title)
    for row in table.iter_rows():
        shown.add_row(*[_short(value) for value in row])
    stdout.print(shown)


def _short(value: object) -> str:
    if not isinstance(value, float) or not math.isfinite(value):
        return cell(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{round(value, 3):g}"
