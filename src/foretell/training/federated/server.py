"""Any learner as a Flower ServerApp: rounds, evaluation, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training.checkpoint import check_same, load_checkpoint, save_checkpoint
from foretell.training.federated.client import Workshop
from foretell.training.federated.flower import quiet
from foretell.training.federated.grid import InProcessGrid
from foretell.training.federated.guard import SizeCap
from foretell.training.federated.nodes import ClientGrid
from foretell.training.federated.records import load_record, to_numpy, to_record, travelling
from foretell.training.federated.rounds import Rounds
from foretell.training.federated.state import (
    client_states,
    load_strategy_state,
    strategy_state,
)

Evaluate = Callable[[Learner], Mapping[str, float]]


@dataclass
class Server:
    """What the server of a federation does, on whatever grid it is given.

    Attributes:
        workshop: builds the learner, as on the clients.
        strategy: Flower's, or one of ours.
        clients: number of clients.
        rounds: rounds to make.
        seed: of the choice of clients.
        evaluate: measures the learner on the server.
        evaluate_every: rounds between these measurements; the last round is always measured.
        evaluate_clients_every: rounds between evaluations on clients; None for never.
        evaluated: clients with test examples.
        cap: what sizes are believed; None for all.
        timeout: seconds a client may take for a round.
        previous: state of an earlier run to go on from.
        checkpoint: folder for a checkpoint after each round; None for none.
        resume: go on from that checkpoint, if there is one.
        settings: what a resumed run must find unchanged.
    """

    workshop: Workshop
    strategy: Strategy
    clients: int
    rounds: int
    seed: int = 0
    evaluate: Evaluate | None = None
    evaluate_every: int = 1
    evaluate_clients_every: int | None = None
    evaluated: list[int] = field(default_factory=list)
    cap: SizeCap | None = field(default_factory=SizeCap)
    timeout: float = 3600.0
    previous: dict[str, Any] | None = None
    checkpoint: Path | None = None
    resume: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def run(self, grid: Grid) -> dict[str, Any]:
        """Makes the rounds, and returns the state at their end."""
        learner = self.workshop.make()
        tensors = travelling(learner)
        state = self.previous
        rows: dict[str, list[dict[str, Any]]] = {"rounds": [], "clients": [], "evaluations": []}
        before = 0 if state is None else int(state["round"])
        total = before + self.rounds
        if self.resume and self.checkpoint is not None:
            saved = load_checkpoint(self.checkpoint)
            if saved is not None:
                check_same(saved["settings"], self.settings, self.checkpoint)
                state, rows = saved, saved["rows"]
                before = int(state["round"])
        arrays = to_record(tensors)
        if state is not None:
            self._restore(state, grid)
            renew = getattr(self.strategy, "renew_noise", None)
            if renew is not None and state is self.previous:
                # Of a model that may be gone on from more than once.
                renew()
            arrays = to_record(state["arrays"])
            load_record(tensors, arrays)
        ledger = getattr(self.strategy, "ledger", None)
        if ledger is not None and ledger.rounds != before:
            raise TrainingError(
                f"the strategy's ledger of privacy knows of {ledger.rounds} rounds, and the model "
                f"to go on from has made {before}: its statement would be false. Go on from a run "
                "with the same privacy; start from weights that no private data made by initial=; "
                "and make a strategy for each run"
            )
        if getattr(self.strategy, "current_arrays", None) is not None:
            # FedAvgM goes on from the model of its own last round, which need not be this one.
            self.strategy.current_arrays = None  # type: ignore[attr-defined]
        clients = ClientGrid(grid, self.clients)
        rounds = Rounds(
            self.strategy,
            seed=self.seed,
            before=before,
            total=total,
            cap=self.cap,
            evaluate_every=self.evaluate_clients_every,
            evaluated=self.evaluated,
        )
        rounds.rows, rounds.client_rows = list(rows["rounds"]), list(rows["clients"])
        rounds.evaluations = list(rows["evaluations"])
        rounds.samples = rounds.rows[-1]["samples_cumulative"] if rounds.rows else 0
        final: dict[str, Any] = {}

        def after_round(server_round: int, now: ArrayRecord) -> MetricRecord | None:
            number = before + server_round
            figures: dict[str, float] = {}
            due = number % self.evaluate_every == 0 or number == total
            if self.evaluate is not None and due and (server_round or not rounds.rows):
                load_record(tensors, now)
                learner.eval()
                figures = {name: float(v) for name, v in self.evaluate(learner).items()}
                if not rounds.rows:
                    rounds.rows.append(_first_row(number))
                rounds.rows[-1].update(figures)
            if server_round or total == before:
                final.update(self._state(number, now, rounds, grid))
                if self.checkpoint is not None:
                    save_checkpoint(self.checkpoint, final)
            return MetricRecord(figures) if figures else None  # type: ignore[arg-type]

        with quiet():
            if total > before:
                rounds.start(
                    clients,
                    arrays,
                    num_rounds=total - before,
                    timeout=self.timeout,
                    train_config=ConfigRecord(),
                    evaluate_fn=after_round,
                )
            else:
                final.update(self._state(before, arrays, rounds, grid))
        return final

    def app(self, done: Callable[[dict[str, Any]], None]) -> ServerApp:
        """The same as a Flower ServerApp, which hands its final state to ``done``."""
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            done(self.run(grid))

        return app

    def _state(
        self, number: int, arrays: ArrayRecord, rounds: Rounds, grid: Grid
    ) -> dict[str, Any]:
        return {
            "round": number,
            "settings": self.settings,
            "arrays": {name: to_numpy(array) for name, array in arrays.items()},
            "strategy": strategy_state(self.strategy),
            "clients": client_states(grid.states) if isinstance(grid, InProcessGrid) else {},
            "rows": {
                "rounds": [dict(row) for row in rounds.rows],
                "clients": rounds.client_rows,
                "evaluations": rounds.evaluations,
            },
        }

    def _restore(self, state: dict[str, Any], grid: Grid) -> None:
        load_strategy_state(self.strategy, state["strategy"])
        if state["clients"] and not isinstance(grid, InProcessGrid):
            raise TrainingError(
                "the run to go on from has clients that keep a state (an optimizer, control "
                "variates), which only backend='inprocess' can give back to them"
            )


def _first_row(number: int) -> dict[str, Any]:
    """The row of the model before any round."""
    counts = ("participants", "completed", "failures", "capped", "samples", "samples_cumulative")
    empty = dict.fromkeys((*counts, "bytes_down", "bytes_up"), 0)
    return {"round": number, **empty, "train_loss": None}


def check_rounds(rounds: int, timeout: float) -> None:
    """Refuses what is no number of rounds, and no time.

    Raises:
        ParameterError: out of range.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ParameterError(f"rounds must be a whole number >= 0, not {rounds!r}")
    if not timeout > 0:
        raise ParameterError(f"timeout must be a positive number of seconds, not {timeout!r}")


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows whose keys may differ as a table, missing values null."""
    if not rows:
        return pl.DataFrame()
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in names}, strict=False)
