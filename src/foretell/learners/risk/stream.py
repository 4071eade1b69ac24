"""The risk of one stay hour by hour, as a live feed needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.binning import Observation
from foretell.errors import ParameterError

Memory = Mapping[str, NDArray]
"""What a model carries from hour to hour, as plain arrays by name."""


class HourlyModel(Protocol):
    """What a stream needs of a model: a memory, and one hour's step."""

    def memory(self) -> Memory:
        """The memory before the first hour."""
        ...

    def advance(self, memory: Memory, features: NDArray[np.float32]) -> tuple[float, Memory]:
        """The risk of an hour with features (F,), and the memory after it."""
        ...


class HourlyFeatures(Protocol):
    """Features of one stay hour by hour: :class:`~foretell.data.clinical.FeatureStream` and kin."""

    @property
    def hour(self) -> int:
        """The last hour that was closed."""
        ...

    def add(self, observation: Observation) -> bool:
        """Takes an observation of the open hour."""
        ...

    def close(self) -> NDArray[np.float32]:
        """(F,) features of the next hour from its observations."""
        ...

    def step(self, row: ArrayLike) -> NDArray[np.float32]:
        """(F,) features of the next hour from its row (C,)."""
        ...

    def snapshot(self) -> dict[str, NDArray]:
        """The state of closed hours."""
        ...

    def restore(self, snapshot: Mapping[str, NDArray]) -> Any:
        """Goes on from a snapshot."""
        ...


class RiskStream:
    """Risks of one stay, hour by hour; equal to the batch prediction of the same rows.

    Give single observations with :meth:`add` and close hours with :meth:`close`, or give whole
    rows with :meth:`step`. Made by ``stream`` of a fitted model.
    """

    def __init__(self, model: HourlyModel, features: HourlyFeatures) -> None:
        self._model, self._features = model, features
        self._memory = dict(model.memory())
        self.last: NDArray[np.float32] | None = None

    @property
    def hour(self) -> int:
        """The last hour that was closed."""
        return self._features.hour

    @property
    def features(self) -> NDArray[np.float32] | None:
        """(F,) features of the last closed hour, None before the first."""
        return self.last

    def add(self, observation: Observation) -> bool:
        """Takes an observation of the open hour; see :class:`HourlyBinner`."""
        return self._features.add(observation)

    def close(self) -> float:
        """The risk at the end of the next hour, from what arrived by then."""
        return self._advance(self._features.close())

    def step(self, row: ArrayLike) -> float:
        """The risk at the end of the next hour from its row (C,), NaN where not measured."""
        return self._advance(self._features.step(row))

    def _advance(self, features: NDArray[np.float32]) -> float:
        self.last = features
        risk, memory = self._model.advance(self._memory, features)
        self._memory = dict(memory)
        return risk

    def snapshot(self) -> dict[str, NDArray]:
        """The state of closed hours as plain arrays, for :meth:`restore`."""
        held = self._features.snapshot()
        return held | {f"model_{name}": np.array(v) for name, v in self._memory.items()}

    def restore(self, snapshot: Mapping[str, NDArray]) -> Self:
        """Goes on from a snapshot of a stream of the same model and stay.

        Raises:
            ParameterError: the snapshot does not fit the model.
        """
        memory = {}
        for name, array in self._model.memory().items():
            given = np.asarray(snapshot.get(f"model_{name}"))
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ParameterError(f"'model_{name}' of the snapshot does not fit this model")
            memory[name] = given.copy()
        self._features.restore(snapshot)
        self._memory = memory
        return self
