"""What an audit proved: an epsilon that the training exceeds, with all that the proof rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import polars as pl
import scipy.stats

from foretell.audits.membership.result import THREAT_MODELS, ThreatModel
from foretell.errors import ParameterError, PrivacyViolation
from foretell.training.private import PrivacyStatement

if TYPE_CHECKING:
    import plotly.graph_objects as go


GAUSSIAN_CLAIM = "the claim is the whole trade-off curve of the Gaussian mechanism at this delta"


class Try(NamedTuple):
    """One of the rules that were tried.

    Attributes:
        rule: what was tried: a threshold, or a number of guesses.
        epsilon: what it proves, at the confidence that is left after trying the others too.
        share: of positives that were found, or of guesses that were right.
        low: lower end of its 95% interval.
        high: upper end.
        false_share: of negatives that were called; None where guesses are counted.
    """

    rule: float
    epsilon: float
    share: float
    low: float
    high: float
    false_share: float | None = None


@dataclass(frozen=True)
class LowerBound:
    """A lower bound on epsilon.

    With the confidence given, no (epsilon', delta) guarantee with an epsilon' below ``epsilon``
    is true. It says nothing of how large the true one is: a stronger attack may prove more.

    Attributes:
        epsilon: what was proven.
        delta: at which.
        confidence: chance that the proof holds.
        method: ``clopper_pearson``, ``clopper_pearson_gaussian``, ``steinke`` or ``fdp``.
        threat_model: what the attacker saw; a key of
            :data:`~foretell.audits.membership.result.THREAT_MODELS`.
        canaries: scores that went in.
        unit: what one canary is: the record that a guarantee must speak of to be checked.
        tries: the rules that were tried, whose number the confidence has paid for.
        assumptions: what else must be true.
        details: further figures by name.
    """

    epsilon: float
    delta: float
    confidence: float
    method: str
    threat_model: ThreatModel
    canaries: int
    unit: str = "example"
    tries: tuple[Try, ...] = ()
    assumptions: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threat_model not in get_args(ThreatModel):
            raise ParameterError(
                f"threat_model must be one of {', '.join(THREAT_MODELS)}, not {self.threat_model!r}"
            )

    @property
    def interval(self) -> tuple[float, float]:
        """Epsilons that are not refuted: from the bound to infinity."""
        return self.epsilon, float("inf")

    def check(self, claim: PrivacyStatement | float) -> None:
        """Holds a claim against what was proven.

        Args:
            claim: a statement, or an epsilon at this audit's delta.

        Raises:
            PrivacyViolation: the claim is false, with this audit's confidence.
            ParameterError: a statement about another unit or a larger delta, which this audit
                cannot judge.
        """
        if isinstance(claim, PrivacyStatement):
            if claim.unit != self.unit:
                raise ParameterError(
                    f"the statement is about one {claim.unit} and the canaries are one {self.unit} "
                    "each: audit with canaries of the statement's unit"
                )
            if claim.delta > self.delta * (1 + 1e-9):
                raise ParameterError(
                    f"the statement holds at delta {claim.delta:g}, the audit at {self.delta:g}: a "
                    "bound at a smaller delta says nothing of it. Audit at the statement's delta"
                )
            said, epsilon = f"(epsilon {claim.epsilon:.4g}, delta {claim.delta:.3g})", claim.epsilon
        else:
            epsilon = float(claim)
            said = f"(epsilon {epsilon:.4g}, delta {self.delta:.3g})"
        if self.epsilon > epsilon:
            raise PrivacyViolation(
                f"the claim of {said} differential privacy of one {self.unit} is false: epsilon is "
                f"at least {self.epsilon:.4g} at delta {self.delta:.3g} ({self.confidence:.0%} "
                f"confidence, method {self.method}, {self.canaries:,} canaries, threat model "
                f"{self.threat_model})",
                self.epsilon,
                epsilon,
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self),
            "tries": [t._asdict() for t in self.tries],
            "assumptions": list(self.assumptions),
            "details": dict(self.details),
        }

    def to_polars(self) -> pl.DataFrame:
        """A row a try."""
        return pl.DataFrame([t._asdict() for t in self.tries], infer_schema_length=None)

    def plot(self, claim: PrivacyStatement | float | None = None) -> go.Figure:
        """What each rule that was tried proves, and the claim as a line."""
        import plotly.graph_objects as go

        figure = go.Figure()
        figure.add_scatter(
            x=[t.rule for t in self.tries],
            y=[t.epsilon for t in self.tries],
            text=[f"{t.share:.4g} [{t.low:.4g}, {t.high:.4g}]" for t in self.tries],
            mode="lines+markers",
            name="proven",
            hovertemplate="%{x:.4g}: epsilon %{y:.3f}<br>share %{text}<extra></extra>",
        )
        if claim is not None:
            value = claim.epsilon if isinstance(claim, PrivacyStatement) else float(claim)
            figure.add_hline(
                y=value, line={"dash": "dash", "color": "#b45309"}, annotation_text="claimed"
            )
        counted = not self.method.startswith("clopper_pearson")
        figure.update_layout(
            xaxis={"title": {"text": "guesses" if counted else "threshold on the score"}},
            yaxis={"title": {"text": "lower bound on epsilon"}, "rangemode": "tozero"},
        )
        return figure

    def __str__(self) -> str:
        lines = [
            f"epsilon at least {self.epsilon:.4g} at delta {self.delta:.3g}, one {self.unit} "
            f"({self.confidence:.0%} confidence, method {self.method}, {self.canaries:,} "
            "canaries)",
            f"  threat model {self.threat_model}: {THREAT_MODELS[self.threat_model]}",
            *(f"  assumes: {assumption}" for assumption in self.assumptions),
        ]
        return "\n".join(lines)


def binomial_low(hits: int, size: int, miss: float) -> float:
    """Lower Clopper-Pearson bound of a share that fails with chance ``miss``."""
    return float(scipy.stats.beta.ppf(miss, hits, size - hits + 1)) if hits else 0.0


def binomial_high(hits: int, size: int, miss: float) -> float:
    """Upper Clopper-Pearson bound of a share that fails with chance ``miss``."""
    return float(scipy.stats.beta.ppf(1 - miss, hits + 1, size - hits)) if hits < size else 1.0
