"""Features of one stay hour by hour, as a live feed needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.binning import HourlyBinner, Observation
from foretell.data.clinical.feature_spec import Statistics
from foretell.errors import ParameterError

if TYPE_CHECKING:
    from foretell.data.clinical.features import CausalFeatureBuilder


class FeatureStream:
    """Features of one stay, hour by hour; made by :meth:`CausalFeatureBuilder.stream`.

    Give single observations with :meth:`add` and close hours with :meth:`close`, or give whole
    rows with :meth:`step`.
    """

    def __init__(
        self,
        builder: CausalFeatureBuilder,
        static: NDArray[np.float32],
        start: int,
        statistics: Statistics | None,
    ) -> None:
        self._builder, self._static, self.start = builder, static, start
        self._statistics = statistics
        self._state, self._ring, self._clock = builder._memory()
        self._binner = HourlyBinner(builder.schema)
        self._binner.closed = start - 1

    @property
    def hour(self) -> int:
        """The last hour that was closed; ``start - 1`` at first."""
        return self.start - 1 + int(self._clock[0])

    def add(self, observation: Observation) -> bool:
        """Takes an observation; see :meth:`HourlyBinner.add`."""
        return self._binner.add(observation)

    def close(self) -> NDArray[np.float32]:
        """(F,) features of the next hour, from the observations that arrived by its end."""
        return self.step(self._binner.close(self._binner.closed + 1))

    def step(self, row: ArrayLike) -> NDArray[np.float32]:
        """(F,) features of the next hour from its row (C,), NaN where nothing was measured."""
        from foretell.data.clinical import feature_kernel as kernel

        b = self._builder
        values = np.array(row, np.float32, ndmin=2)
        if values.shape != (1, len(b.schema)):
            raise ParameterError(f"a row has {len(b.schema)} channels, not {np.shape(row)}")
        out = np.empty((1, b.n_features), np.float32)
        kernel.advance(
            values, b._low, b._high, b._windows, b._blocks, b._ratios, b._ratio_column,
            self._state, self._ring, self._clock, out,
        )  # fmt: skip
        out[0, b._static_column :] = self._static
        if "hour" in b.spec.static:
            out[0, b.names.index("hour")] = self.hour
        if self._binner.closed < self.hour:
            self._binner.closed = self.hour
        if self._statistics is not None:
            kernel.scale(out, b._kinds, self._statistics.mean, self._statistics.divisor)
        return out[0]

    def snapshot(self) -> dict[str, NDArray]:
        """The state of closed hours as plain arrays, for :meth:`restore`.

        Observations of the open hour are not in it: a service replays them from its log.
        """
        return {
            "state": self._state.copy(),
            "ring": self._ring.copy(),
            "clock": self._clock.copy(),
        }

    def restore(self, snapshot: Mapping[str, NDArray]) -> FeatureStream:
        """Goes on from a snapshot of a stream of the same builder and stay.

        Raises:
            ParameterError: the snapshot does not fit the builder.
        """
        held = {"state": self._state, "ring": self._ring, "clock": self._clock}
        for name, array in held.items():
            given = np.asarray(snapshot.get(name))
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ParameterError(f"{name!r} of the snapshot does not fit these features")
            array[:] = given
        self._binner = HourlyBinner(self._builder.schema)
        self._binner.closed = self.hour
        return self
