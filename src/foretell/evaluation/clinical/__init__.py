"""How good alarms are: utility, snoozed judgements, bedside metrics, ranking of hours.

What needs models of its own is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretell.evaluation.clinical.alarm_tuning import AlarmCosts, TunedAlarms, tune_alarms
from foretell.evaluation.clinical.alarms import (
    APART,
    METRICS,
    AlarmMetrics,
    alarm_metrics,
    threshold_alarms,
)
from foretell.evaluation.clinical.per_hospital import (
    EVERYWHERE,
    hospital_names,
    ranking_by_hospital,
    utility_by_hospital,
)
from foretell.evaluation.clinical.probabilities import (
    Calibration,
    calibration,
    decision_curve,
)
from foretell.evaluation.clinical.ranking import RankingMetrics, ranking_metrics
from foretell.evaluation.clinical.snoozed import (
    SnoozedConfusion,
    SnoozedCurve,
    both_conventions,
    snoozed_confusion,
    snoozed_curve,
    snoozed_ranking,
)
from foretell.evaluation.clinical.survival import concordance_index, integrated_brier_score
from foretell.evaluation.clinical.utility import (
    CLOCK_HOUR,
    UtilityScore,
    best_threshold,
    challenge_utility,
    clock_rule,
    utility_of_thresholds,
    utility_table,
)
from foretell.lazy import lazily

if TYPE_CHECKING:
    from foretell.evaluation.clinical.boosted_checks import (
        TIME_BLIND_BAR,
        BoostedStudy,
        leave_hospital_out,
        time_blind_check,
    )

__all__ = [
    "APART",
    "CLOCK_HOUR",
    "EVERYWHERE",
    "METRICS",
    "TIME_BLIND_BAR",
    "AlarmCosts",
    "AlarmMetrics",
    "BoostedStudy",
    "Calibration",
    "RankingMetrics",
    "SnoozedConfusion",
    "SnoozedCurve",
    "TunedAlarms",
    "UtilityScore",
    "alarm_metrics",
    "best_threshold",
    "both_conventions",
    "calibration",
    "challenge_utility",
    "clock_rule",
    "concordance_index",
    "decision_curve",
    "hospital_names",
    "integrated_brier_score",
    "leave_hospital_out",
    "ranking_by_hospital",
    "ranking_metrics",
    "snoozed_confusion",
    "snoozed_curve",
    "snoozed_ranking",
    "threshold_alarms",
    "time_blind_check",
    "tune_alarms",
    "utility_by_hospital",
    "utility_of_thresholds",
    "utility_table",
]

__getattr__ = lazily(
    __name__,
    {
        "foretell.evaluation.clinical.boosted_checks": (
            "TIME_BLIND_BAR",
            "BoostedStudy",
            "leave_hospital_out",
            "time_blind_check",
        )
    },
)
