"""The 2019 sepsis challenge without any training: a clock, NEWS2, SIRS, qSOFA; and what it costs.

    python benchmarks/clinical_baselines.py --out benchmarks/results/clinical_baselines.json

Patients are split 70/30 by hash. Thresholds are chosen on the 70 %, everything is reported on the
30 %. A clock that alarms from hour 48 on is no model at all; what stays behind it is no early
warning. The second table times the parts on all 40,336 stays; the peer of the utility is the
challenge's definition as a loop over hours, on the same stays in the same process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import load, machine, peak_mib, save

from foretell.data import registry
from foretell.data.clinical import (
    CausalFeatureBuilder,
    Stays,
    open_stays,
    septic_at_start,
    split_by_patient,
    target,
    write_stays,
)
from foretell.evaluation.clinical import (
    alarm_metrics,
    best_threshold,
    challenge_utility,
    clock_rule,
    ranking_metrics,
    snoozed_curve,
    threshold_alarms,
    utility_table,
)
from foretell.learners.risk import EarlyWarningScore

HORIZON, SNOOZE, SENSITIVITY = 48.0, 6, 0.60


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def loop_utility(labels: np.ndarray, predictions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Observed utility of each stay, hour after hour."""
    totals, at = [], 0
    for length in lengths.tolist():
        label, alarm = labels[at : at + length], predictions[at : at + length]
        at += length
        septic = bool(label.any())
        onset = int(np.argmax(label)) + 6 if septic else length + 100
        total = 0.0
        for t in range(length):
            d = t - onset
            if not septic:
                total += -0.05 if alarm[t] else 0.0
            elif d <= 3:
                if alarm[t]:
                    total += max((d + 12) / 6, -0.05) if d <= -6 else (3 - d) / 9
                elif d > -6:
                    total += -2 * (d + 6) / 9
        totals.append(total)
    return np.array(totals)


def at_sensitivity(stays: Stays, scores: np.ndarray) -> float:
    """The highest threshold that finds the wanted share of septic patients."""
    levels = np.unique(scores)
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        alarms = threshold_alarms(scores, stays.lengths, levels[middle], snooze=SNOOZE)
        found = alarm_metrics(stays, alarms, horizon=HORIZON).counts.sum(axis=0)
        low, high = (middle, high) if found[1] >= SENSITIVITY * found[0] else (low, middle - 1)
    return float(levels[low])


def scores_of(stays: Stays) -> dict[str, np.ndarray]:
    found = {name: EarlyWarningScore(name).predict(stays) for name in ("news2", "sirs", "qsofa")}
    return {"clock": stays.hours().astype(np.float64), **found}


def quality(stays: Stays, resamples: int) -> list[dict[str, Any]]:
    split = split_by_patient(stays, test_size=0.3, validation_size=0.0)
    learned, tested = scores_of(split.train), scores_of(split.test)
    rows = []
    for where in ("A", "B", "A+B"):
        hospitals = ("A", "B") if where == "A+B" else (where,)
        train, test = (np.isin(s.names("hospital"), hospitals) for s in (split.train, split.test))
        mine, other = split.train.select(train), split.test.select(test)
        in_train = np.repeat(train, split.train.lengths)
        in_test = np.repeat(test, split.test.lengths)
        wanted = target(other, 4)
        clock = clock_rule(other)
        for name in learned:
            before, now = learned[name][in_train], tested[name][in_test]
            threshold, _ = best_threshold(before, mine.labels(), mine.lengths)
            alarms = clock if name == "clock" else now >= threshold
            utility = utility_table(other, {name: alarms}, resamples=resamples).row(1, named=True)
            ranks = ranking_metrics(
                now, wanted.label, other.stay_of_row(), rows=wanted.at_risk, resamples=resamples
            )
            level = at_sensitivity(mine, before)
            fired = threshold_alarms(now, other.lengths, level, snooze=SNOOZE)
            bedside = alarm_metrics(other, fired, horizon=HORIZON).values()
            rows.append(
                {
                    "hospital": where,
                    "score": name,
                    "stays": len(other),
                    "auroc_4h": float(ranks.auroc.estimate),
                    "auroc_4h_interval": [float(ranks.auroc.lower), float(ranks.auroc.upper)],
                    "auprc_4h": float(ranks.auprc.estimate),
                    "utility_threshold": 48.0 if name == "clock" else threshold,
                    "utility": utility["utility"],
                    "utility_interval": [utility["lower"], utility["upper"]],
                    "margin_over_clock": utility["margin"],
                    "margin_interval": [utility["margin_lower"], utility["margin_upper"]],
                    "alarm_threshold": level,
                    **{k: bedside[k] for k in ("patient_sensitivity", "ppv", "patient_ppv",
                       "false_alarms_per_patient_hour", "alarms_per_bed_day", "lead_median")},
                }
            )  # fmt: skip
    return rows


def costs(stays: Stays) -> dict[str, Any]:
    found: dict[str, Any] = {}
    label, lengths = stays.labels(), stays.lengths
    alarm = clock_rule(stays)
    found["utility_s"], score = timed(lambda: challenge_utility(alarm, label, lengths))
    found["utility_loop_s"], loop = timed(lambda: loop_utility(label, alarm, lengths))
    found["utility_ratio"] = found["utility_loop_s"] / found["utility_s"]
    found["utility_difference"] = float(np.abs(loop - score.observed).max())
    hours = stays.hours().astype(np.float64)
    few = stays.select(slice(0, 50))
    warm = few.hours().astype(np.float64)
    snoozed_curve(warm, few.labels(), few.lengths)
    found["snoozed_curve_500_thresholds_s"], _ = timed(lambda: snoozed_curve(hours, label, lengths))
    fired = threshold_alarms(hours, lengths, 48, snooze=SNOOZE)
    found["alarm_metrics_s"], metrics = timed(lambda: alarm_metrics(stays, fired))
    found["alarm_table_1000_resamples_s"], _ = timed(metrics.table)
    for spec in ("p19-v1", "p19-windows-v1"):
        builder = CausalFeatureBuilder(spec).fit(few)
        some = stays.select(slice(0, 10_000))
        seconds, table = timed(lambda b=builder, s=some: b.transform(s))
        found[f"{spec}_rows_per_s"] = len(table) / seconds
    live, steps = builder.stream(age=60.0), few.matrix()
    seconds, _ = timed(lambda: [live.step(row) for row in steps])
    found["stream_steps_per_s"] = len(steps) / seconds
    with tempfile.TemporaryDirectory() as folder:
        found["write_s"], path = timed(lambda: write_stays(stays, Path(folder) / "stays"))
        found["stored_mib"] = sum(f.stat().st_size for f in path.iterdir()) / 2**20
        found["open_s"], _ = timed(lambda: open_stays(path))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The sepsis challenge without any training.")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    about = machine("numpy", "polars", "numba")
    read, stays = timed(lambda: registry.load("physionet2019"))
    print(f"{stays} in {read:.1f} s, load {load()}")
    rows = quality(stays, args.resamples)
    for row in rows:
        print(
            f"{row['hospital']:4} {row['score']:6} AUROC {row['auroc_4h']:.3f} "
            f"[{row['auroc_4h_interval'][0]:.3f}, {row['auroc_4h_interval'][1]:.3f}]  "
            f"utility {row['utility']:+.3f} (clock {row['margin_over_clock']:+.3f})  "
            f"at {row['patient_sensitivity']:.2f} of patients found: PPV {row['ppv']:.3f}, "
            f"{row['false_alarms_per_patient_hour']:.4f} false alarms a patient-hour, "
            f"lead {row['lead_median']:.0f} h"
        )
    spent = {"read_s": read, **costs(stays), "peak_mib": peak_mib()}
    for name, value in spent.items():
        print(f"{name:34} {value:,.4g}")
    start = int(septic_at_start(stays).sum())
    result = {"about": about, "septic_at_start": start, "test": rows, "costs": spent}
    save(args.out, result)


if __name__ == "__main__":
    main()
