"""The methods whose rows come from a stream of labels: which rows, which weights, which nets."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from foretell.data.events import Emission, EventLog
from foretell.errors import ParameterError
from foretell.estimators.feedback.auxiliary import DelayNet, FinalityNet, WindowNet, first_times
from foretell.estimators.feedback.method import (
    Auxiliary,
    Columns,
    FeedbackMethod,
    MakeTrunk,
    Mode,
    NamedOutput,
    Setting,
    register,
)
from foretell.learners.contract import Learner
from foretell.learners.tabular import FunnelNet, TwoWindowNet
from foretell.training import Strategy
from foretell.training.weighting import (
    BiFakeNegativeLabels,
    DuallyEnhancedLabels,
    ElapsedTimeSampling,
    FakeNegativeLabels,
    FakeNegativeWeighting,
    FeedbackWeighting,
    FunnelWeighting,
    RealNegativeDuplicates,
    UnbiasedLabelCorrection,
    exact,
)
from foretell.training.weighting.exact import clip_probability


@register
class Vanilla(FeedbackMethod):
    """Labels as they are seen, copies of late conversions, no weights: biased low."""

    name, protocol = "vanilla", "vanilla"


@register
class Wait(FeedbackMethod):
    """Final labels once the window is over: unbiased, and as stale as the window is long."""

    name, protocol = "wait", "wait"


@register
class Oracle(FeedbackMethod):
    """Final labels at once: what could be reached, not deployable."""

    name, protocol = "oracle", "oracle"


@register
class FNW(FeedbackMethod):
    """Fake negative weighting (Ktena et al. 2019)."""

    name, protocol = "fnw", "fnw"

    def strategies(self) -> tuple[Strategy, ...]:
        """Weights of the learner's own prediction."""
        return (FakeNegativeWeighting(self.setting.weights),)


@register
class FNC(FeedbackMethod):
    """Fake negative calibration (Ktena et al. 2019): plain training, corrected when serving."""

    name, protocol = "fnc", "fnc"

    def serve(self, output: NamedOutput, columns: Columns) -> Tensor:
        """``b / (1 - b)``, at most 1."""
        observed = output.log_probabilities.exp()[:, 1].clamp(0.0, 0.5)
        return exact.fnc(clip_probability(observed)).clamp(0.0, 1.0)


class _Delayed(FeedbackMethod):
    """Methods that weigh with ``p_dp`` and ``p_rn``."""

    weighting: ClassVar[type[FeedbackWeighting]]
    events: ClassVar[tuple[str, ...]]

    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """A delay survival, or the published nets."""
        if self.setting.mode == "self":
            return (DelayNet(self.setting),)
        return (WindowNet(self.setting, self.events),)

    def strategies(self) -> tuple[Strategy, ...]:
        """The method's weights."""
        return (self.weighting(self.setting.weights),)


@register
class ESDFM(_Delayed):
    """Elapsed-time sampling (Yang et al. 2021)."""

    name, protocol = "esdfm", "esdfm"
    weighting, events = ElapsedTimeSampling, ("delayed_positive", "real_negative")


@register
class DEFER(_Delayed):
    """Real negatives duplicated (Gu et al. 2021)."""

    name, protocol = "defer", "defer"
    weighting, events = RealNegativeDuplicates, ("delayed_positive", "positive")


@register
class DEFUSE(_Delayed):
    """Label correction of fake negatives (Chen et al. 2022)."""

    name, protocol = "defuse", "defuse"
    weighting, events = FakeNegativeLabels, ("delayed_positive", "real_negative")


@register
class ULC(_Delayed):
    """Unbiased label correction (Wang et al. 2023): soft labels, one row an entity.

    With ``auxiliary="self"`` the soft label would be the learner's own prediction, which teaches
    it nothing: the label correction net is needed.
    """

    name, protocol = "ulc", "ulc"
    modes: ClassVar[tuple[Mode, ...]] = ("frozen", "refresh")
    weighting, events = UnbiasedLabelCorrection, ("real_negative",)

    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The label correction net; ``delayed_positive`` is not used by it."""
        return (WindowNet(self.setting, ("delayed_positive", "real_negative")),)


@register
class DDFM(_Delayed):
    """Dually enhanced modelling (Dai et al. 2023): soft labels at both emissions."""

    name, protocol = "ddfm", "ddfm"
    modes: ClassVar[tuple[Mode, ...]] = ("frozen", "refresh")
    weighting = DuallyEnhancedLabels
    events = ("delayed_positive", "real_negative", "positive")

    def select(self, rows: Emission) -> Emission:
        """Second copies only of entities that looked negative at first: the others are settled."""
        start = first_times(rows.log, self.setting.waiting_time)[rows.entity]
        return rows.select((rows.stage != 2) | (rows.label == 0) | (rows.time > start))


@register
class BiDEFUSE(FeedbackMethod):
    """Two heads: conversions within the waiting time and after it (Chen et al. 2022)."""

    name, protocol = "bidefuse", "bidefuse"

    @property
    def labels(self) -> int:
        """Columns of the two heads."""
        return 4

    def learner(self, trunk: MakeTrunk) -> Learner:
        """Two heads."""
        return TwoWindowNet(trunk())

    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """None: the second head is ``p_dp`` itself; or the published net."""
        if self.setting.mode == "self":
            return ()
        return (WindowNet(self.setting, ("delayed_positive", "real_negative")),)

    def history(self, matured: EventLog) -> Columns:
        """Final labels: both heads are known."""
        delay = matured.delay()
        start = first_times(matured, self.setting.waiting_time) - matured.times
        late = np.isfinite(delay) & (delay > start)
        masses = np.stack([delay > start, delay <= start, ~late, late], 1)
        return {"masses": torch.from_numpy(masses.astype(np.float32)), **super().history(matured)}

    def array_labels(self, y: np.ndarray) -> Columns:
        """Without times every conversion counts as one within the waiting time."""
        none = np.zeros(len(y), bool)
        masses = np.stack([y == 0, y == 1, ~none, none], 1).astype(np.float32)
        return {"masses": torch.from_numpy(masses), **super().array_labels(y)}

    def history_strategies(self) -> tuple[Strategy, ...]:
        """Both heads from final labels."""
        return (GivenMasses(),)

    def strategies(self) -> tuple[Strategy, ...]:
        """DEFUSE's weights for the second head."""
        return (BiFakeNegativeLabels(self.setting.weights),)

    def serve(self, output: NamedOutput, columns: Columns) -> Tensor:
        """Within or after."""
        probabilities = output.log_probabilities.exp()
        return (probabilities[:, 1] + probabilities[:, 3]).clamp(max=1.0)


class GivenMasses(FeedbackWeighting):
    """Masses on labels that stand in the batch, ``masses`` ``(B, K)``."""

    soft = True

    def row_masses(self, probabilities: Tensor, batch: Columns) -> Tensor:  # type: ignore[override]
        """As given."""
        return batch["masses"]

    def masses(self, probabilities: Tensor, batch: Columns) -> Tensor:  # type: ignore[override]
        """As given."""
        return batch["masses"]


@register
class Funnel(FeedbackMethod):
    """Importance weights of a funnel: none, engaged, converted.

    ``self`` takes its own probabilities and learns the delays of engagement and conversion,
    ``frozen`` and ``refresh`` learn finality classifiers.
    """

    name, protocol = "funnel", "funnel"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        if not setting.engagement:
            raise ParameterError(
                "method 'funnel' needs engagement=: the kinds of outcomes that come before a "
                "conversion, e.g. engagement=('view',); without any, use method='esdfm'"
            )

    @property
    def labels(self) -> int:
        """3, or 4 where a conversion needs no engagement."""
        return 3 if self.setting.strict else 4

    def learner(self, trunk: MakeTrunk) -> Learner:
        """Engagement times conversion of what engaged."""
        return FunnelNet(trunk(), self.labels)

    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """Delay survivals, or finality classifiers."""
        if self.setting.mode == "self":
            return (DelayNet(self.setting, changing=2),)
        return (FinalityNet(self.setting),)

    def history(self, matured: EventLog) -> Columns:
        """The final state of each entity."""
        engagement, strict = self.setting.engagement, self.setting.strict
        state = matured.state(matured.deadlines, engagement, strict=strict)
        return {"label": torch.from_numpy(state.astype(np.int64))}

    def array_labels(self, y: np.ndarray) -> Columns:
        """Final labels without engagement: none or converted."""
        return {"label": torch.from_numpy(2 * np.asarray(y, np.int64))}

    def strategies(self) -> tuple[Strategy, ...]:
        """The funnel's weights; they have one form."""
        return (FunnelWeighting(),)

    def serve(self, output: NamedOutput, columns: Columns) -> Tensor:
        """``P_2``, with ``P_3`` where it exists."""
        return output.log_probabilities.exp()[:, 2:].sum(1).clamp(max=1.0)

    def engaged(self, output: NamedOutput) -> Tensor:
        """``P(E = 1 | x)`` before any conversion."""
        return output.log_probabilities.exp()[:, 1:3].sum(1).clamp(max=1.0)
