"""Stays as examples of survival: what each hour lies ahead of, and whether it was seen to come."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.labels import hours_to_onset
from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, ParameterError


class SurvivalTimes(NamedTuple):
    """What the likelihood needs of every row (R,).

    Args:
        time: hours to the onset, or to where it is censored: the horizon or the end of the record.
        event: whether the onset comes at ``time``.
        at_risk: rows before the onset; the hour of the onset and those after it are no examples.
    """

    time: NDArray[np.float32]
    event: NDArray[np.bool_]
    at_risk: NDArray[np.bool_]


def survival_times(stays: Stays, horizon: float = 12) -> SurvivalTimes:
    """Times to the onset, censored at the horizon and at the end of the record.

    Raises:
        ParameterError: the horizon is not positive.
    """
    if not horizon > 0:
        raise ParameterError(f"the horizon must be positive, not {horizon}")
    ahead = hours_to_onset(stays)
    last = np.repeat(stays.starts + stays.lengths - 1, stays.lengths)
    remaining = (last - stays.hours()).astype(np.float64)
    event = (ahead > 0) & (ahead <= horizon)
    # An onset that is known, although the record ends before it, censors nothing before it.
    seen = np.where(np.isfinite(ahead), horizon, np.minimum(horizon, remaining))
    time = np.where(event, ahead, seen)
    return SurvivalTimes(time.astype(np.float32), event, ahead > 0)


class SurvivalInputs:
    """How an hour's scaled features (F,) become the input (E,) of a net.

    The features come first as they are, then the piecewise-linear encoding of some of them.

    Args:
        encoder: fitted on ``columns``; keeps nothing of its input.
        columns: numbers of the features that are encoded.
    """

    def __init__(self, encoder: PiecewiseLinearEncoder, columns: ArrayLike) -> None:
        self.encoder, self.columns = encoder, np.asarray(columns, np.int64)

    @classmethod
    def learn(cls, features: NDArray, columns: ArrayLike, n_knots: int) -> SurvivalInputs:
        """Knots from rows (R, F) of the training part."""
        places = np.asarray(columns, np.int64)
        if len(places) == 0:
            none = PiecewiseLinearEncoder(keep=False)
            none.knots = []
            return cls(none, places)
        return cls(PiecewiseLinearEncoder(n_knots, keep=False).fit(features[:, places]), places)

    def width(self, features: int) -> int:
        """Number E of inputs for F features."""
        return features + self.encoder.n_outputs

    def owners(self, features: int) -> NDArray[np.int64]:
        """(E,) the feature that each input is made of."""
        knots = self.encoder.knots or []
        bins = [max(len(k) - 1, 0) for k in knots]
        return np.concatenate([np.arange(features), np.repeat(self.columns, bins)])

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(R, E) inputs of rows (R, F)."""
        if self.encoder.n_outputs == 0:
            return np.ascontiguousarray(features, np.float32)
        return np.concatenate([features, self.encoder.transform(features[:, self.columns])], axis=1)


class SurvivalExamples:
    """One stay an example: ``x`` ``(B, T, E)``, ``time``, ``event``, ``mask`` ``(B, T)``.

    Only hours at risk are kept; they are the first ones of a stay.

    Args:
        features: (R, F) scaled features of the rows at risk, stay after stay.
        time: (R,) see :class:`SurvivalTimes`.
        event: (R,) see :class:`SurvivalTimes`.
        lengths: (N,) such rows of each stay, none empty.
        inputs: makes inputs of features.
        weight: (N,) of each stay in the loss.
        longest: hours of a stay that are used, its first ones.

    Raises:
        DataError: sizes that differ, or a stay without an hour at risk.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        time: NDArray[np.float32],
        event: NDArray[np.bool_],
        lengths: ArrayLike,
        inputs: SurvivalInputs,
        *,
        weight: ArrayLike | None = None,
        longest: int = 336,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if not len(features) == len(time) == len(event) == self.lengths.sum():
            raise DataError(
                f"{len(features)} rows of features, {len(time)} times and {len(event)} events do "
                f"not fit lengths that add up to {self.lengths.sum()}"
            )
        if (self.lengths < 1).any() or len(self.lengths) == 0:
            raise DataError(
                "a stay has no hour at risk",
                hint="Leave stays out whose onset comes with the first hour or before",
            )
        self.features, self.time, self.event = features, time, event
        self.inputs, self.longest = inputs, longest
        self.weight = (
            np.ones(len(self.lengths), np.float32)
            if weight is None
            else np.asarray(weight, np.float32)
        )
        self._begins = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """Identifies the stays, so that a run is not resumed on other data."""
        digest = hashlib.sha256(np.ascontiguousarray(self.features).tobytes())
        for values in (self.time, self.event, self.lengths, self.weight):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def batch(
        self, indices: NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Stays ``indices`` as padded tensors ``(B, T, ...)``."""
        sizes = np.minimum(self.lengths[indices], self.longest)
        steps = np.arange(int(sizes.max(initial=0)))
        mask = steps < sizes[:, None]
        rows = (self._begins[indices][:, None] + steps)[mask]
        flat = self.inputs(self.features[rows])
        seen = torch.from_numpy(mask)
        batch = {"mask": seen, "weight": torch.from_numpy(self.weight[indices])}
        x = torch.zeros((*mask.shape, flat.shape[1]))
        x[seen] = torch.from_numpy(flat)
        batch["x"] = x
        # 1 in the padding keeps the logarithm finite; the mask keeps it out of the score.
        time, event = torch.ones(mask.shape), torch.zeros(mask.shape)
        time[seen] = torch.from_numpy(self.time[rows].astype(np.float32))
        event[seen] = torch.from_numpy(self.event[rows].astype(np.float32))
        return batch | {"time": time, "event": event}
