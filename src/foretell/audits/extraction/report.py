"""What was extracted: found words, ranks and bits, with intervals over canaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foretell.audits.extraction.suite import Canary
from foretell.errors import ParameterError

if TYPE_CHECKING:
    import plotly.graph_objects as go

CHANCE_BITS = math.log2(math.e)
"""Mean exposure of a secret that was never seen."""


class Estimate(NamedTuple):
    """A mean over canaries with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ExtractionRow:
    """What was found of one canary; nothing where the model does not know its words.

    Attributes:
        number: position in the suite.
        canary: what was planted.
        found: words that the attack came up with.
        loss: of them.
        secret_loss: of the true secret.
        optimum: least loss of all secrets, where all were looked at.
        rank: place of the true secret among all, from 1, where all were looked at.
        exposure: bits.
        control_exposure: bits of a secret that was never planted.
    """

    number: int
    canary: Canary
    found: tuple[str, ...] | None
    loss: float | None
    secret_loss: float | None
    optimum: float | None
    rank: float | None
    exposure: float | None
    control_exposure: float | None

    @property
    def hits(self) -> int:
        """Words found in their place."""
        if self.found is None:
            return 0
        return sum(a == b for a, b in zip(self.found, self.canary.secret, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        names = ("number", "loss", "secret_loss", "optimum", "rank", "exposure", "control_exposure")
        return {
            **{name: getattr(self, name) for name in names},
            "canary": self.canary.to_dict(),
            "found": None if self.found is None else list(self.found),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExtractionRow:
        """The inverse of :meth:`to_dict`."""
        found = values["found"]
        return cls(**{
            **values, "canary": Canary.from_dict(values["canary"]),
            "found": None if found is None else tuple(found),
        })  # fmt: skip


@dataclass(frozen=True)
class ExtractionReport:
    """The result of an attack on one model, or on several of the same kind.

    Attributes:
        rows: one a canary.
        method: of the attack.
        words: size of the vocabulary of secrets.
        n_tokens: words of a secret.
        missing: words of that vocabulary that the model does not know.
        threat_model: what the attacker holds.
    """

    rows: tuple[ExtractionRow, ...]
    method: str
    words: int
    n_tokens: int
    missing: tuple[str, ...] = ()
    threat_model: str = "white_box_final"

    @property
    def extractable(self) -> int:
        """Canaries whose words the model knows."""
        return sum(row.found is not None for row in self.rows)

    @property
    def space(self) -> int:
        """Secrets there could be."""
        return self.words**self.n_tokens

    @property
    def chance_token_accuracy(self) -> float:
        """Token accuracy of a guess."""
        return 1 / self.words

    @property
    def token_accuracy(self) -> float:
        """Share of the secrets' words found in their place; unknown ones count as not found."""
        return float(self._values("token_accuracy").mean())

    @property
    def exact_match(self) -> float:
        """Share of the secrets found whole."""
        return float(self._values("exact_match").mean())

    @property
    def hamming(self) -> float:
        """Mean number of words that were wrong."""
        return self.n_tokens * (1 - self.token_accuracy)

    @property
    def exposure(self) -> float:
        """Mean bits of the planted secrets; NaN where none could be ranked."""
        return _mean(self._values("exposure"))

    @property
    def control_exposure(self) -> float:
        """Mean bits of secrets that were never planted; 1.44 is chance."""
        return _mean(self._values("control_exposure"))

    @property
    def ranks(self) -> NDArray[np.float64]:
        """Rank of each true secret ``(K,)``; NaN where not all were looked at."""
        return np.array([math.nan if r.rank is None else r.rank for r in self.rows])

    @property
    def optimised(self) -> float | None:
        """Share of the canaries in which the search came within 0.001 of the least loss there is.

        None where not all secrets were looked at.
        """
        pairs = [(r.loss, r.optimum) for r in self.rows]
        near = [a <= b + 1e-3 for a, b in pairs if a is not None and b is not None]
        return float(np.mean(near)) if near else None

    def ci(
        self, score: str = "exposure", *, confidence: float = 0.95, resamples: int = 2000,
        seed: int = 0,
    ) -> Estimate:  # fmt: skip
        """A mean with its interval by resampling canaries.

        Args:
            score: ``exposure``, ``control_exposure``, ``token_accuracy`` or ``exact_match``.
            confidence: share of the resamples inside.
            resamples: number.
            seed: of the resamples.

        Raises:
            ParameterError: another score, or no canary that has it.
        """
        values = self._values(score)
        return _interval(values, confidence, resamples, seed, score)

    def difference(
        self, other: ExtractionReport, score: str = "exposure", *, confidence: float = 0.95,
        resamples: int = 2000, seed: int = 0,
    ) -> Estimate:  # fmt: skip
        """This one's mean less another's, with its interval.

        Canaries are paired where both reports have the same ones, else resampled apart.

        Raises:
            ParameterError: see :meth:`ci`.
        """
        mine, theirs = self._values(score), other._values(score)
        same = [r.canary for r in self.rows] == [r.canary for r in other.rows]
        if same and len(mine) == len(theirs):
            return _interval(mine - theirs, confidence, resamples, seed, score)
        if not len(mine) or not len(theirs):
            raise ParameterError(f"no canary has a {score}")
        rng = np.random.default_rng(seed)
        draws = [
            values[rng.integers(len(values), size=(resamples, len(values)))].mean(1)
            for values in (mine, theirs)
        ]
        low, high = np.quantile(draws[0] - draws[1], [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(float(mine.mean() - theirs.mean()), float(low), float(high))

    def summary(self) -> dict[str, Any]:
        """All figures, with intervals where there are such."""
        found: dict[str, Any] = {
            "canaries": len(self.rows),
            "extractable": self.extractable,
            "method": self.method,
            "threat_model": self.threat_model,
            "hamming": self.hamming,
            "optimised": self.optimised,
        }
        for score in ("exposure", "control_exposure", "token_accuracy", "exact_match"):
            if len(self._values(score)):
                value, low, high = self.ci(score)
                found |= {score: value, f"{score}_low": low, f"{score}_high": high}
            else:
                found |= {score: None, f"{score}_low": None, f"{score}_high": None}
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "method": self.method,
            "words": self.words,
            "n_tokens": self.n_tokens,
            "missing": list(self.missing),
            "threat_model": self.threat_model,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExtractionReport:
        """The inverse of :meth:`to_dict`."""
        rows = tuple(ExtractionRow.from_dict(row) for row in values["rows"])
        return cls(**{**values, "rows": rows, "missing": tuple(values["missing"])})

    @classmethod
    def concat(cls, reports: Sequence[ExtractionReport]) -> ExtractionReport:
        """Reports of models of one kind, as one.

        Raises:
            ParameterError: none, or attacks that differ.
        """
        kinds = {(r.method, r.words, r.n_tokens, r.threat_model) for r in reports}
        if len(kinds) != 1:
            raise ParameterError("only reports of the same attack can be put together")
        missing = tuple(sorted({word for r in reports for word in r.missing}))
        rows = tuple(row for report in reports for row in report.rows)
        method, words, n_tokens, threat = next(iter(kinds))
        return cls(rows, method, words, n_tokens, missing, threat)

    def to_polars(self) -> pl.DataFrame:
        """A row a canary."""
        return pl.DataFrame(
            {
                "number": [r.number for r in self.rows],
                "prefix": [" ".join(r.canary.prefix) for r in self.rows],
                "secret": [" ".join(r.canary.secret) for r in self.rows],
                "found": [None if r.found is None else " ".join(r.found) for r in self.rows],
                "hits": [r.hits for r in self.rows],
                **{
                    name: pl.Series(name, [getattr(r, name) for r in self.rows], pl.Float64)
                    for name in ("loss", "secret_loss", "optimum", "rank", "exposure",
                                 "control_exposure")
                },
            }
        )  # fmt: skip

    def plot(self) -> go.Figure:
        """Exposure of each canary, beside that of secrets that were never planted."""
        import plotly.graph_objects as go

        figure = go.Figure()
        names = [" ".join(r.canary.prefix) for r in self.rows]
        for key, name, colour in (
            ("exposure", "planted", "#0b5394"), ("control_exposure", "never planted", "#b45309"),
        ):  # fmt: skip
            values = [getattr(r, key) for r in self.rows]
            figure.add_scatter(
                x=values, y=names, mode="markers", name=name, marker={"color": colour, "size": 9}
            )
        figure.add_vline(x=CHANCE_BITS, line={"dash": "dot"})
        figure.update_layout(
            xaxis={"title": {"text": "exposure (bits); the dotted line is chance"}},
            yaxis={"type": "category", "autorange": "reversed"},
        )
        return figure

    def __str__(self) -> str:
        token, exact = self.ci("token_accuracy"), self.ci("exact_match")
        lines = [
            f"{len(self.rows)} canaries of {self.n_tokens} words among {self.words}, method "
            f"{self.method}, threat model {self.threat_model}",
            f"  words found {token.value:.3f} [{token.low:.3f}, {token.high:.3f}] "
            f"(chance {self.chance_token_accuracy:.3f}), whole secrets {exact.value:.3f} "
            f"[{exact.low:.3f}, {exact.high:.3f}]",
        ]
        if len(self._values("exposure")):
            bits = self.ci()
            lines.append(
                f"  exposure {bits.value:.2f} bits [{bits.low:.2f}, {bits.high:.2f}], never "
                f"planted {self.control_exposure:.2f} (chance {CHANCE_BITS:.2f})"
            )
        if self.missing:
            lines.append(f"  not known to the model: {', '.join(self.missing)}")
        return "\n".join(lines)

    def _values(self, score: str) -> NDArray[np.float64]:
        if score == "token_accuracy":
            return np.array([r.hits / self.n_tokens for r in self.rows])
        if score == "exact_match":
            return np.array([float(r.hits == self.n_tokens) for r in self.rows])
        if score not in ("exposure", "control_exposure"):
            raise ParameterError(
                f"there is no score {score!r}: exposure, control_exposure, token_accuracy, "
                "exact_match"
            )
        values = [getattr(r, score) for r in self.rows]
        return np.array([v for v in values if v is not None], np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _interval(
    values: NDArray[np.float64], confidence: float, resamples: int, seed: int, score: str
) -> Estimate:
    if not 0 < confidence < 1 or resamples < 1:
        raise ParameterError("confidence must lie in (0, 1) and resamples be at least 1")
    if not len(values):
        raise ParameterError(f"no canary has a {score}")
    rng = np.random.default_rng(seed)
    draws = values[rng.integers(len(values), size=(resamples, len(values)))].mean(1)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(values.mean()), float(low), float(high))
