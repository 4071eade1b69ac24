"""How good alarms are: utility, snoozed judgements, bedside metrics, ranking of hours."""

from foretell.evaluation.clinical.alarm_tuning import AlarmCosts, TunedAlarms, tune_alarms
from foretell.evaluation.clinical.alarms import (
    METRICS,
    AlarmMetrics,
    alarm_metrics,
    threshold_alarms,
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

__all__ = [
    "CLOCK_HOUR",
    "METRICS",
    "AlarmCosts",
    "AlarmMetrics",
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
    "integrated_brier_score",
    "ranking_metrics",
    "snoozed_confusion",
    "snoozed_curve",
    "snoozed_ranking",
    "threshold_alarms",
    "tune_alarms",
    "utility_of_thresholds",
    "utility_table",
]
