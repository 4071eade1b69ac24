"""Sepsis within four hours, hour by hour: trees, nets and survival models on the 2019 challenge.

    python benchmarks/risk.py --out benchmarks/results/risk.json

Patients are split 70/30 by hash; a seventh of the 70 % is kept to stop by and to choose thresholds,
and everything is reported on the 30 %. What is random runs with three seeds. The clock that alarms
from hour 48 on, whoever the patient is, stands beside every utility: it earns 0.27.

Parts (``--parts``): ``anchor`` (boosted trees that learn the utility), ``onset`` (trees that learn
the onset, from all features, without time, from six vital signs), ``linear`` (Weibull-Cox, and the
challenge's own baseline), ``deep`` (DeepAISE), ``net`` (the feed-forward net), ``hospitals`` (train
at one hospital, test at the other), ``bedside`` (alarms at 60 % of patients found). A part that is
run again replaces its figures in the result file.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import load, machine, peak_mib, save
from clinical_baselines import HORIZON, SNOOZE, at_sensitivity

from foretell.data import registry
from foretell.data.clinical import (
    Stays,
    challenge_utility_rows,
    concatenate,
    split_by_patient,
    target,
)
from foretell.estimators import DeepAISE, FeedForwardRisk, WeibullCox
from foretell.evaluation.clinical import (
    EVERYWHERE,
    BoostedStudy,
    alarm_metrics,
    best_threshold,
    calibration,
    concordance_index,
    integrated_brier_score,
    leave_hospital_out,
    ranking_by_hospital,
    threshold_alarms,
    utility_by_hospital,
)
from foretell.learners.risk import ChallengeBaseline, GBMVitals, survival_times

NAMES = {EVERYWHERE: "A+B"}
PARTS = ("anchor", "bedside", "onset", "hospitals", "linear", "deep", "net")


class Study:
    """The split, the features that trees share, and the figures."""

    def __init__(self, stays: Stays, seeds: int, threads: int, resamples: int) -> None:
        self.split = split_by_patient(stays, test_size=0.3, validation_size=0.1)
        self.seeds, self.threads, self.resamples = range(seeds), threads, resamples
        self.boosted = BoostedStudy(self.split, {"random_state": 0, "threads": threads})
        self.anchor: np.ndarray | None = None
        self.anchor_before: np.ndarray | None = None

    def ranks(self, scores: np.ndarray, stays: Stays, intervals: bool = False) -> dict[str, Any]:
        """4-hour AUROC and average precision before the onset, by hospital and of both."""
        found: dict[str, Any] = {}
        told = ranking_by_hospital(scores, stays, resamples=self.resamples if intervals else 0)
        for where, metrics in told.items():
            if metrics is None:
                continue
            row = {"auroc": float(metrics.auroc.estimate), "auprc": float(metrics.auprc.estimate)}
            if intervals:
                row["auroc_interval"] = [float(metrics.auroc.lower), float(metrics.auroc.upper)]
            found[NAMES.get(where, where)] = row
        return found

    def survival(self, model: Any, risk: np.ndarray, stays: Stays) -> dict[str, Any]:
        """Concordance with times up to 12 hours; integrated Brier score where risks are of any."""
        times = survival_times(stays, 12)
        of = (times.time, times.event, stays.stay_of_row())
        found = {}
        harrell = concordance_index(risk, *of, rows=times.at_risk, resamples=self.resamples)
        found["concordance"] = {k: float(v) for k, v in harrell._asdict().items()}
        if hasattr(model, "predict_risk"):
            leads = (4, 8, 12)
            ahead = np.asarray(model.predict_risk(stays, horizons=leads))
            brier = integrated_brier_score(
                ahead, leads, *of, rows=times.at_risk, resamples=self.resamples
            )
            found["integrated_brier"] = {k: float(v) for k, v in brier._asdict().items()}
        return found

    def utility(self, alarms: np.ndarray, stays: Stays) -> dict[str, dict[str, Any]]:
        """Normalised utility and its margin over the clock, by hospital and of both."""
        told = utility_by_hospital(alarms, stays, resamples=max(self.resamples, 1))
        return {NAMES.get(where, where): self.plain(row) for where, row in told.items()}

    def plain(self, row: dict[str, Any]) -> dict[str, Any]:
        """Utility, clock and margin, with the interval of the first."""
        found = {name: row[name] for name in ("utility", "clock", "margin")}
        low = row.get("lower", row.get("utility_lower"))
        high = row.get("upper", row.get("utility_upper"))
        return {**found, "interval": [low, high]} if self.resamples else found

    def calibrated(self, risk: np.ndarray, stays: Stays) -> dict[str, float]:
        """Expected calibration error, slope and intercept before the onset."""
        wanted = target(stays, 4)
        found = calibration(
            risk, wanted.label, stays.stay_of_row(), rows=wanted.at_risk, resamples=1
        )
        return {"ece": float(found.error.estimate), "slope": found.slope,
                "intercept": found.intercept}  # fmt: skip


def threshold_of(scores: np.ndarray, stays: Stays) -> float:
    """The threshold of the highest utility on the validation part."""
    return best_threshold(scores, stays.labels(), stays.lengths)[0]


def anchor(study: Study) -> dict[str, Any]:
    """Trees that learn the utility: each seed alone, and the mean of their scores."""
    split, runs, before, after = study.split, [], [], []
    for seed in study.seeds:
        model = study.boosted.fit(random_state=seed, trees=200)
        before.append(study.boosted.scores(model, "validation")[1])
        after.append(study.boosted.scores(model, "test")[1])
        level = threshold_of(before[-1], split.validation)
        runs.append({
            "seed": seed, "threshold": level,
            "utility": study.utility(after[-1] >= level, split.test),
            "ranks": study.ranks(after[-1], split.test),
        })  # fmt: skip
        print(f"anchor seed {seed}: {runs[-1]['utility']['A+B']}", flush=True)
    study.anchor_before, study.anchor = np.mean(before, axis=0), np.mean(after, axis=0)
    level = threshold_of(study.anchor_before, split.validation)
    gain = challenge_utility_rows(split.test.labels(), split.test.lengths).gain
    return {
        "seeds": runs,
        "mean of seeds": {
            "threshold": level,
            "utility": study.utility(study.anchor >= level, split.test),
            "ranks": study.ranks(study.anchor, split.test, intervals=True),
        },
        "mean_gain": float(gain.mean()),
    }


def onset(study: Study) -> dict[str, Any]:
    """Trees that learn the onset; without what tells the time; six vital signs alone."""
    split, boosted, found = study.split, study.boosted, {}
    model = boosted.fit("onset")
    after = boosted.scores(model, "test")[1]
    risk = 1 / (1 + np.exp(-after))
    found["all features"] = {
        "ranks": study.ranks(after, split.test), "calibration": study.calibrated(risk, split.test),
        "utility": study.utility(after >= boosted.threshold(model), split.test),
    }  # fmt: skip
    vitals = GBMVitals(threads=study.threads, validation_size=0.0, trees=150)
    for name, other in {
        "time-blind": boosted.fit("onset", features="time-blind"),
        "six vital signs": vitals.fit(split.train),
    }.items():
        after = boosted.scores(other, "test")[1]
        found[name] = {
            "ranks": study.ranks(after, split.test),
            "utility": study.utility(after >= boosted.threshold(other), split.test),
        }
    return found


def judged(study: Study, make: Callable[[int], Any]) -> dict[str, Any]:
    """Ranks, calibration and utility of a model with predict_proba, over the seeds."""
    split, runs = study.split, []
    for seed in study.seeds:
        model = make(seed)
        fitted = model.fit(split.train, validation=split.validation)
        before = fitted.predict_proba(split.validation)[:, 1]
        risk = fitted.predict_proba(split.test)[:, 1]
        alarms = risk >= threshold_of(before, split.validation)
        runs.append({
            "seed": seed, "ranks": study.ranks(risk, split.test),
            "calibration": study.calibrated(risk, split.test),
            "survival": study.survival(fitted, risk, split.test),
            "utility": study.utility(alarms, split.test),
            "steps": fitted.result_.steps, "seconds": fitted.result_.seconds,
        })  # fmt: skip
        print(f"{type(model).__name__}: {json.dumps(runs[-1])}", flush=True)
    mean = {w: float(np.mean([r["ranks"][w]["auroc"] for r in runs])) for w in ("A", "B", "A+B")}
    return {"seeds": runs, "auroc": mean,
            "ece": float(np.mean([r["calibration"]["ece"] for r in runs]))}  # fmt: skip


def linear(study: Study) -> dict[str, Any]:
    """The linear survival model, and the challenge's baseline with its constants."""
    official, test = ChallengeBaseline(), study.split.test
    found = judged(
        study,
        lambda s: WeibullCox(random_state=s, threads=study.threads, epochs=3, well_per_septic=3),
    )
    found["challenge baseline"] = {
        "ranks": study.ranks(official.predict_proba(test)[:, 1], test),
        "utility": study.utility(official.predict(test), test),
    }
    return found


def deep(study: Study) -> dict[str, Any]:
    """DeepAISE."""
    return judged(
        study,
        lambda s: DeepAISE(random_state=s, threads=study.threads, epochs=6, well_per_septic=3),
    )


def net(study: Study) -> dict[str, Any]:
    """The feed-forward net, on a third of the hours of non-septic stays."""

    class Sampled(FeedForwardRisk):
        def fit(self, stays: Stays, **given: Any) -> FeedForwardRisk:
            septic = np.isfinite(stays.onset)
            rng = np.random.default_rng(self.random_state)
            # Hours, not stays: neighbours tell the same; the offset is mended below.
            rows = septic[stays.stay_of_row()] | (rng.random(stays.n_rows) < 1 / 3)
            super().fit(stays, rows=rows, **given)
            wanted = target(stays, self.horizon)
            kept = wanted.label[wanted.at_risk & rows].mean()
            rate = wanted.label[wanted.at_risk].mean()
            self.offset_ += float(np.log(rate / (1 - rate)) - np.log(kept / (1 - kept)))
            return self

    return judged(
        study,
        lambda s: Sampled(
            random_state=s, threads=study.threads, hidden=(256, 64), dropout=0.5, positives=64,
            learning_rate=1e-3, max_steps=1600, validate_every=200,
        ),
    )  # fmt: skip


def hospitals(study: Study) -> dict[str, Any]:
    """Trained at one hospital, tested at the other, beside the clock there."""
    rows = leave_hospital_out(study.boosted, resamples=max(study.resamples, 1), known=False)
    return {
        f"{'+'.join(row['trained_at'])} -> {row['judged_at']}": {
            "utility": study.plain(row), "auroc": row["auroc"]
        }
        for row in rows
    }  # fmt: skip


def bedside(study: Study) -> dict[str, Any]:
    """Alarms of the anchor at the threshold that finds 60 % of validation patients."""
    if study.anchor is None or study.anchor_before is None:
        anchor(study)
    assert study.anchor is not None and study.anchor_before is not None
    split = study.split
    level = at_sensitivity(split.validation, study.anchor_before)
    found = {}
    for name, at in (
        ("threshold of validation", level),
        ("threshold of exactly 60 % on the test part", at_sensitivity(split.test, study.anchor)),
    ):
        fired = threshold_alarms(study.anchor, split.test.lengths, at, snooze=SNOOZE)
        metrics = alarm_metrics(split.test, fired, horizon=HORIZON)
        found[name] = {k: float(v) for k, v in metrics.values().items()}
        if study.resamples:
            table = metrics.table(resamples=study.resamples)
            found[name]["intervals"] = {
                r["metric"]: [r["lower"], r["upper"]] for r in table.iter_rows(named=True)
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Risk of sepsis, hour by hour.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--stays", type=int, help="only the first of each hospital, for a try")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    stays = registry.load("physionet2019")
    if args.stays:
        stays = concatenate([s.select(slice(0, args.stays)) for s in stays.by("hospital").values()])
    study = Study(stays, args.seeds, args.threads, args.resamples)
    result: dict[str, Any] = {}
    if args.out is not None and args.out.exists():
        result = json.loads(args.out.read_text())
    for part in args.parts:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        result[part] = globals()[part](study)
        now = resource.getrusage(resource.RUSAGE_SELF)
        seconds = now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime
        result[part]["cpu_seconds"] = round(seconds, 1)
        result[part]["about"] = machine("torch", "lightgbm", "scikit-learn")
        print(f"== {part}: {seconds:.0f} s of CPU, load {load()}, peak {peak_mib():.0f} MiB")
        print(json.dumps(result[part], indent=1)[:6000], flush=True)
        save(args.out, result)


if __name__ == "__main__":
    main()
