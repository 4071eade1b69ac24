"""What moved the risk of an hour, in words: shared by the networks."""

from __future__ import annotations

from abc import abstractmethod

import polars as pl
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.stays import Stays
from foretell.learners.risk.attributions import (
    Method,
    contribution_table,
    last_rows,
    row_numbers,
)


class ExplainsHours:
    """A risk model that knows how much each feature contributes to an hour."""

    @abstractmethod
    def contributions(
        self, stays: Stays, rows: ArrayLike | None = None, *, method: Method
    ) -> NDArray:
        """(R, F) by how much each feature moves the hour."""

    @abstractmethod
    def _builder(self) -> CausalFeatureBuilder: ...

    @abstractmethod
    def _require_fit(self) -> None: ...

    def explain(
        self,
        stays: Stays,
        rows: ArrayLike | None = None,
        *,
        top: int = 10,
        method: Method = "integrated_gradients",
    ) -> pl.DataFrame:
        """The features that moved the risk of hours most, in words.

        Args:
            stays: any.
            rows: see :meth:`contributions`; the last hour of each stay by default.
            top: features of an hour that are listed.
            method: see :meth:`contributions`.

        Returns:
            See :func:`~foretell.learners.risk.attributions.contribution_table`.
        """
        self._require_fit()
        chosen = last_rows(stays) if rows is None else row_numbers(rows)
        builder = self._builder()
        return contribution_table(
            self.contributions(stays, chosen, method=method), builder.raw(stays, chosen),
            builder.names, builder.schema, top=top, rows=chosen,
        )  # fmt: skip
