"""``foretell dp``: what noise guarantees, what noise a guarantee needs, what clipping costs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from foretell.cli.arguments import Group
from foretell.cli.console import reporting, stderr, stdout

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Differential privacy: guarantees, noise, speed. Training is by recipe: "
    "foretell run private-nlu.",
)

Rate = Annotated[float, typer.Option("--q", help="chance of each example to be in a step")]
Steps = Annotated[int, typer.Option(help="number of steps")]
Delta = Annotated[float, typer.Option(help="of (epsilon, delta), well below 1 / N")]
Micro = Annotated[
    int, typer.Option(help="examples a clipped micro-batch holds; 1 for exact clipping")
]
Decay = Annotated[float, typer.Option(help="factor on the noise after each pass over the data")]
Judge = Annotated[str, typer.Option(help="pld (tight) or rdp (quick)")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("epsilon")
def epsilon_command(
    noise: Annotated[float, typer.Option(help="noise over the clipping bound")],
    q: Rate,
    steps: Steps,
    delta: Delta,
    microbatch: Micro = 1,
    decay: Decay = 1.0,
    accountant: Judge = "pld",
    as_json: Json = False,
) -> None:
    """Prints what a training guarantees, whole.

    foretell dp epsilon --noise 1.1 --q .004 --steps 14062 --delta 1e-5
    """
    with reporting():
        from foretell.training.private.planning import planned_statement

        statement = planned_statement(
            q, steps, delta, noise=noise, microbatch_size=microbatch, decay=decay,
            accountant=accountant,  # type: ignore[arg-type]
        )  # fmt: skip
        _print(statement, as_json)


@app.command("noise")
def noise_command(
    epsilon: Annotated[float, typer.Option(help="to be met and not exceeded")],
    q: Rate,
    steps: Steps,
    delta: Delta,
    microbatch: Micro = 1,
    decay: Decay = 1.0,
    accountant: Judge = "pld",
    as_json: Json = False,
) -> None:
    """Prints the noise that a guarantee needs, with the guarantee.

    foretell dp noise --epsilon 8 --q .0391 --steps 306 --delta 3e-5
    """
    with reporting():
        from foretell.training.private.planning import planned_statement

        statement = planned_statement(
            q, steps, delta, target_epsilon=epsilon, microbatch_size=microbatch, decay=decay,
            accountant=accountant,  # type: ignore[arg-type]
        )  # fmt: skip
        first = statement.noise_multipliers[0] * statement.sensitivity_factor
        if not as_json:
            stdout.print(f"noise over the clipping bound: {first:.6g}", markup=False)
        _print(statement, as_json, noise=first)


@app.command("bench-clipping")
def bench_command(
    batch: Annotated[int, typer.Option(help="utterances a step")] = 64,
    length: Annotated[int, typer.Option(help="words of the longest")] = 32,
    repeats: Annotated[int, typer.Option(help="of which the least counts")] = 5,
    skip: Annotated[str, typer.Option(help="ways to leave out, with commas")] = "",
    as_json: Json = False,
) -> None:
    """Times a step in every way on this machine: not private, exact, ghost, loop, Opacus.

    CPU time with one thread, all ways interleaved in one process. Opacus only where it is
    installed.
    """
    with reporting():
        from foretell.training.private.timing import time_steps

        rows = time_steps(
            batch, length, repeats, skip=skip.split(","),
            tell=lambda line: stderr.print(line, style="dim", markup=False),
        )  # fmt: skip
        if as_json:
            stdout.print(json.dumps(rows, indent=1), markup=False, highlight=False)
            return
        table = Table(*rows[0], title=f"a step of {batch} utterances of {length} words")
        for row in rows:
            table.add_row(*["-" if value is None else str(value) for value in row.values()])
        stdout.print(table)


def _print(statement: Any, as_json: bool, **more: Any) -> None:
    if as_json:
        document = {**more, **statement.to_dict()}
        stdout.print(json.dumps(document, indent=1), markup=False, highlight=False, soft_wrap=True)
    else:
        stdout.print(str(statement), markup=False, soft_wrap=True)
