"""Federated learning while data keep arriving and old data are deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
from flwr.serverapp.strategy import Strategy as ServerStrategy
from numpy.typing import NDArray

from foretell.errors import DataError, ParameterError
from foretell.learners.contract import Learner
from foretell.training.examples import Examples
from foretell.training.federated.clients import SplitClients
from foretell.training.federated.result import FederatedResult
from foretell.training.federated.run import run_federated
from foretell.training.federated.strategies import make_strategy

Rows = NDArray[np.int64]


class Buffer(Protocol):
    """What a client keeps of its examples from period to period."""

    def keep(self, held: Rows, new: Rows, seen: int, rng: np.random.Generator) -> Rows:
        """Rows after new ones came.

        Args:
            held: rows kept so far, oldest first.
            new: rows of this period, oldest first.
            seen: rows that came before this period.
            rng: the client's own randomness in this period.
        """
        ...


@dataclass(frozen=True)
class KeepAll:
    """Nothing is deleted."""

    def keep(self, held: Rows, new: Rows, seen: int, rng: np.random.Generator) -> Rows:
        """All rows."""
        return np.concatenate([held, new])


@dataclass(frozen=True)
class Window:
    """Examples are deleted when they are ``periods`` periods old."""

    periods: int = 1

    def __post_init__(self) -> None:
        _positive("a window's periods", self.periods)

    def keep(self, held: Rows, new: Rows, seen: int, rng: np.random.Generator) -> Rows:
        """Not used: :class:`ContinualClients` cuts by period."""
        return np.concatenate([held, new])


@dataclass(frozen=True)
class Fifo:
    """The last ``capacity`` examples of each client."""

    capacity: int = 10

    def __post_init__(self) -> None:
        _positive("a capacity", self.capacity)

    def keep(self, held: Rows, new: Rows, seen: int, rng: np.random.Generator) -> Rows:
        """The last rows."""
        return np.concatenate([held, new])[-self.capacity :]


@dataclass(frozen=True)
class Reservoir:
    """A uniform sample of ``capacity`` of all examples that a client ever had (Vitter 1985)."""

    capacity: int = 10

    def __post_init__(self) -> None:
        _positive("a capacity", self.capacity)

    def keep(self, held: Rows, new: Rows, seen: int, rng: np.random.Generator) -> Rows:
        """Algorithm R."""
        kept = held.tolist()
        for number, row in enumerate(new.tolist(), start=seen):
            if len(kept) < self.capacity:
                kept.append(row)
            elif (place := int(rng.integers(number + 1))) < self.capacity:
                kept[place] = row
        return np.array(kept, dtype=np.int64)


def make_buffer(buffer: str | Buffer) -> Buffer:
    """A buffer by name: ``keep_all``, ``window:1``, ``fifo:20`` or ``reservoir:20``.

    Raises:
        ParameterError: there is none of that name.
    """
    if not isinstance(buffer, str):
        return buffer
    name, _, value = buffer.partition(":")
    if name == "keep_all" and not value:
        return KeepAll()
    kinds: dict[str, Callable[..., Buffer]] = {
        "window": Window, "fifo": Fifo, "reservoir": Reservoir,
    }  # fmt: skip
    if name in kinds and (not value or value.isdigit()):
        return kinds[name](*([int(value)] if value else []))
    raise ParameterError(
        f"there is no buffer {buffer!r}: they are keep_all, window:W, fifo:N and reservoir:N"
    )


@dataclass(frozen=True)
class ContinualSchedule:
    """Periods in which data arrive, and the rounds of training in each.

    Args:
        periods: number of periods.
        rounds_per_period: rounds in each.
        buffer: what clients keep; see :func:`make_buffer`.
        reset_server: start the server's optimizer anew in each period; the model always goes on.

    Raises:
        ParameterError: a number that is not positive.
    """

    periods: int = 5
    rounds_per_period: int = 20
    buffer: str | Buffer = field(default_factory=lambda: Window(1))
    reset_server: bool = False

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        _positive("periods", self.periods)
        _positive("rounds_per_period", self.rounds_per_period)
        make_buffer(self.buffer)


class ContinualClients:
    """Clients whose examples arrive in periods; what they hold now is what their buffer kept.

    Args:
        examples: all examples.
        parts: rows of each client, in the order of their time.
        period: period of each example ``(N,)``, from 0.
        buffer: see :func:`make_buffer`.
        seed: of buffers that choose at random.

    Raises:
        DataError: a client has no period for a row.
    """

    def __init__(
        self,
        examples: Examples,
        parts: list[Rows],
        period: NDArray[np.int64],
        buffer: str | Buffer = "window:1",
        seed: int = 0,
    ) -> None:
        if len(period) != len(examples):
            raise DataError(f"there are {len(examples)} examples but {len(period)} periods")
        self._examples, self._arriving = examples, parts
        self._period = np.asarray(period, dtype=np.int64)
        self.buffer, self.seed = make_buffer(buffer), seed
        self._held: list[Rows] = [np.zeros(0, dtype=np.int64) for _ in parts]
        self._seen = np.zeros(len(parts), dtype=np.int64)
        self._split = SplitClients(examples, self._held)
        self.now = -1

    def __len__(self) -> int:
        return len(self._arriving)

    def advance(self) -> int:
        """Goes to the next period: examples arrive, buffers forget. Returns the period."""
        self.now += 1
        self._held = [self._after(client, rows) for client, rows in enumerate(self._arriving)]
        self._split = SplitClients(self._examples, self._held)
        return self.now

    def _after(self, client: int, rows: Rows) -> Rows:
        """Rows that a client holds in this period."""
        when = self._period[rows]
        if isinstance(self.buffer, Window):
            return rows[(when <= self.now) & (when > self.now - self.buffer.periods)]
        new = rows[when == self.now]
        if not len(new):
            return self._held[client]
        rng = np.random.default_rng((self.seed, client, self.now))
        held, seen = self._held[client], int(self._seen[client])
        self._seen[client] += len(new)
        return self.buffer.keep(held, new, seen, rng)

    def held(self, client: int) -> Rows:
        """Rows that a client holds now."""
        return self._held[client]

    def examples(self, client: int) -> Examples:
        """The examples that a client holds now."""
        return self._split.examples(client)

    def activity(self, client: int) -> int:
        """How many these are."""
        return len(self._held[client])


@dataclass(frozen=True)
class ContinualResult:
    """A learner that was trained over periods.

    Attributes:
        final: the result of the last period; its ``rounds`` and logs span all periods.
        periods: one row a period: ``period``, ``round`` (the last one), ``clients`` (with
            examples), ``examples`` held, the server's metrics at its end, and ``held_out_*``:
            metrics on the tests of each period.
        rounds: one row a round of all periods.
    """

    final: FederatedResult
    periods: pl.DataFrame
    rounds: pl.DataFrame

    def rounds_to(self, metric: str, target: float, share: float = 0.95) -> int | None:
        """The first round at which a metric reached a share of a target; None if none did.

        Args:
            metric: column of ``rounds``; higher is better.
            target: such as what training on all data at once reached.
            share: of the target.
        """
        reached = self.rounds.filter(pl.col(metric) >= share * target)
        return int(reached["round"][0]) if reached.height else None


def run_continual(
    build: Callable[[], Learner],
    clients: ContinualClients,
    schedule: ContinualSchedule,
    *,
    strategy: str | ServerStrategy = "fedavg",
    evaluate: Callable[[Learner], Mapping[str, float]] | None = None,
    evaluate_period: Callable[[Learner, int], Mapping[str, float]] | None = None,
    clients_per_round: int | None = None,
    selection: Any = None,
    aggregation: str | None = None,
    seed: int = 0,
    **options: Any,
) -> ContinualResult:
    """Trains period after period: buffers change, the model and the server's optimizer go on.

    Args:
        build: makes the learner.
        clients: whose buffers are moved on.
        schedule: periods and rounds; its buffer replaces that of the clients.
        strategy: see :func:`foretell.training.federated.run_federated`.
        evaluate: measures the learner after each round.
        evaluate_period: metrics at the end of a period, for its number: of the period's own test
            and of all before it, say.
        clients_per_round: see ``run_federated``.
        selection: see ``run_federated``.
        aggregation: see ``run_federated``.
        seed: of everything that is random.
        options: of ``run_federated``.

    Returns:
        The learner, and tables of periods and rounds.

    Raises:
        ParameterError: ``reset_server`` with a strategy that is an object.
    """
    if schedule.reset_server and not isinstance(strategy, str):
        raise ParameterError(
            "reset_server makes the strategy anew in each period, which takes its name: give "
            f"strategy='fedadam', say, instead of an object of {type(strategy).__name__}"
        )
    clients.buffer = make_buffer(schedule.buffer)
    named = ("eta", "beta_1", "beta_2", "tau", "proximal_mu", "server_momentum", "privacy")
    settings = {name: options.pop(name) for name in named if name in options}

    def made() -> ServerStrategy:
        return make_strategy(
            strategy, clients_per_round, selection=selection, aggregation=aggregation, seed=seed,
            **settings,
        ) if isinstance(strategy, str) else strategy  # fmt: skip

    algorithm = made()
    result: FederatedResult | None = None
    rows: list[dict[str, Any]] = []
    tables: list[pl.DataFrame] = []
    for _ in range(schedule.periods):
        period = clients.advance()
        if result is not None and schedule.reset_server:
            # Not what selection knows: above all the chances that privacy was spent on.
            own = result.state["strategy"]["own"]
            result = replace(result, state={**result.state, "strategy": {"arrays": {}, "own": own}})
            algorithm = made()
        forget = getattr(algorithm, "forget_activity", None)
        if forget is not None:
            forget()
        if result is not None and result.state["strategy"]["own"]:
            # The activities of the last period are no longer true.
            result.state["strategy"]["own"]["asked"] = []
        result = run_federated(
            build, clients, strategy=algorithm, rounds=schedule.rounds_per_period,
            evaluate=evaluate, previous=result, seed=seed, **options,
        )  # fmt: skip
        tables.append(result.rounds)
        sizes = np.array([clients.activity(c) for c in range(len(clients))])
        row: dict[str, Any] = {
            "period": period,
            "round": int(result.rounds["round"][-1]),
            "clients": int((sizes > 0).sum()),
            "examples": int(sizes.sum()),
        }
        if evaluate_period is not None:
            row.update(evaluate_period(result.learner, period))
        rows.append(row)
    assert result is not None
    joined = (
        pl.concat(tables, how="diagonal_relaxed")
        .unique("round", keep="first", maintain_order=True)
        .sort("round")
    )
    counted = joined.with_columns(pl.col("samples").cum_sum().alias("samples_cumulative"))
    return ContinualResult(result, pl.DataFrame(rows), counted)


def _positive(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParameterError(f"{what} must be a whole number from 1 on, not {value!r}")
