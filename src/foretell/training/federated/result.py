"""What a federated run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from foretell.learners.contract import Learner


@dataclass(frozen=True)
class FederatedResult:
    """A trained learner, and how it came about.

    Attributes:
        learner: the server's learner at the end, in evaluation mode.
        rounds: one row a round: ``round``, ``participants``, ``completed``, ``failures``,
            ``capped``, ``samples`` and ``samples_cumulative`` (examples trained on, in replies
            that counted), ``bytes_down`` and ``bytes_up`` (serialised records of training),
            ``train_loss``, the server's own metrics, and ``clients_*``: means over the clients'
            tests. Round 0 is the model before training.
        clients: one row a client: ``client``, ``selected``, ``completed``, ``samples``, and its
            own test metrics at the last evaluation.
        selection_log: one row for each client asked in each round: ``round``, ``client``,
            ``samples``, ``failure`` (why its reply does not count; null if it does),
            ``capped_to``, and what the strategy adds (inclusion probabilities, multiplicities).
        statements: privacy statements, of strategies that make any.
        state: to go on from: ``run_federated(..., previous=result)``.
    """

    learner: Learner
    rounds: pl.DataFrame
    clients: pl.DataFrame
    selection_log: pl.DataFrame
    statements: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def failures(self) -> pl.DataFrame:
        """Replies that did not count: ``round``, ``client``, ``failure``."""
        if self.selection_log.is_empty():
            return pl.DataFrame(schema={"round": pl.Int64, "client": pl.Int64, "failure": pl.Utf8})
        return self.selection_log.filter(pl.col("failure").is_not_null()).select(
            "round", "client", "failure"
        )
