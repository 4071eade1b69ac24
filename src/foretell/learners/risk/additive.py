"""An additive risk net whose channels fade: monotone towards the population by construction.

COMPOSER's weighting module (Shashikumar, Wardi, Malhotra and Nemati, npj Digital Medicine 4:134,
2021) fades values in front of a net; a net behind faded values need not be monotone in them. Here
what a channel says of the risk fades instead, in a neural additive model (Agarwal, Melnick, Frosst
et al., NeurIPS 2021, equation 1):

    f(x, t) = b + sum_j h_j(u_j) + sum_c w_c(t_c) G_c(x_c),    G_c(x_c) = sum_(j of c) g_j(x_j)

with context ``u`` (age, hour, ...), values ``x_c`` of channel c, the hours ``t_c`` since it was
measured, and every ``g_j`` and ``h_j`` less its mean over the population: over equally likely
quantiles of the training hours, those in which the channel was known. ``w_c`` is 1 at 0 hours,
falls, and is 0 from 200 hours on, which is also where a channel stands that was never measured.

**The population mean in channel c** is the mean of f over the values ``X_c`` of the population,
all else as it is. It is ``f - w_c(t_c) G_c(x_c)``, whatever ``t_c``, because ``G_c(X_c)`` has mean
0; and so it is what f says where c was never measured. That age alone says nothing, in the mean,
is why contributions are centred by their mean and not at the mean value: where ``g_j(0) = 0``, a
net with a notch at 0 tells values that are there, and how new they are, from those that are not.

**One channel grows old.** The gap to the population mean in c is ``w_c(t_c) G_c(x_c)``: it keeps
its sign and shrinks, for all values, ages, contexts and parameters. Probabilities, monotone in
log-odds, do the same. A feature of two channels (a ratio of c and d) has the weight ``w_c w_d``, so
that f is linear in each weight, and moves straight to what it says without the channel.

**All channels grow old together, by s hours.** The gap to the mean in all of them is
``D(s) = P(s) - N(s)``, the sums of the contributions above and below 0. Both fall, so that D(s)
stays in ``[-N(s), P(s)]``, intervals about 0 of which each holds all later ones, and goes to 0. It
need not do so monotonically: where evidence for and against fades at different speed, what is left
over may grow before it goes. No choice of rates mends that but one. If the relative speeds
``-w'/w`` of two channels differ, r_1 < r_2, contributions of 1 and -(1 - e) have a gap e that
changes by ``-r_1 + r_2 (1 - e)``, which is above 0 for small e. For D to shrink whatever the values
are, ``w_c(t + s) / w_c(t)`` must be one function of s for all channels and ages, hence ``w_c(t) =
exp(-a t)`` with one rate a for all: then ``D(s) = exp(-a s) D(0)``, until the first channel is 200
hours old. That is ``"exponential"`` fading, for features of at most one channel each;
``"sigmoid"`` is the published form, with a rate for each channel.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch
from foretell.learners.risk.feed_forward import RiskLearner, RiskOutput
from foretell.learners.risk.weighting import age_weight, hours_of

Fading = Literal["sigmoid", "exponential"]

_QUANTILES = 32
"""Equally likely values of a feature that stand for the population."""


@dataclass(frozen=True)
class AdditiveShape:
    """Columns and widths of a :class:`AdditiveRiskLearner`, JSON-able.

    Args:
        inputs: number of columns F that come in.
        fading: pairs (column, columns of the hours since each of its channels was measured); what
            is neither here nor left out is context, and does not fade.
        left_out: columns that are not seen, such as those hours.
        hidden: units of the layers of each column's own net.
        dropout: share of contributions that are dropped in training.
        form: ``"sigmoid"``, a rate for each channel; ``"exponential"``, one for all.
    """

    inputs: int
    fading: tuple[tuple[int, tuple[int, ...]], ...] = ()
    left_out: tuple[int, ...] = ()
    hidden: tuple[int, ...] = (16,)
    dropout: float = 0.0
    form: Fading = "sigmoid"

    def __post_init__(self) -> None:
        pairs = tuple((int(c), tuple(int(i) for i in hours)) for c, hours in self.fading)
        object.__setattr__(self, "fading", pairs)
        object.__setattr__(self, "left_out", tuple(int(i) for i in self.left_out))
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden or any(isinstance(n, bool) or n < 1 for n in self.hidden):
            raise ParameterError(f"hidden must be sizes of layers, not {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ParameterError(f"dropout must lie in [0, 1), not {self.dropout}")
        if self.form not in ("sigmoid", "exponential"):
            raise ParameterError(f"fading is 'sigmoid' or 'exponential', not {self.form!r}")
        columns = [c for c, _ in pairs]
        used = [*columns, *self.left_out, *(i for _, hours in pairs for i in hours)]
        if any(not 0 <= i < self.inputs for i in used):
            raise ParameterError(f"columns must lie in 0 to {self.inputs - 1}, not {used}")
        if len(set(columns)) != len(columns) or set(columns) & set(self.left_out):
            raise ParameterError("a column fades twice, or is left out as well")
        if any(not hours for _, hours in pairs):
            raise ParameterError("a column fades with no channel's hours")
        if len(set(self.left_out)) >= self.inputs:
            raise ParameterError("all columns are left out")
        if self.form == "exponential" and any(len(hours) > 1 for _, hours in pairs):
            raise ParameterError(
                "features of two channels fade with the product of both, which breaks the one "
                "speed of exponential fading: leave ratios out, or take fading='sigmoid'"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class AdditiveRiskLearner(RiskLearner):
    """Log-odds as the sum of what each feature says, faded by its age.

    ``encode`` gives the contributions ``(B, ..., T)`` of the columns :attr:`columns`, ``decode``
    adds them up. Dropout drops whole contributions, as section 3 of the paper does.

    Args:
        shape: columns and widths.
        half_life: hours after which a contribution counts half, before training.
    """

    def __init__(self, shape: AdditiveShape, *, half_life: float = 24.0) -> None:
        super().__init__()
        self.shape = shape
        self.columns = tuple(i for i in range(shape.inputs) if i not in set(shape.left_out))
        fading = dict(shape.fading)
        hours = sorted({i for some in fading.values() for i in some})
        # One more weight, always 1: of context, and beside that of features of one channel.
        place = {h: i for i, h in enumerate(hours)}
        most = max([1, *(len(some) for some in fading.values())])
        owners = [[place[h] for h in fading.get(c, ())] for c in self.columns]
        padded = [some + [len(hours)] * (most - len(some)) for some in owners]
        numbers = {"kept": list(self.columns), "hours": hours, "owners": padded}
        for name, some in numbers.items():
            buffer = torch.tensor(some, dtype=torch.long)
            self.register_buffer(f"_{name}", buffer, persistent=False)
        # A weight is one half where rate * hours = log 3 (sigmoid) or log 2 (exponential).
        sigmoid = shape.form == "sigmoid"
        start = math.log(math.expm1(math.log(3 if sigmoid else 2) / half_life))
        self.aging = nn.Parameter(torch.full((len(hours) if sigmoid else 1,), start))
        sizes = (1, *shape.hidden)
        terms = len(self.columns)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (before, after) in enumerate(pairwise(sizes)):
            # Wide enough that bends of the first layer lie where standardised values do.
            bound = 0.7 * math.sqrt(6 / before)
            self.weights.append(torch.empty(terms, before, after).uniform_(-bound, bound))
            spread = 1.5 if i == 0 else 0.0
            self.biases.append(torch.empty(terms, after).uniform_(-spread, spread))
        self.readout = nn.Parameter(0.1 * torch.randn(terms, sizes[-1]) / math.sqrt(sizes[-1]))
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("population", torch.zeros(_QUANTILES, terms))
        self.drop = nn.Dropout(shape.dropout)

    @property
    def rates(self) -> Tensor:
        """``(C,)`` per hour of the channels, or ``(1,)`` of all, ``softplus(a)``: never below 0."""
        return F.softplus(self.aging)

    def meet(self, features: NDArray[np.float32]) -> None:
        """Learns who the population is that contributions are compared with.

        Args:
            features: (R, F) scaled features of the training hours.
        """
        hours = dict(self.shape.fading)
        at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        found = np.zeros((_QUANTILES, len(self.columns)), np.float32)
        for t, column in enumerate(self.columns):
            values = features[:, column]
            if column in hours:
                values = values[(features[:, list(hours[column])] < 1).all(axis=1)]
            if len(values):
                found[:, t] = np.quantile(values, at)
        self.population = torch.from_numpy(found).to(self.readout)

    def age_weights(self, x: Tensor) -> Tensor:
        """Weights ``(B, ..., T)`` of the contributions: 1 when new, falling to 0."""
        since = x[..., self._hours]  # type: ignore[index]
        hours, rates = hours_of(since), self.rates
        sigmoid = self.shape.form == "sigmoid"
        weight = age_weight(hours, rates) if sigmoid else torch.exp(-rates * hours)
        # Hours are counted up to the cap: what is older, or was never measured, says nothing.
        padded = F.pad(weight.masked_fill(since >= 1, 0.0), (0, 1), value=1.0)
        return padded[..., self._owners].prod(-1)  # type: ignore[index]

    def fresh(self, x: Tensor) -> Tensor:
        """What each feature says when it is new ``(B, ..., T)``, against the population."""
        said = self._nets(x[..., self._kept])  # type: ignore[index]
        return said - self._nets(self.population).mean(0)

    def encode(self, batch: Batch) -> Tensor:
        """Contributions ``(B, ..., T)`` to the log-odds."""
        x = batch["x"]
        found: Tensor = self.drop(self.age_weights(x) * self.fresh(x))
        return found

    def decode(self, encoding: Tensor, batch: Batch) -> RiskOutput:
        """Log-odds: those of the population in the mean, and the contributions."""
        return RiskOutput(encoding.sum(-1) + self.bias)

    def _nets(self, z: Tensor) -> Tensor:
        """``(..., T)`` of ``(..., T)``: each column through its own net."""
        hidden = z[..., None] * self.weights[0].squeeze(1) + self.biases[0]
        for weight, bias in zip(list(self.weights)[1:], list(self.biases)[1:], strict=True):
            hidden = torch.einsum("...th,thk->...tk", F.relu(hidden), weight) + bias
        return (F.relu(hidden) * self.readout).sum(-1)
