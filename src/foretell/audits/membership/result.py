"""What an attack found, said whole: curves, rates with intervals, and what must be doubted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.audits.membership.curve import (
    Curve,
    OperatingPoint,
    auc,
    check_scores,
    operating_point,
    roc,
)
from foretell.errors import ParameterError

if TYPE_CHECKING:
    import plotly.graph_objects as go

FloatArray = NDArray[np.float64]
RATES = (1e-5, 1e-3, 1e-2)

ThreatModel = Literal[
    "black_box_score",
    "white_box_final",
    "white_box_iterates",
    "honest_but_curious_server",
    "secagg_server",
]

THREAT_MODELS: Mapping[str, str] = {
    "black_box_score": "sees the posterior or loss of the final model on single examples",
    "white_box_final": "sees all parameters of the final model",
    "white_box_iterates": "sees every noisy update of the training",
    "honest_but_curious_server": "sees each client's update",
    "secagg_server": "sees only sums of updates over several clients",
}
"""Threat model -> what the attacker sees."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack on one target model.

    Args:
        attack: its name.
        scores: ``(n,)`` higher is more likely a member.
        membership: ``(n,)`` the truth.
        threat_model: what the attacker sees; a key of :data:`THREAT_MODELS`.
        guesses: ``(n,)`` what the attack calls members at a threshold that it chose itself, if it
            does.
        flags: what must be doubted.
        n_shadows: models behind the attack.

    Raises:
        ParameterError: an unknown threat model.
        DataError: only members or none, or a score that is not finite.
    """

    attack: str
    scores: FloatArray
    membership: NDArray[np.bool_]
    threat_model: ThreatModel = "black_box_score"
    guesses: NDArray[np.bool_] | None = None
    flags: tuple[str, ...] = ()
    n_shadows: int = 0

    def __post_init__(self) -> None:
        """Refuses what no figure could be drawn from."""
        if self.threat_model not in get_args(ThreatModel):
            raise ParameterError(
                f"threat_model must be one of {', '.join(THREAT_MODELS)}, not {self.threat_model!r}"
            )
        scores, member = check_scores(self.scores, self.membership)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "membership", member)

    @cached_property
    def curve(self) -> Curve:
        """The ROC curve in counts."""
        return roc(self.scores, self.membership)

    @property
    def roc(self) -> tuple[FloatArray, FloatArray]:
        """False- and true-positive rates ``(P,)``, ascending."""
        return self.curve.fpr, self.curve.tpr

    @cached_property
    def auc(self) -> float:
        """Area under the ROC curve; 0.5 is a guess."""
        return auc(self.scores, self.membership)

    @cached_property
    def balanced_accuracy(self) -> float:
        """Mean of the two classes' accuracies at the best threshold; 0.5 is a guess."""
        return float(0.5 + (self.curve.tpr - self.curve.fpr).max() / 2)

    @cached_property
    def guessed_accuracy(self) -> float | None:
        """Mean of the two classes' accuracies at the attack's own threshold, if it has one."""
        if self.guesses is None:
            return None
        right = self.guesses == self.membership
        return float((right[self.membership].mean() + right[~self.membership].mean()) / 2)

    def tpr_at(self, fpr: float) -> OperatingPoint:
        """Share of members found while at most ``fpr`` of the non-members are accused.

        Raises:
            ParameterError: a rate outside of (0, 1).
        """
        if not 0 < fpr < 1:
            raise ParameterError(f"a false-positive rate lies in (0, 1), not {fpr}")
        return operating_point(self.curve, fpr)

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The true-positive rates at 0.001%, 0.1% and 1%."""
        return tuple(self.tpr_at(rate) for rate in RATES)

    @cached_property
    def vulnerability(self) -> FloatArray:
        """How far each example stands out ``(n,)``: the share of non-members that score below it.

        1 for an example that no non-member resembles; ties count half.
        """
        outside = np.sort(self.scores[~self.membership])
        below = np.searchsorted(outside, self.scores, side="left")
        upto = np.searchsorted(outside, self.scores, side="right")
        return np.asarray((below + upto) / (2 * len(outside)))

    def to_dict(self) -> dict[str, Any]:
        """Figures as JSON values; the scores themselves are left out."""
        return {
            "attack": self.attack,
            "threat_model": self.threat_model,
            "members": int(self.membership.sum()),
            "non_members": int((~self.membership).sum()),
            "n_shadows": self.n_shadows,
            "auc": self.auc,
            "balanced_accuracy": self.balanced_accuracy,
            "guessed_accuracy": self.guessed_accuracy,
            "points": [point._asdict() for point in self.points],
            "flags": list(self.flags),
        }

    def __repr__(self) -> str:
        point = self.tpr_at(1e-3)
        found = "too few non-members" if point.tpr is None else f"{point.tpr:.4f}"
        return (
            f"AttackResult({self.attack}, {self.threat_model}: AUC {self.auc:.4f}, "
            f"TPR at 0.1% FPR {found}, {len(self.scores)} examples, {self.n_shadows} shadows)"
        )

    def plot(self) -> go.Figure:
        """The ROC curve on logarithmic axes, where the damage is."""
        return plot_curves([self])


def attack_result(
    scores: ArrayLike,
    membership: ArrayLike,
    *,
    attack: str = "attack",
    threat_model: ThreatModel = "black_box_score",
    guesses: ArrayLike | None = None,
    flags: Sequence[str] = (),
    n_shadows: int = 0,
) -> AttackResult:
    """Judges scores by the truth; see :class:`AttackResult`."""
    return AttackResult(
        attack,
        np.asarray(scores, np.float64),
        np.asarray(membership),
        threat_model,
        None if guesses is None else np.asarray(guesses, bool),
        tuple(flags),
        n_shadows,
    )


def thinned(curve: Curve, points: int = 200) -> tuple[FloatArray, FloatArray]:
    """Rates of a curve at places that are even on a logarithmic axis, both ends included."""
    fpr, tpr = curve.fpr, curve.tpr
    if len(fpr) <= points:
        return fpr, tpr
    smallest = max(1 / curve.false[-1], 1e-6)
    wanted = np.concatenate(
        [np.geomspace(smallest, 1.0, points // 2), np.linspace(0.0, 1.0, points // 2)]
    )
    places = np.searchsorted(fpr, np.unique(wanted) + 1e-12, side="right") - 1
    places = np.unique(np.concatenate([[0], places, [len(fpr) - 1]]))
    return fpr[places], tpr[places]


def plot_curves(results: Sequence[AttackResult]) -> go.Figure:
    """ROC curves on logarithmic axes."""
    import plotly.graph_objects as go

    figure = go.Figure()
    least = min(1 / max(int(r.curve.false[-1]), 1) for r in results)
    for result in results:
        fpr, tpr = thinned(result.curve)
        seen = (fpr > 0) & (tpr > 0)
        figure.add_scatter(
            x=fpr[seen], y=tpr[seen], mode="lines", line={"shape": "hv"},
            name=f"{result.attack}, AUC {result.auc:.3f}",
            hovertemplate="FPR %{x:.2g}, TPR %{y:.3g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[least, 1], y=[least, 1], mode="lines", name="a guess",
        line={"dash": "dot", "color": "#52606d"}, hoverinfo="skip",
    )  # fmt: skip
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "non-members accused (FPR)"}},
        yaxis={"type": "log", "title": {"text": "members found (TPR)"}},
        height=380,
        margin={"l": 56, "r": 12, "t": 12, "b": 44},
    )
    return figure
